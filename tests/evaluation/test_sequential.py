"""The sequential design: its error rate, exact and simulated, and its decisions."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.statistics.design_check import check_design, draw_outcomes, measure
from evaluation.statistics.power import detectable_difference, interval_half_width, mcnemar_power
from evaluation.statistics.sequential import SequentialDesign, Stop, crossing_probability

STARTS = 48


@pytest.fixture(scope="module")
def design() -> SequentialDesign:
    return SequentialDesign(STARTS)


def test_crossing_probability_counts_every_path() -> None:
    needed = SequentialDesign(10, alpha=0.3).needed_lead
    for win in (0.5, 0.8):
        expected = 0.0
        for path in product((1, -1), repeat=10):
            leads = np.cumsum(path)
            if (np.abs(leads) >= needed[1:]).any():
                ups = path.count(1)
                expected += win**ups * (1 - win) ** (10 - ups)
        assert crossing_probability(needed, win) == pytest.approx(expected)
    assert crossing_probability(needed) > 0.0


@pytest.mark.parametrize(("starts", "alpha"), [(6, 0.05), (24, 0.05), (96, 0.05), (96, 0.01)])
def test_exact_error_rate_is_within_its_nominal_level(starts: int, alpha: float) -> None:
    worst = SequentialDesign(starts, alpha).worst_error
    assert worst <= alpha
    assert worst > 0.5 * alpha or starts < 24


def test_simulated_error_rate_is_within_its_nominal_level(design: SequentialDesign) -> None:
    """Over 10 000 experiments for each pair of equal rates, and for fair coins."""
    found = check_design(design, experiments=10_000, seed=0)
    assert found["measured_worst_error"] <= design.alpha
    assert found["holds"]
    assert found["mean_saved_when_equal"] > 0.3
    assert found["mean_saved_when_different"] > 0.3


def test_simulation_agrees_with_the_exact_error_rate() -> None:
    unstopped = SequentialDesign(STARTS, futility=0.0)
    coins = np.random.default_rng(3).choice(np.array([-1, 1], np.int8), (10_000, STARTS))
    wrong = int(np.count_nonzero(unstopped.stops(coins)[1]))
    interval = binomtest(wrong, 10_000).proportion_ci(0.999)
    assert interval.low <= unstopped.worst_error <= interval.high


def test_a_real_difference_is_found_early(design: SequentialDesign) -> None:
    found = measure(design, 0.9, 0.3, 0.0, 2000, np.random.default_rng(0))
    assert found.decided > 0.99
    assert found.saved > 0.6


def test_giving_up_never_makes_more_errors() -> None:
    outcomes = draw_outcomes(0.5, 0.5, 0.0, (4000, STARTS), np.random.default_rng(1))
    patient = SequentialDesign(STARTS, futility=0.0).stops(outcomes)
    design = SequentialDesign(STARTS).stops(outcomes)
    assert (design[0] <= patient[0]).all()
    assert np.count_nonzero(design[1]) <= np.count_nonzero(patient[1])


def test_one_experiment_is_decided_as_many_are(design: SequentialDesign) -> None:
    rng = np.random.default_rng(5)
    outcomes = draw_outcomes(0.5, 0.7, 0.0, (60, STARTS), rng)
    starts, verdicts = design.stops(outcomes)
    for row, end, verdict in zip(outcomes, starts, verdicts, strict=True):
        stop = design.decide(row.tolist())
        assert stop is not None
        assert stop.starts == end
        assert (stop.decision == "first") == (verdict == 1)
        assert (stop.decision == "second") == (verdict == -1)
        assert design.decide(row[: end - 1].tolist()) is None


def test_decisions(design: SequentialDesign) -> None:
    assert design.decide([]) is None
    assert design.decide([1] * 4) is None
    won = design.decide([1] * STARTS)
    lost = design.decide([-1] * STARTS)
    assert won is not None
    assert lost == Stop(won.starts, "second")
    assert won.decision == "first"
    assert design.decide([0] * STARTS) == Stop(STARTS // 4, "futile")
    assert SequentialDesign(8, futility=0.0).decide([0] * 8) == Stop(8, "no difference")


@pytest.mark.parametrize("wrong", [{"starts": 0}, {"starts": 9, "alpha": 1.0}])
def test_impossible_designs(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|not a probability"):
        SequentialDesign(**wrong)  # type: ignore[arg-type]


def test_power_is_the_share_of_significant_experiments() -> None:
    outcomes = draw_outcomes(0.6, 0.3, 0.0, (4000, 60), np.random.default_rng(7))
    wins, losses = (outcomes == 1).sum(axis=1), (outcomes == -1).sum(axis=1)
    significant = cache(lambda w, n: bool(n) and binomtest(w, n).pvalue <= 0.05)
    found = sum(significant(int(w), int(w + v)) for w, v in zip(wins, losses, strict=True))
    interval = binomtest(found, 4000).proportion_ci(0.999)
    assert interval.low <= mcnemar_power(60, 0.6, 0.3) <= interval.high


def test_more_starts_show_more() -> None:
    assert mcnemar_power(384, 0.5, 0.5) <= 0.05
    differences = [detectable_difference(n, 0.5) for n in (24, 96, 384)]
    assert None not in differences
    assert differences == sorted(differences, reverse=True)  # type: ignore[type-var]
    power = mcnemar_power(96, 0.5, 0.5 + (differences[1] or 0.0))
    assert 0.8 <= power < 0.85
    assert detectable_difference(4, 0.5) is None
    assert interval_half_width(384) < interval_half_width(24)
