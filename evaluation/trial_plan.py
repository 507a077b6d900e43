"""plan.json: order, labels, time and power of a run, fixed before its first trial."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from evaluation.blinding import BlindingKey, read_sealed, save_sealed
from evaluation.plan import PlanError, RunConfig, TrialSpec
from evaluation.statistics.power import WANTED_POWER, detectable_difference, interval_half_width
from evaluation.trial_log import TRIALS, claim, write_json
from evaluation.trial_order import PlannedTrial, order_trials

PLAN: Final = "plan.json"
VERSION: Final = 1
TRIAL_SECONDS: Final = {"fast": 2.0, "live": 22.0, "real": 75.0}
"""Rough time of one trial: in one fast process; on the robot with putting up the scene."""
GRAPH_SECONDS: Final = 25.0
"""To end the live graph and start it with another policy."""
EXPECTED_RATE: Final = 0.5
"""Where differences are hardest to find; the plan's power is given for this rate."""


@dataclass(frozen=True)
class RunPlan:
    """A run ready to start: `config` has labels instead of names where the run is blind.

    key: None where one policy runs alone, under its own name.
    """

    config: RunConfig
    trials: tuple[PlannedTrial, ...]
    key: BlindingKey | None
    content: Mapping[str, Any]

    @property
    def hash(self) -> str:
        return str(self.content["hash"])

    @property
    def specs(self) -> list[TrialSpec]:
        return [trial.spec for trial in self.trials]


def prepare(directory: Path, config: RunConfig) -> RunPlan:
    """The plan that `directory` holds for this run; made there if there is none yet.

    Raises:
        LogError: the directory belongs to another run.
        PlanError: its plan or key was changed, is damaged or missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _exclusive(directory):
        claim(directory, config.as_json())
        if (directory / PLAN).exists():
            return read_plan(directory, config)
        key = BlindingKey.draw(config) if len(config.policies) > 1 else None
        if key is not None and (directory / TRIALS).exists():
            raise PlanError(f"{directory}: trials without a {PLAN}; choose another --out")
        if key is not None:
            save_sealed(key, directory)
        write_json(directory / PLAN, _content(config, key))
        return read_plan(directory, config)


def read_plan(directory: Path, config: RunConfig) -> RunPlan:
    """The plan in `directory`, checked against its own hash, its key and `config`.

    Raises:
        PlanError: it is damaged or does not belong to `config`.
    """
    path = directory / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        trials = tuple(_planned_trial(row) for row in content["trials"])
        stored, commitment = content["hash"], content["commitment"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlanError(f"{path}: not a trial plan ({error}); choose another --out") from error
    if stored != plan_hash(content):
        raise PlanError(f"{path} was changed by hand; restore it, or plan anew in another --out")
    key = read_sealed(directory, commitment) if commitment is not None else None
    if content["config_hash"] != _hash(config.as_json()):
        raise PlanError(f"{path} belongs to another configuration; choose another --out")
    return RunPlan(key.blind(config) if key is not None else config, trials, key, content)


def plan_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over everything in a plan but its hash."""
    return _hash({name: value for name, value in content.items() if name != "hash"})


def _content(config: RunConfig, key: BlindingKey | None) -> dict[str, Any]:
    blind = key.blind(config) if key is not None else config
    trials = order_trials(blind)
    content = {
        "version": VERSION,
        "config_hash": _hash(config.as_json()),
        "policies": [policy.name for policy in blind.policies],
        "commitment": key.commitment if key is not None else None,
        "estimated_seconds": estimated_seconds(config.backend, trials),
        "power": _power(config, len(trials) // len(config.policies)),
        "trials": [
            {"number": t.number, "block": t.block, **asdict(t.spec)} for t in trials
        ],
    }  # fmt: skip
    return {**content, "hash": _hash(content)}


def estimated_seconds(backend: str, trials: tuple[PlannedTrial, ...]) -> float:
    """How long a run will take, on one worker."""
    seconds = TRIAL_SECONDS[backend] * len(trials)
    if backend == "live":
        changes = sum(a.spec.policy != b.spec.policy for a, b in pairwise(trials))
        seconds += GRAPH_SECONDS * (1 + changes)
    return seconds


def _power(config: RunConfig, starts: int) -> dict[str, Any]:
    """What this many starts can show, for one policy and for two."""
    return {
        "starts": starts,
        "half_width": interval_half_width(starts),
        "expected_rate": EXPECTED_RATE,
        "wanted_power": WANTED_POWER,
        "detectable_difference": detectable_difference(starts, EXPECTED_RATE)
        if len(config.policies) > 1
        else None,
    }


def _planned_trial(row: Mapping[str, Any]) -> PlannedTrial:
    spec = {name: row[name] for name in ("policy", "task", "object", "trial", "seed")}
    return PlannedTrial(row["number"], row["block"], TrialSpec(**spec))


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Nobody else plans in this directory meanwhile."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
