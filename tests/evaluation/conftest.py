"""Records and runs that need neither a policy nor a simulation."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest

from evaluation.plan import RunConfig, TrialSpec, trial_plan
from evaluation.policies import PolicyChoice
from evaluation.runner import Backend
from evaluation.trial_log import FinishedTrial, TrialRecord

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


@pytest.fixture
def pair_config() -> RunConfig:
    """Two policies, two trials for each task and object, on the fast backend."""
    policies = tuple(PolicyChoice(name, name, f"hash of {name}", 128) for name in ("one", "two"))
    return RunConfig(policies, "fast", trials=2, seed=7)


@pytest.fixture
def backend() -> Backend:
    """Runs nothing: `one` succeeds on most starts, `two` on fewer, both as the seed decides."""

    def run(config: RunConfig, specs: Sequence[TrialSpec], tell: object) -> Iterator[FinishedTrial]:
        bundles = {choice.name: choice.bundle for choice in config.policies}
        for spec in specs:
            yield outcome_of(spec, str(bundles[spec.policy])), None

    return run


def outcome_of(
    spec: TrialSpec, bundle: str, rates: tuple[float, float] = (0.8, 0.4)
) -> TrialRecord:
    """The same outcome for the same start and bundle, whatever label the policy has."""
    key = f"{bundle} {spec.task} {spec.object} {spec.trial} {spec.seed}".encode()
    draw = int.from_bytes(hashlib.sha256(key).digest()[:4], "big") / 2**32
    success = draw < (0.4 if bundle == "two" else 0.8)
    return TrialRecord(
        **dataclasses.asdict(spec), success=success, stage="placed" if success else "lifted",
        reason="success" if success else "timeout", message="it went so",
        duration_s=round(5 + draw, 3), wall_s=0.1,
    )  # fmt: skip
