"""A trial that the robot graph spoilt is repeated once; its record stays in the log."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Sequence
from pathlib import Path

from conftest import MakeRecord
from rich.console import Console

from evaluation.plan import RunConfig, TrialSpec
from evaluation.runner import Tell, run
from evaluation.trial_log import TRIALS, FinishedTrial


class SpoiltGraph:
    """Each trial's first `failures` runs end with an arm error."""

    def __init__(self, make_record: MakeRecord, failures: int) -> None:
        self._make_record, self._failures = make_record, failures
        self.runs = 0

    def __call__(
        self, config: RunConfig, specs: Sequence[TrialSpec], tell: Tell
    ) -> Generator[FinishedTrial]:
        self.runs += 1
        for spec in specs:
            record = self._make_record(spec)
            if self.runs <= self._failures and spec.trial == 0:
                record = dataclasses.replace(record, success=False, reason="arm_error")
            yield record, None


def finished(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / TRIALS).read_text().splitlines()]


def test_a_spoilt_trial_is_repeated_and_counts_once(
    config: RunConfig, make_record: MakeRecord, tmp_path: Path
) -> None:
    graph = SpoiltGraph(make_record, failures=1)
    summary, results = run(config, tmp_path, graph, Console(quiet=True))
    assert graph.runs == 2
    assert summary["trials"] == len(results.records) == 32
    assert not any(record.reason == "arm_error" for record in results.records)
    assert sum(line["reason"] == "arm_error" for line in finished(tmp_path)) == 16


def test_a_trial_that_is_spoilt_again_stands(
    config: RunConfig, make_record: MakeRecord, tmp_path: Path
) -> None:
    graph = SpoiltGraph(make_record, failures=9)
    _, results = run(config, tmp_path, graph, Console(quiet=True))
    assert graph.runs == 2
    assert sum(record.reason == "arm_error" for record in results.records) == 16
