"""Intervals against published values and against statsmodels."""

from __future__ import annotations

import pytest

from evaluation.statistics import SuccessRate


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (69, 96, 0.622, 0.799),
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_wilson_intervals(successes: int, trials: int, low: float, high: float) -> None:
    rate = SuccessRate.of(successes, trials)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))
    assert rate.rate == successes / trials


def test_agrees_with_statsmodels() -> None:
    from statsmodels.stats import proportion  # heavy: only this test needs it

    for trials in (1, 4, 24, 96, 320):
        for successes in {0, 1, trials // 3, trials - 1, trials}:
            low, high = proportion.proportion_confint(successes, trials, method="wilson")
            rate = SuccessRate.of(successes, trials)
            assert rate.low == pytest.approx(low, abs=1e-9)
            assert rate.high == pytest.approx(high, abs=1e-9)


def test_no_trial_says_nothing() -> None:
    rate = SuccessRate.of(0, 0)
    assert (rate.rate, rate.low, rate.high) == (None, 0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes of"):
        SuccessRate.of(successes, trials)
