"""Trials of a policy in simulation, live or fast: plans, outcomes, statistics, reports."""
