"""What a handful of trials says about success rates and about their differences.

`success_rate`: one rate. `differences`: two policies, matched or not. `stratified`: the same over
tasks and objects. `multiplicity`: many comparisons at once. `power`: before the trials.
`sequential`: a comparison that may stop early.
"""

from evaluation.statistics.success_rate import CONFIDENCE, SuccessRate

__all__ = ["CONFIDENCE", "SuccessRate"]
