"""Records and runs that need neither a policy nor a simulation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from evaluation.plan import RunConfig, TrialSpec, trial_plan
from evaluation.policies import PolicyChoice
from evaluation.trial_log import TrialRecord

MakeRecord = Callable[[TrialSpec], TrialRecord]


@pytest.fixture
def config() -> RunConfig:
    """Two trials for each task and object."""
    return RunConfig((PolicyChoice("scripted", None, None, 128),), "fast", trials=2, seed=7)


@pytest.fixture
def plan(config: RunConfig) -> list[TrialSpec]:
    return list(trial_plan(config))


@pytest.fixture
def make_record() -> MakeRecord:
    """Records that succeed and fail in turn."""
    turn = itertools.cycle((True, False, False))

    def make(spec: TrialSpec) -> TrialRecord:
        success = next(turn)
        return TrialRecord(
            spec.policy, spec.task, spec.object, spec.trial, spec.seed, success,
            stage="placed" if success else "grasped",
            reason="success" if success else "timeout",
            message="the object is at its place" if success else "not <lifted> & 'held'",
            duration_s=5.0, wall_s=0.1, inference_ms=[10.0, 20.0],
            stage_times_ms={"picture_to_observation": [30.0], "picture_to_setpoint": [99.0]},
        )  # fmt: skip

    return make
