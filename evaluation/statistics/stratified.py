"""Differences pooled over strata (task and object), so that no mix of them decides.

The common difference is the Mantel-Haenszel one; its interval is the stratified Newcombe interval
of Yan and Su (Statistics in Biopharmaceutical Research 2, 2010, with these weights); the test is
Cochran, Mantel and Haenszel's without continuity correction. For matched starts every start is a
stratum of its own, and that test becomes McNemar's: see `evaluation.statistics.differences`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from scipy.stats import chi2, norm

from evaluation.statistics.differences import Difference
from evaluation.statistics.success_rate import CONFIDENCE

Z: Final = float(norm.ppf(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class Stratum:
    """Two policies' successes and trials on one task and object."""

    successes1: int
    trials1: int
    successes2: int
    trials2: int


def pooled_difference(strata: Sequence[Stratum]) -> Difference:
    """Mantel-Haenszel difference, stratified Newcombe interval, Cochran-Mantel-Haenszel test.

    Strata that only one policy met say nothing and are left out.

    Raises:
        ValueError: no stratum was met by both.
    """
    table = np.array(
        [(s.successes1, s.trials1, s.successes2, s.trials2) for s in strata
         if s.trials1 and s.trials2],
        dtype=float,
    )  # fmt: skip
    if not len(table):
        raise ValueError("no task and object was met by both policies")
    x1, n1, x2, n2 = table.T
    weights = n1 * n2 / (n1 + n2)
    weights = weights / weights.sum()
    p1, p2 = x1 / n1, x2 / n2
    low1, high1 = _stratified_wilson(p1, n1, weights)
    low2, high2 = _stratified_wilson(p2, n2, weights)
    spread1, spread2 = (float((weights**2 / n).sum()) for n in (n1, n2))
    estimate = float((weights * (p1 - p2)).sum())
    down = Z * sqrt(spread1 * low1 * (1 - low1) + spread2 * high2 * (1 - high2))
    up = Z * sqrt(spread1 * high1 * (1 - high1) + spread2 * low2 * (1 - low2))
    p_value = cochran_mantel_haenszel(strata)
    return Difference(estimate, max(estimate - down, -1.0), min(estimate + up, 1.0), p_value)


def cochran_mantel_haenszel(strata: Sequence[Stratum]) -> float:
    """Two-sided p-value: is the common odds ratio 1? 1.0 where nothing could tell."""
    excess = variance = 0.0
    for s in strata:
        total = s.trials1 + s.trials2
        successes = s.successes1 + s.successes2
        if s.trials1 == 0 or s.trials2 == 0 or successes in (0, total):
            continue
        excess += s.successes1 - successes * s.trials1 / total
        variance += (
            successes * (total - successes) * s.trials1 * s.trials2 / (total**2 * (total - 1))
        )
    return float(chi2.sf(excess**2 / variance, 1)) if variance else 1.0


def _stratified_wilson(
    rates: np.ndarray, trials: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Limits of the weighted mean of the rates: Wilson's of each stratum at a common, smaller z.

    Where every rate is 0 or 1 the strata's spreads are taken to be equal.
    """
    variances = rates * (1 - rates) / trials
    if not variances.any():
        variances = 1 / trials
    z = Z * np.sqrt((weights**2 * variances).sum()) / (weights * np.sqrt(variances)).sum()
    centre = (rates + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(rates * (1 - rates) / trials + z**2 / (4 * trials**2))
    low, high = float((weights * (centre - half)).sum()), float((weights * (centre + half)).sum())
    return max(low, 0.0), min(high, 1.0)
