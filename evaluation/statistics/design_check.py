"""The sequential design on trial: its error rate and what it saves, by simulated experiments."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from evaluation.statistics.power import mcnemar_power
from evaluation.statistics.sequential import SequentialDesign

EQUAL_RATES: Final = (0.05, 0.2, 0.34, 0.5, 0.8, 0.95)
"""Success rates of two equal policies under which a decision is an error."""
DIFFERENCES: Final = ((0.5, 0.55), (0.5, 0.6), (0.34, 0.5), (0.5, 0.7), (0.3, 0.6), (0.92, 1.0))
EXPERIMENTS: Final = 10_000
BATCH: Final = 2_000


@dataclass(frozen=True)
class Measured:
    """What `experiments` simulated comparisons did at two true rates.

    linked: share of starts that both policies fail or win together, apart from chance.
    decided: share that called one of them better. mean_starts: of each experiment.
    fixed_power: of McNemar's exact test after all planned starts, independent outcomes.
    """

    rate1: float
    rate2: float
    linked: float
    experiments: int
    decided: float
    decided_interval: tuple[float, float]
    mean_starts: float
    saved: float
    fixed_power: float


def check_design(
    design: SequentialDesign, experiments: int = EXPERIMENTS, seed: int = 0
) -> dict[str, Any]:
    """Error rate between equal policies and savings for unequal ones, ready for JSON."""
    rng = np.random.default_rng(seed)
    equal = [measure(design, r, r, linked, experiments, rng)
             for r in EQUAL_RATES for linked in (0.0, 0.5)]  # fmt: skip
    # The hardest case: the policies differ on every start, and either wins with chance 1/2.
    coin = rng.choice(np.array([-1, 1], np.int8), (experiments, design.starts))
    equal.append(_measured(design, 0.5, 0.5, -1.0, coin))
    unequal = [measure(design, a, b, 0.0, experiments, rng) for a, b in DIFFERENCES]
    worst = max(equal, key=lambda m: m.decided)
    return {
        "design": asdict(design),
        "experiments": experiments,
        "seed": seed,
        "exact_worst_error": design.worst_error,
        "measured_worst_error": worst.decided,
        "measured_worst_error_interval": list(worst.decided_interval),
        "holds": worst.decided_interval[0] <= design.alpha,
        "mean_saved_when_equal": float(np.mean([m.saved for m in equal])),
        "mean_saved_when_different": float(np.mean([m.saved for m in unequal])),
        "equal": [asdict(m) for m in equal],
        "different": [asdict(m) for m in unequal],
    }


def measure(
    design: SequentialDesign, rate1: float, rate2: float, linked: float, experiments: int,
    rng: np.random.Generator,
) -> Measured:  # fmt: skip
    """Simulate comparisons of two policies with these true rates."""
    outcomes = [
        draw_outcomes(rate1, rate2, linked, (min(BATCH, experiments - i), design.starts), rng)
        for i in range(0, experiments, BATCH)
    ]
    return _measured(design, rate1, rate2, linked, np.concatenate(outcomes))


def draw_outcomes(
    rate1: float, rate2: float, linked: float, shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.int8]:
    """1 where only the first policy succeeds, -1 only the second, 0 otherwise.

    A share `linked` of the starts is equally hard for both: one draw decides for both policies.
    """
    first = rng.random(shape)
    second = np.where(rng.random(shape) < linked, first, rng.random(shape))
    return (first < rate1).astype(np.int8) - (second < rate2).astype(np.int8)


def _measured(
    design: SequentialDesign, rate1: float, rate2: float, linked: float, outcomes: NDArray[np.int8]
) -> Measured:
    starts, verdicts = design.stops(outcomes)
    decided = int(np.count_nonzero(verdicts))
    interval = binomtest(decided, len(outcomes)).proportion_ci(method="wilson")
    mean = float(starts.mean())
    return Measured(
        rate1, rate2, linked, len(outcomes), decided / len(outcomes),
        (float(interval.low), float(interval.high)), mean, 1 - mean / design.starts,
        mcnemar_power(design.starts, rate1, rate2, design.alpha),
    )  # fmt: skip
