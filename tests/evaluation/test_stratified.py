"""Differences pooled over strata against published results and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.statistics.differences import unpaired_difference
from evaluation.statistics.multiplicity import holm
from evaluation.statistics.stratified import Stratum, cochran_mantel_haenszel, pooled_difference
from evaluation.statistics.success_rate import SuccessRate

ADMISSIONS = [  # Bickel et al., Science 187 (1975): men and women, six departments
    (512, 825, 89, 108), (353, 560, 17, 25), (120, 325, 202, 593),
    (138, 417, 131, 375), (53, 191, 94, 393), (22, 373, 24, 341),
]  # fmt: skip


def test_published_stratified_newcombe_interval() -> None:
    """The example that the R package `tern` holds against SAS's PROC FREQ."""
    table = [
        (8, 9, 3, 6), (2, 5, 2, 5), (6, 7, 3, 8), (4, 4, 6, 12), (5, 7, 3, 4), (5, 8, 3, 5)
    ]  # fmt: skip
    found = pooled_difference([Stratum(*row) for row in table])
    assert found.estimate == pytest.approx(0.25390590, abs=1e-7)
    assert found.low == pytest.approx(0.03467969, abs=1e-6)
    assert found.high == pytest.approx(0.44544132, abs=1e-6)


def test_published_mantel_haenszel_test() -> None:
    """R's documentation of mantelhaen.test, without continuity correction: p = 0.2169."""
    strata = [Stratum(*row) for row in ADMISSIONS]
    assert cochran_mantel_haenszel(strata) == pytest.approx(0.2169, abs=6e-5)


def test_mantel_haenszel_agrees_with_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import StratifiedTable  # heavy

    rng = np.random.default_rng(1)
    for _ in range(20):
        trials = rng.integers(3, 30, (5, 2))
        successes = rng.binomial(trials, rng.uniform(0.1, 0.9, (5, 2)))
        tables = [
            np.array([[x[0], n[0] - x[0]], [x[1], n[1] - x[1]]])
            for x, n in zip(successes, trials, strict=True)
        ]
        strata = [
            Stratum(int(x[0]), int(n[0]), int(x[1]), int(n[1]))
            for x, n in zip(successes, trials, strict=True)
        ]
        reference = StratifiedTable(tables).test_null_odds(correction=False)
        assert cochran_mantel_haenszel(strata) == pytest.approx(float(reference.pvalue))


def test_one_stratum_is_newcombes_own_interval() -> None:
    pooled = pooled_difference([Stratum(56, 70, 48, 80)])
    plain = unpaired_difference(SuccessRate.of(56, 70), SuccessRate.of(48, 80))
    assert (pooled.low, pooled.high) == pytest.approx((plain.low, plain.high), abs=1e-9)


def test_strata_undo_a_misleading_mix() -> None:
    """Simpson's paradox: better on either object, worse on the mix."""
    strata = [Stratum(9, 10, 80, 100), Stratum(30, 100, 2, 10)]
    assert 39 / 110 < 82 / 110
    assert pooled_difference(strata).estimate == pytest.approx(0.1)


def test_certain_strata_have_an_interval_and_empty_ones_do_not_count() -> None:
    found = pooled_difference([Stratum(6, 6, 6, 6), Stratum(6, 6, 6, 6), Stratum(0, 0, 3, 6)])
    assert found.estimate == 0.0
    assert -0.5 < found.low < -0.05
    assert 0.05 < found.high < 0.5
    assert found.p_value == 1.0
    with pytest.raises(ValueError, match="met by both"):
        pooled_difference([Stratum(0, 0, 3, 6)])


def test_holm_agrees_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests  # heavy

    rng = np.random.default_rng(2)
    for size in (1, 2, 8, 40):
        p_values = rng.uniform(0, 1, size) ** 3
        reference = multipletests(p_values, method="holm")[1]
        assert holm(p_values.tolist()) == pytest.approx(reference.tolist())
    assert holm([]) == []
