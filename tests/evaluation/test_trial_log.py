"""No scored trial is lost, counted twice or mixed with another run's."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.plan import RunConfig, TrialSpec
from evaluation.trial_log import LogError, TrialLog, TrialRecord

MakeRecord = Callable[[TrialSpec], TrialRecord]


def write(directory: Path, config: RunConfig, plan: list[TrialSpec], make: MakeRecord) -> None:
    with TrialLog(directory, config.as_json(), plan) as log:
        for spec in plan:
            log.append(make(spec))


def test_records_come_back(
    tmp_path: Path, config: RunConfig, plan: list[TrialSpec], make_record: MakeRecord
) -> None:
    with TrialLog(tmp_path, config.as_json(), plan) as log:
        record = make_record(plan[0])
        log.append(record)
    with TrialLog(tmp_path, config.as_json(), plan) as log:
        assert dataclasses.asdict(log.records[plan[0].key]) == dataclasses.asdict(record)


def test_cut_at_any_byte_loses_only_the_line_being_written(
    tmp_path: Path, config: RunConfig, plan: list[TrialSpec], make_record: MakeRecord
) -> None:
    write(tmp_path, config, plan, make_record)
    whole = (tmp_path / "trials.jsonl").read_bytes()
    for cut in random.Random(0).sample(range(len(whole)), 50):
        (tmp_path / "trials.jsonl").write_bytes(whole[:cut])
        with TrialLog(tmp_path, config.as_json(), plan) as log:
            assert len(log.records) == whole[:cut].count(b"\n")


def test_another_configuration_is_refused(
    tmp_path: Path, config: RunConfig, plan: list[TrialSpec], make_record: MakeRecord
) -> None:
    write(tmp_path, config, plan, make_record)
    before = (tmp_path / "trials.jsonl").read_bytes()
    changed = dataclasses.replace(config, seed=8)
    with pytest.raises(LogError, match=r"another 'seed' \(7, not 8\)"):
        TrialLog(tmp_path, changed.as_json(), plan)
    assert (tmp_path / "trials.jsonl").read_bytes() == before


def test_changed_bundle_is_refused(
    tmp_path: Path, config: RunConfig, plan: list[TrialSpec], make_record: MakeRecord
) -> None:
    write(tmp_path, config, plan, make_record)
    policy = dataclasses.replace(config.policies[0], bundle_hash="other")
    changed = dataclasses.replace(config, policies=(policy,))
    with pytest.raises(LogError, match="another 'policies'"):
        TrialLog(tmp_path, changed.as_json(), plan)


@pytest.mark.parametrize(
    ("line", "message"),
    [("no json", "line 33: not a trial's record"), ('{"what": 1}', "unknown fields"),
     ("[]", "line 33"), ("first", "scored twice")],
)  # fmt: skip
def test_damaged_line_is_named(
    tmp_path: Path, config: RunConfig, plan: list[TrialSpec], make_record: MakeRecord,
    line: str, message: str,
) -> None:  # fmt: skip
    write(tmp_path, config, plan, make_record)
    path = tmp_path / "trials.jsonl"
    text = path.read_text()
    path.write_text(text + (text.splitlines()[0] if line == "first" else line) + "\n")
    with pytest.raises(LogError, match=message):
        TrialLog(tmp_path, config.as_json(), plan)


def test_two_runs_cannot_share_a_directory(
    tmp_path: Path, config: RunConfig, plan: list[TrialSpec]
) -> None:
    with (
        TrialLog(tmp_path, config.as_json(), plan),
        pytest.raises(LogError, match="another run is writing here"),
    ):
        TrialLog(tmp_path, config.as_json(), plan)
