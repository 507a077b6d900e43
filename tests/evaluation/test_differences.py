"""Differences of two rates against published tables, statsmodels and scipy."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.statistics.differences import (
    Pairs,
    barnard,
    mcnemar,
    paired_difference,
    unpaired_difference,
)
from evaluation.statistics.success_rate import SuccessRate

counts = st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
    lambda n: st.tuples(
        st.integers(0, n[0]), st.just(n[0]), st.integers(0, n[1]), st.just(n[1])
    )
)  # fmt: skip


def difference(x1: int, n1: int, x2: int, n2: int) -> tuple[float, float]:
    found = unpaired_difference(SuccessRate.of(x1, n1), SuccessRate.of(x2, n2))
    return found.low, found.high


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10.
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0000),
        ((10, 10, 0, 10), 0.6075, 1.0000),
    ],
)
def test_published_newcombe_intervals(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    assert difference(*table) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@settings(max_examples=25, deadline=None)
@given(counts)
def test_newcombe_agrees_with_statsmodels(table: tuple[int, int, int, int]) -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep  # heavy

    assert difference(*table) == pytest.approx(
        confint_proportions_2indep(*table, method="newcomb"), abs=1e-9
    )


def test_published_paired_interval() -> None:
    """Bentur et al. in Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), table 5."""
    found = paired_difference(Pairs(both=1, only_first=1, only_second=7, neither=12))
    assert found.estimate == pytest.approx(-0.286, abs=6e-4)
    assert found.low == pytest.approx(-0.507, abs=6e-4)
    assert found.high == pytest.approx(-0.026, abs=6e-4)
    # Exact conditional McNemar test, same source.
    assert found.p_value == pytest.approx(0.0703, abs=6e-5)


def test_pairs_that_always_agree_leave_a_narrower_interval_than_independent_trials() -> None:
    pairs = Pairs(both=40, only_first=8, only_second=0, neither=48)
    paired = paired_difference(pairs)
    independent = unpaired_difference(pairs.first, pairs.second)
    assert paired.estimate == pytest.approx(independent.estimate)
    assert paired.high - paired.low < 0.6 * (independent.high - independent.low)
    assert paired.p_value < 0.01 < independent.p_value


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_agrees_with_statsmodels(first: int, second: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as reference  # heavy

    assert mcnemar(first, second) == pytest.approx(
        min(float(reference([[5, first], [second, 5]], exact=True).pvalue), 1.0)
    )


@pytest.mark.parametrize(
    ("table", "p_value"),
    [
        # From the R package Barnard (Erguler), as in scipy's own tests.
        ((2, 10, 7, 9), 0.019210815430),
        ((5, 15, 1, 11), 0.156277546306),
        ((43, 53, 40, 79), 0.000362832367),
    ],
)
def test_published_barnard_tests(table: tuple[int, int, int, int], p_value: float) -> None:
    assert barnard(*table) == pytest.approx(p_value, rel=1e-3)


@pytest.mark.parametrize("table", [(0, 6, 6, 6), (3, 12, 9, 12), (1, 4, 4, 11), (10, 10, 10, 10)])
def test_barnard_agrees_with_scipy(table: tuple[int, int, int, int]) -> None:
    from scipy.stats import barnard_exact

    x1, n1, x2, n2 = table
    reference = barnard_exact([[x1, x2], [n1 - x1, n2 - x2]])
    assert barnard(*table) == pytest.approx(float(reference.pvalue), abs=2e-5)


def test_tables_exactly_as_extreme_count_in_barnards_test() -> None:
    """In floating point some of them would look less extreme: here in rational numbers."""
    n1, n2 = 8, 9

    def squared(x: int, y: int) -> Fraction:
        pooled = Fraction(x + y, n1 + n2)
        variance = pooled * (1 - pooled) * (Fraction(1, n1) + Fraction(1, n2))
        return (Fraction(x, n1) - Fraction(y, n2)) ** 2 / variance if variance else Fraction(0)

    extreme = [
        (x, y) for x in range(n1 + 1) for y in range(n2 + 1) if squared(x, y) >= squared(7, 3)
    ]
    worst = max(
        sum(comb(n1, x) * comb(n2, y) * p ** (x + y) * (1 - p) ** (n1 + n2 - x - y)
            for x, y in extreme)
        for p in np.linspace(0, 1, 2001)
    )  # fmt: skip
    assert barnard(7, n1, 3, n2) == pytest.approx(worst, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(counts)
def test_policies_may_change_places(table: tuple[int, int, int, int]) -> None:
    x1, n1, x2, n2 = table
    low, high = difference(x1, n1, x2, n2)
    assert difference(x2, n2, x1, n1) == pytest.approx((-high, -low))
    assert barnard(x1, n1, x2, n2) == pytest.approx(barnard(x2, n2, x1, n1), abs=1e-9)


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="no trials"):
        unpaired_difference(SuccessRate.of(0, 0), SuccessRate.of(1, 2))
    with pytest.raises(ValueError, match="no start"):
        paired_difference(Pairs(0, 0, 0, 0))
