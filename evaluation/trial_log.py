"""trials.jsonl: one line a finished trial, on disk before the next one counts.

Nothing is ever taken out of it. A trial that something outside the policy spoilt is voided by an
event (`evaluation.run_events`) that names its line and the reason, and is then run again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Final

from evaluation.plan import TrialSpec
from evaluation.run_events import STARTED, VOID, append_event, read_events

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


def is_broken(record: TrialRecord) -> bool:
    """Whether something else than the policy decided the trial."""
    return record.reason not in ("success", "timeout")


FinishedTrial = tuple[TrialRecord, bytes | None]
"""A trial's record and its film strip, if one is to be kept."""


@dataclass(frozen=True)
class VoidedTrial:
    """A trial that does not count; `record` is None where it was given up before it was scored."""

    spec: TrialSpec
    reason: str
    record: TrialRecord | None


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
        self._file: IO[str] = (directory / TRIALS).open("a+", encoding="utf-8")
        try:
            self._lock()
            claim(directory, config)
            self._cut_unfinished_line()
            self.trials = Trials.read(directory, plan)
        except BaseException:
            self._file.close()
            raise

    @property
    def records(self) -> dict[tuple[str, str, str, int], TrialRecord]:
        """Of every trial that counts, by TrialSpec.key."""
        return self.trials.records

    @property
    def voided(self) -> list[VoidedTrial]:
        return self.trials.voided

    def begin(self, plan_hash: str) -> None:
        """Note that a session starts with this plan.

        Raises:
            LogError: earlier sessions had another one.
        """
        for event in _events(self.directory):
            if event["event"] == STARTED and event.get("plan") != plan_hash:
                raise LogError(
                    f"{self.directory}: the plan was changed after trials had started; "
                    "restore plan.json, or choose another --out"
                )
        append_event(self.directory, STARTED, plan=plan_hash)

    def append(self, record: TrialRecord) -> None:
        """Write one line and wait until it is on disk."""
        self.trials.accept(record)
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def void(self, spec: TrialSpec, reason: str) -> None:
        """Let a trial not count, scored or not; it is then to be run again.

        Raises:
            LogError: no reason, or a trial that is not part of this run.
        """
        if not reason.strip():
            raise LogError("a trial is voided only with a reason: say what spoilt it")
        line = self.trials.void(spec, reason.strip())
        append_event(
            self.directory, VOID, line=line, reason=reason.strip(), **asdict(spec)
        )  # fmt: skip

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

    def _cut_unfinished_line(self) -> None:
        """A process that was killed while writing leaves half a line; that trial is run again."""
        content = (self.directory / TRIALS).read_bytes()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            self._file.truncate(end)


class Trials:
    """What a run's files say about its trials, for whoever reads or writes them."""

    def __init__(self, plan: Sequence[TrialSpec]) -> None:
        self.records: dict[tuple[str, str, str, int], TrialRecord] = {}
        self.voided: list[VoidedTrial] = []
        self._planned = set(plan)
        self._lines = 0
        self._line_of: dict[tuple[str, str, str, int], int] = {}

    @classmethod
    def read(cls, directory: Path, plan: Sequence[TrialSpec]) -> Trials:
        """Every whole line of a run; a last one that is unfinished is no trial.

        Raises:
            LogError: a line is damaged, unplanned or there twice.
        """
        trials = cls(plan)
        voids = [event for event in _events(directory) if event["event"] == VOID]
        reasons = {e.get("line"): str(e.get("reason")) for e in voids if e.get("line") is not None}
        path = directory / TRIALS
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                trials.accept(_record(line))
            except LogError as error:
                raise LogError(f"{path}, line {number}: {error}") from error
            if number in reasons:
                record = list(trials.records.values())[-1]
                trials.void(record.spec, reasons[number])
        unscored = [event for event in voids if event.get("line") is None]
        trials.voided += [VoidedTrial(_spec(e), str(e.get("reason")), None) for e in unscored]
        return trials

    def accept(self, record: TrialRecord) -> None:
        """Count one more line; raises LogError unless it is planned and not scored yet."""
        if record.spec not in self._planned:
            raise LogError(f"trial {record.spec.key} is not part of this run")
        if record.spec.key in self.records:
            raise LogError(f"trial {record.spec.key} is scored twice")
        self._lines += 1
        self.records[record.spec.key] = record
        self._line_of[record.spec.key] = self._lines

    def void(self, spec: TrialSpec, reason: str) -> int | None:
        """Take a trial back; its line, or None if it was not scored."""
        if spec not in self._planned:
            raise LogError(f"trial {spec.key} is not part of this run")
        record = self.records.pop(spec.key, None)
        self.voided.append(VoidedTrial(spec, reason, record))
        return self._line_of.pop(spec.key, None)


def claim(directory: Path, config: Mapping[str, Any]) -> None:
    """Make `directory` that of a run with this configuration, or check that it is.

    Raises:
        LogError: it belongs to another run.
    """
    path, trials = directory / CONFIG, directory / TRIALS
    if not path.exists():
        if trials.exists() and trials.stat().st_size:
            text = f"holds trials but no {CONFIG}; choose another --out"
            raise LogError(f"{directory}: {text}")
        write_json(path, config)
        return
    old = read_config(directory)
    different = [name for name in config if old.get(name) != config[name]]
    if not different:
        return
    name = different[0]
    if name == "policies" and (changed := _changed_bundle(old[name], config[name])):
        raise LogError(
            f"{directory}: another 'policies': the bundle of {changed} was changed since this run "
            "was planned; restore it, or choose another --out"
        )
    raise LogError(
        f"{directory}: belongs to a run with another {name!r} "
        f"({old.get(name)!r}, not {config[name]!r}); choose another --out"
    )


def read_config(directory: Path) -> dict[str, Any]:
    """Content of config.json; raises LogError if it is missing or damaged."""
    path = directory / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LogError(f"{directory}: not the directory of a run ({CONFIG} is missing)") from error
    except ValueError as error:
        raise LogError(f"{path}: not valid JSON ({error}); choose another --out") from error
    if not isinstance(content, dict):
        raise LogError(f"{path}: not a configuration; choose another --out")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a whole JSON file or none: readers never see half of it."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a whole text file or none."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _record(line: bytes) -> TrialRecord:
    names = {f.name for f in fields(TrialRecord)}
    try:
        content = json.loads(line)
        if not isinstance(content, dict) or not set(content) <= names:
            raise ValueError(f"unknown fields {sorted(set(content) - names)}")
        return TrialRecord(**content)
    except (ValueError, TypeError) as error:
        raise LogError(f"not a trial's record ({error})") from error


def _spec(event: Mapping[str, Any]) -> TrialSpec:
    """The trial that an event is about."""
    try:
        return TrialSpec(**{f.name: event[f.name] for f in fields(TrialSpec)})
    except KeyError as error:
        raise LogError(f"an event of events.jsonl lacks {error}") from error


def _events(directory: Path) -> list[dict[str, Any]]:
    try:
        return read_events(directory)
    except ValueError as error:
        raise LogError(str(error)) from error


def _changed_bundle(old: Any, new: Any) -> str | None:
    """Name of a policy that is the same but for its bundle's hash."""
    for before, after in zip(old, new, strict=False):
        same = all(before.get(k) == after.get(k) for k in ("name", "bundle"))
        if same and before.get("bundle_hash") != after.get("bundle_hash"):
            return repr(after["name"])
    return None
