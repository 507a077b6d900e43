"""Two policies' success rates compared: matched starts (pairs) or independent trials.

Intervals of a difference are Newcombe's hybrids of two Wilson intervals (Statistics in Medicine 17,
1998: pages 873-890, method 10, independent; pages 2635-2650, method 10, paired). Tests are exact:
McNemar's on the pairs that differ, Barnard's on independent trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from scipy.stats import binom, binomtest

from evaluation.statistics.success_rate import SuccessRate

GRID: Final = 1000
"""Values of the unknown common rate that Barnard's test looks at before it refines the worst."""
TIE: Final = 1e-9
"""Statistics this close count as equal; otherwise rounding would decide about ties."""


@dataclass(frozen=True)
class Difference:
    """First rate minus second, with its 95 % interval [low, high] and a two-sided p-value."""

    estimate: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Pairs:
    """Outcomes of two policies from the same starts, counted."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool]]) -> Pairs:
        """Count (first succeeded, second succeeded) of every start."""
        counted = Counter((bool(first), bool(second)) for first, second in outcomes)
        return cls(
            both=counted[True, True],
            only_first=counted[True, False],
            only_second=counted[False, True],
            neither=counted[False, False],
        )

    @property
    def total(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first(self) -> SuccessRate:
        return SuccessRate.of(self.both + self.only_first, self.total)

    @property
    def second(self) -> SuccessRate:
        return SuccessRate.of(self.both + self.only_second, self.total)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value: are the two kinds of differing pairs equally likely?"""
    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def paired_difference(pairs: Pairs) -> Difference:
    """Newcombe's interval for matched starts, and McNemar's exact test.

    Raises:
        ValueError: there are no pairs.
    """
    if not pairs.total:
        raise ValueError("no start was met by both policies")
    correlation = _correlation(pairs)
    low, high = _newcombe(pairs.first, pairs.second, correlation)
    estimate = (pairs.only_first - pairs.only_second) / pairs.total
    return Difference(estimate, low, high, mcnemar(pairs.only_first, pairs.only_second))


def unpaired_difference(first: SuccessRate, second: SuccessRate) -> Difference:
    """Newcombe's interval for independent trials, and Barnard's exact test.

    Raises:
        ValueError: one of the two has no trials.
    """
    if first.rate is None or second.rate is None:
        raise ValueError("one of the policies has no trials")
    low, high = _newcombe(first, second, 0.0)
    p_value = barnard(first.successes, first.trials, second.successes, second.trials)
    return Difference(first.rate - second.rate, low, high, p_value)


def barnard(successes1: int, trials1: int, successes2: int, trials2: int) -> float:
    """Two-sided p-value of Barnard's unconditional exact test with the pooled Wald statistic.

    As scipy.stats.barnard_exact, whose optimiser takes seconds for some hundred trials each; here
    the tables at least as extreme are summed for many values of the nuisance rate at once.
    """
    extremeness = np.abs(_pooled_wald(trials1, trials2))
    extreme = (extremeness >= extremeness[successes1, successes2] - TIE).astype(float)
    if extreme.all():
        return 1.0
    low, high = 0.0, 1.0
    best = 0.0
    for _ in range(3):
        rates = np.linspace(low, high, GRID + 1)
        first = binom.pmf(np.arange(trials1 + 1)[:, None], trials1, rates)
        second = binom.pmf(np.arange(trials2 + 1)[:, None], trials2, rates)
        chances = (first * (extreme @ second)).sum(axis=0)
        worst = int(chances.argmax())
        best = max(best, float(chances[worst]))
        low, high = float(rates[max(worst - 1, 0)]), float(rates[min(worst + 1, GRID)])
    return min(best, 1.0)


def _pooled_wald(trials1: int, trials2: int) -> np.ndarray:
    """Statistic (trials1 + 1, trials2 + 1) of every possible table; 0 where the rates are equal."""
    x = np.arange(trials1 + 1)[:, None]
    y = np.arange(trials2 + 1)[None]
    pooled = (x + y) / (trials1 + trials2)
    variance = pooled * (1 - pooled) * (1 / trials1 + 1 / trials2)
    difference = x / trials1 - y / trials2
    return np.divide(
        difference, np.sqrt(variance), out=np.zeros_like(difference), where=variance > 0
    )


def _newcombe(first: SuccessRate, second: SuccessRate, correlation: float) -> tuple[float, float]:
    p1, p2 = first.rate or 0.0, second.rate or 0.0
    below1, above1 = p1 - first.low, first.high - p1
    below2, above2 = p2 - second.low, second.high - p2
    down = below1**2 - 2 * correlation * below1 * above2 + above2**2
    up = above1**2 - 2 * correlation * above1 * below2 + below2**2
    difference = p1 - p2
    return difference - sqrt(max(down, 0.0)), difference + sqrt(max(up, 0.0))


def _correlation(pairs: Pairs) -> float:
    """Newcombe's phi: with a continuity correction where it is positive."""
    first, second, n = pairs.first, pairs.second, pairs.total
    product = (
        first.successes * (n - first.successes) * second.successes * (n - second.successes)
    )  # fmt: skip
    if not product:
        return 0.0
    cross = pairs.both * pairs.neither - pairs.only_first * pairs.only_second
    corrected = max(cross - n / 2, 0.0) if cross > 0 else float(cross)
    return corrected / sqrt(product)
