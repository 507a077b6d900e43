"""Workers that die in the middle of a trial, and the timed backend of the bench."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from pathlib import Path

import pytest

from evaluation.bench import PARTS, TimedBackend
from evaluation.fast_backend import FastBackend, WorkersLost, run_trials
from evaluation.plan import RunConfig, TrialSpec
from evaluation.policies import PolicyChoice
from evaluation.trial_log import FinishedTrial, TrialRecord


class DyingBackend(FastBackend):
    """Kills its process on a trial whose bundle names a file that is there, and removes it."""

    def run(self, spec: TrialSpec) -> FinishedTrial:
        mark = Path(str(self._choices[spec.policy].bundle))
        if spec.trial == 1 and mark.exists():
            if mark.name == "once":
                mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        record = TrialRecord(
            **asdict(spec), success=True, stage="placed", reason="success", message="",
            duration_s=1.0, wall_s=0.0,
        )  # fmt: skip
        return record, None


def specs_of(mark: Path) -> tuple[RunConfig, list[TrialSpec]]:
    policy = PolicyChoice("p", str(mark), "hash", 128)
    config = RunConfig((policy,), "fast", 3, 0, ("box_to_bowl",), ("cup",))
    return config, [TrialSpec("p", "box_to_bowl", "cup", i, i) for i in range(3)]


@pytest.mark.slow
def test_a_worker_that_died_has_its_trial_run_again(tmp_path: Path) -> None:
    mark = tmp_path / "once"
    mark.touch()
    said: list[str] = []
    config, specs = specs_of(mark)
    finished = [r for r, _ in run_trials(config, specs, 1, said.append, DyingBackend)]
    assert sorted(r.trial for r in finished) == [0, 1, 2]
    assert said == ["a worker process died; its trial is run again"]


@pytest.mark.slow
def test_workers_that_always_die_are_given_up(tmp_path: Path) -> None:
    mark = tmp_path / "always"
    mark.touch()
    config, specs = specs_of(mark)
    with pytest.raises(WorkersLost, match="Try --workers 1"):
        list(run_trials(config, specs[1:2], 1, lambda _: None, DyingBackend))


def test_parts_of_a_trial_add_up_to_it() -> None:
    config = RunConfig((PolicyChoice("scripted", None, None, 32),), "fast", 1, 21, film="all")
    backend = TimedBackend(config)
    try:
        spec = TrialSpec("scripted", "box_to_bowl", "cup", 0, 21)
        record, film = backend.run(spec)
        plain, _ = FastBackend(config).run(spec)
    finally:
        backend.close()
    assert film is not None
    times = {part: ms for part in PARTS for ms in record.stage_times_ms[part]}
    assert sum(times.values()) == pytest.approx(1e3 * record.wall_s, abs=1.0)
    assert times["physics"] > 0.0
    assert times["rendering"] > 0.0
    assert times["inference"] == 0.0
    assert (record.success, record.duration_s) == (plain.success, plain.duration_s)
