"""How long an evaluation on the fast simulation takes, and what the time goes into."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np

from contracts.geometry import Vector
from evaluation.fast_backend import FastBackend, run_trials
from evaluation.plan import RunConfig, TrialSpec
from evaluation.statistics import SuccessRate
from evaluation.trial_log import FinishedTrial
from evaluation.trial_order import order_trials
from simulation.fast import FastSimulation

PARTS: Final = ("physics", "rendering", "inference", "rest")
WHOLE_TRIALS: Final = 384
WHOLE_SECONDS: Final = 480.0
"""The evaluation that must fit into this time on two cores."""


class TimedSimulation(FastSimulation):
    """Counts the seconds of physics (with the arm's inverse kinematics) and of drawing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.seconds = dict.fromkeys(("physics", "rendering"), 0.0)
        super().__init__(*arguments, **options)

    def advance(self, pose: Vector, gripper: float) -> None:
        with self._counted("physics"):
            super().advance(pose, gripper)

    def images(self) -> dict[str, np.ndarray]:
        with self._counted("rendering"):
            return super().images()

    @contextmanager
    def _counted(self, part: str) -> Generator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started


class TimedBackend(FastBackend):
    """Gives each trial's milliseconds by part in its record's `stage_times_ms`."""

    simulation_type = TimedSimulation

    def run(self, spec: TrialSpec) -> FinishedTrial:
        before = self._totals()
        record, film = super().run(spec)
        spent = {part: 1e3 * (now - before[part]) for part, now in self._totals().items()}
        spent["inference"] = float(sum(record.inference_ms))
        spent["rest"] = 1e3 * record.wall_s - sum(spent.values())
        times = {part: [ms] for part, ms in spent.items()}
        return replace(record, stage_times_ms=times), film

    def _totals(self) -> dict[str, float]:
        totals = dict.fromkeys(("physics", "rendering"), 0.0)
        for simulation in self._simulations.values():
            if isinstance(simulation, TimedSimulation):
                for part in totals:
                    totals[part] += simulation.seconds[part]
        return totals


def measure_run(
    config: RunConfig, workers: int, tell: Callable[[int, int], None]
) -> dict[str, Any]:
    """Run every trial of `config`; `tell` is called with trials done and to do.

    Times of parts are sums over all workers; `wall_seconds` also holds their start.
    """
    specs = [trial.spec for trial in order_trials(config)]
    records = []
    started = time.perf_counter()
    for record, _ in run_trials(config, specs, workers, lambda _: None, TimedBackend):
        records.append(record)
        tell(len(records), len(specs))
    wall = time.perf_counter() - started
    seconds = {
        part: sum(1e-3 * ms for r in records for ms in r.stage_times_ms[part]) for part in PARTS
    }
    rate = SuccessRate.of(sum(r.success for r in records), len(records))
    return {
        "policies": [policy.name for policy in config.policies],
        "trials": len(records),
        "workers": workers,
        "wall_seconds": round(wall, 2),
        "seconds_a_trial": round(wall / len(records), 3),
        "worker_seconds": {part: round(value, 2) for part, value in seconds.items()},
        "share": _shares(seconds),
        f"minutes_for_{WHOLE_TRIALS}": round(WHOLE_TRIALS * wall / len(records) / 60, 2),
        "within_limit": wall <= WHOLE_SECONDS if len(records) == WHOLE_TRIALS else None,
        **rate.as_json(),
    }


def _shares(seconds: Mapping[str, float]) -> dict[str, float]:
    total = sum(seconds.values())
    return {part: round(value / total, 4) for part, value in seconds.items()}
