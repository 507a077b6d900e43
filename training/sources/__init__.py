"""Readers of the data sets of the paper's Appendix A.3, each in its own published layout.

A module a layout; its `read(folder)` gives `records.Records`: indexable samples, so that any order,
shard or resumed run is a matter of indices (`training.mixture`).
"""
