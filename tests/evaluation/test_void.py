"""A spoilt trial is taken back with a reason and run again; nothing is scored twice."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from evaluation.__main__ import main
from evaluation.plan import RunConfig, TrialSpec
from evaluation.results import load_results
from evaluation.runner import Backend, run
from evaluation.trial_log import LogError, TrialLog
from evaluation.trial_plan import prepare

CONSOLE = Console(file=io.StringIO())


@pytest.fixture
def started(tmp_path: Path, pair_config: RunConfig, backend: Backend) -> Path:
    """A run whose first ten trials are scored."""
    plan = prepare(tmp_path, pair_config)
    with TrialLog(tmp_path, pair_config.as_json(), plan.specs) as log:
        log.begin(plan.hash)
        for record, _ in backend(plan.config, plan.specs[:10], print):
            log.append(record)
    return tmp_path


def test_a_voided_trial_is_repeated(
    started: Path, pair_config: RunConfig, backend: Backend
) -> None:
    before = (started / "trials.jsonl").read_bytes()
    assert main(["void", str(started), "--number", "3", "--reason", "the cable was caught"]) == 0
    results = load_results(started)
    assert len(results.records) == 9
    assert [v.reason for v in results.voided] == ["the cable was caught"]
    assert (started / "trials.jsonl").read_bytes() == before

    summary, whole = run(pair_config, started, backend, CONSOLE)
    lines = (started / "trials.jsonl").read_bytes()
    assert lines.startswith(before)
    assert lines.count(b"\n") == 65
    assert summary["complete"]
    assert len(whole.records) == 64
    assert len(whole.voided) == 1
    assert "the cable was caught" in (started / "report.html").read_text()
    undisturbed, _ = run(pair_config, started / "other", backend, CONSOLE)
    assert undisturbed["policies"] == summary["policies"]


def test_a_trial_can_be_voided_again_and_again(started: Path, pair_config: RunConfig) -> None:
    plan = prepare(started, pair_config)
    for i in range(3):
        with TrialLog(started, pair_config.as_json(), plan.specs) as log:
            record = load_results(started).records[0]
            log.void(record.spec, f"reason {i}")
            log.append(record)
            with pytest.raises(LogError, match="scored twice"):
                log.append(record)
    results = load_results(started)
    assert len(results.records) == 10
    assert [v.reason for v in results.voided] == ["reason 0", "reason 1", "reason 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--number", "65", "--reason", "late"], "must be 1 to 64"),
        (["--number", "1", "--reason", " "], "only with a reason"),
    ],
)
def test_bad_voids(
    started: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["void", str(started), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert len(load_results(started).records) == 10


def test_nothing_is_voided_once_the_key_is_open(
    started: Path, pair_config: RunConfig, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    run(pair_config, started, backend, CONSOLE)
    assert main(["void", str(started), "--number", "1", "--reason", "I do not like it"]) == 2
    assert "the key is open" in capsys.readouterr().err


def test_a_damaged_event_is_named(started: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (started / "events.jsonl").open("a") as file:
        file.write("{}\n")
    assert main(["report", str(started)]) == 2
    assert "events.jsonl, line 2" in capsys.readouterr().err.replace("\n", "")
    json.loads((started / "plan.json").read_text())


@pytest.mark.parametrize(("name", "lines"), [("live", 17), ("fast", 16)])
def test_only_what_the_live_graph_spoilt_is_run_again(
    tmp_path: Path, pair_config: RunConfig, backend: Backend, name: str, lines: int
) -> None:
    """In process a trial without a usable chunk is the policy's own failure."""
    config = dataclasses.replace(
        pair_config, policies=pair_config.policies[:1], backend=name, tasks=("box_to_bowl",),
        objects=("cup", "box"), trials=8,
    )  # fmt: skip
    spoilt = iter([True])

    def spoiling(config: RunConfig, specs: Sequence[TrialSpec], tell: object) -> object:
        for record, film in backend(config, specs, tell):  # type: ignore[arg-type]
            bad = {"success": False, "reason": "policy_error"} if next(spoilt, False) else {}
            yield dataclasses.replace(record, **bad), film

    summary, results = run(config, tmp_path, spoiling, CONSOLE)  # type: ignore[arg-type]
    assert summary["complete"]
    assert len(results.records) == 16
    assert len(results.voided) == lines - 16
    assert (tmp_path / "trials.jsonl").read_bytes().count(b"\n") == lines
