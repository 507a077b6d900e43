"""trials.jsonl: one line a finished trial, on disk before the next one counts."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Final

from evaluation.plan import TrialSpec

TRIALS: Final = "trials.jsonl"
CONFIG: Final = "config.json"
WHOLE_WAY: Final = "picture_to_setpoint"
"""The stage that holds all the others."""


class LogError(Exception):
    """A run directory that cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class TrialRecord:
    """How one trial went.

    stage: furthest stage (simulation.scoring.STAGES, or `none`). reason: one word for machines;
    message: one sentence for people. duration_s: in the trial's own time; wall_s: on the clock.
    inference_ms: each request's; stage_times_ms: by stage, each chunk's, from picture to setpoint.
    film: path of the film strip within the run's directory. physics_hz: mean rate of the live
    simulation's loop during the trial.
    """

    policy: str
    task: str
    object: str
    trial: int
    seed: int
    success: bool
    stage: str
    reason: str
    message: str
    duration_s: float
    wall_s: float
    inference_ms: Sequence[float] = ()
    stage_times_ms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    film: str | None = None
    physics_hz: float | None = None

    @property
    def spec(self) -> TrialSpec:
        return TrialSpec(self.policy, self.task, self.object, self.trial, self.seed)


FinishedTrial = tuple[TrialRecord, bytes | None]
"""A trial's record and its film strip, if one is to be kept."""


class TrialLog:
    """The open log of a run; holds the directory for this process alone until closed."""

    def __init__(
        self, directory: Path, config: Mapping[str, Any], plan: Sequence[TrialSpec]
    ) -> None:
        """Open or make the log; `records` holds what earlier sessions of the same run finished.

        Raises:
            LogError: another process writes here, the directory belongs to a run with another
                configuration, or a line is damaged, unplanned or there twice.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.records: dict[tuple[str, str, str, int], TrialRecord] = {}
        self._planned = set(plan)
        self._file: IO[str] = (directory / TRIALS).open("a+", encoding="utf-8")
        try:
            self._lock()
            self._claim(config)
            self._cut_unfinished_line()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def append(self, record: TrialRecord) -> None:
        """Write one line and wait until it is on disk."""
        self._accept(record)
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Give the directory free."""
        self._file.close()

    def __enter__(self) -> TrialLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = "another run is writing here; wait for it or choose another --out"
            raise LogError(f"{self.directory}: {text}") from error

    def _claim(self, config: Mapping[str, Any]) -> None:
        path = self.directory / CONFIG
        if not path.exists():
            if (self.directory / TRIALS).stat().st_size:
                text = f"holds trials but no {CONFIG}; choose another --out"
                raise LogError(f"{self.directory}: {text}")
            write_json(path, config)
            return
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise LogError(f"{path}: not valid JSON ({error}); choose another --out") from error
        different = [name for name in config if old.get(name) != config[name]]
        if different:
            name = different[0]
            raise LogError(
                f"{self.directory}: belongs to a run with another {name!r} "
                f"({old.get(name)!r}, not {config[name]!r}); choose another --out"
            )

    def _cut_unfinished_line(self) -> None:
        """A process that was killed while writing leaves half a line; that trial is run again."""
        content = (self.directory / TRIALS).read_bytes()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            self._file.truncate(end)

    def _read(self) -> None:
        self._file.seek(0)
        names = {f.name for f in fields(TrialRecord)}
        for number, line in enumerate(self._file, start=1):
            where = f"{self.directory / TRIALS}, line {number}"
            try:
                content = json.loads(line)
                if not isinstance(content, dict) or not set(content) <= names:
                    raise ValueError(f"unknown fields {sorted(set(content) - names)}")
                record = TrialRecord(**content)
            except (ValueError, TypeError) as error:
                raise LogError(f"{where}: not a trial's record ({error})") from error
            try:
                self._accept(record)
            except LogError as error:
                raise LogError(f"{where}: {error}") from error

    def _accept(self, record: TrialRecord) -> None:
        if record.spec not in self._planned:
            raise LogError(f"trial {record.spec.key} is not part of this run")
        if record.spec.key in self.records:
            raise LogError(f"trial {record.spec.key} is scored twice")
        self.records[record.spec.key] = record


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a whole JSON file or none: readers never see half of it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
