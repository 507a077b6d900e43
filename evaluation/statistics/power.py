"""What a number of trials can show, asked before the first of them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from scipy.stats import binom

from evaluation.statistics.success_rate import SuccessRate

ALPHA: Final = 0.05
WANTED_POWER: Final = 0.8
STEP: Final = 0.005
"""Differences of success rates are looked through in steps of half a per cent."""


def mcnemar_power(pairs: int, rate1: float, rate2: float, alpha: float = ALPHA) -> float:
    """Chance that McNemar's exact test finds the difference of two rates in `pairs` starts.

    The policies' outcomes on one start are taken as independent; starts that are hard for both
    leave fewer pairs that differ by chance and so more power.
    """
    first, second = rate1 * (1 - rate2), (1 - rate1) * rate2
    differing = first + second
    if differing <= 0.0:
        return 0.0
    counts = np.arange(pairs + 1)
    critical = _critical_values(pairs, alpha)
    share = first / differing
    # Reject where the rarer kind occurs at most `critical` times, whichever it is.
    reject = binom.cdf(critical, counts, share) + binom.cdf(critical, counts, 1 - share)
    reject = np.where(critical < 0, 0.0, np.minimum(reject, 1.0))
    return float((binom.pmf(counts, pairs, differing) * reject).sum())


def detectable_difference(
    pairs: int, rate: float, power: float = WANTED_POWER, alpha: float = ALPHA
) -> float | None:
    """Smallest difference from `rate` (towards 0.5 and beyond) found with this power, or None."""
    towards = 1.0 if rate <= 0.5 else -1.0
    room = 1.0 - rate if towards > 0 else rate
    for difference in np.arange(STEP, room + STEP / 2, STEP):
        if mcnemar_power(pairs, rate, rate + towards * float(difference), alpha) >= power:
            return float(difference)
    return None


def interval_half_width(trials: int, rate: float = 0.5) -> float:
    """Half the width of the 95 % Wilson interval after `trials` trials at about `rate`."""
    found = SuccessRate.of(round(rate * trials), trials)
    return (found.high - found.low) / 2


@lru_cache(maxsize=32)
def _critical_values(pairs: int, alpha: float) -> np.ndarray:
    """For each number of differing pairs: the largest rarer count that rejects, or -1."""
    counts = np.arange(pairs + 1)
    critical = binom.ppf(alpha / 2, counts, 0.5).astype(int)
    # ppf is the first count whose cdf reaches alpha / 2; only an exact hit itself rejects.
    hit = binom.cdf(critical, counts, 0.5) <= alpha / 2
    return np.asarray(np.where(hit, critical, critical - 1))
