"""What one page is about: a run, or several runs put side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluation.plan import PlanError, RunConfig
from evaluation.policies import PolicyChoice
from evaluation.results import RunResults
from evaluation.trial_log import TrialRecord

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Study:
    """Policies and their trials, from one run or more.

    config: of all of them. order: place of every trial in its run's plan, by TrialSpec.key. runs:
    where the trials come from. Films' paths are relative to the directory of the page.
    """

    config: RunConfig
    records: tuple[TrialRecord, ...]
    order: Mapping[Key, int]
    runs: tuple[RunResults, ...]

    @property
    def blind(self) -> bool:
        return any(run.blind for run in self.runs)

    @property
    def complete(self) -> bool:
        return all(run.complete for run in self.runs)


def study_of(results: RunResults) -> Study:
    """One run by itself."""
    order = {trial.spec.key: trial.number for trial in results.trials}
    return Study(results.config, results.records, order, (results,))


def joined(runs: Sequence[RunResults], out: Path) -> Study:
    """Several runs as one study whose page lies in `out`.

    Policies of the same name are told apart by their run's directory.

    Raises:
        PlanError: fewer than two runs, one that is still blind, or one without trials.
    """
    if len(runs) < 2:
        raise PlanError("compare needs at least two runs")
    for run in runs:
        if run.blind:
            raise PlanError(f"{run.directory} is still blind: its key opens with the last trial")
        if not run.records:
            raise PlanError(f"{run.directory} has no scored trial")
    names = [policy.name for run in runs for policy in run.config.policies]
    order: dict[Key, int] = {}
    records: list[TrialRecord] = []
    policies: list[PolicyChoice] = []
    for run in runs:
        own = {
            p.name: p.name if names.count(p.name) == 1 else f"{run.directory.name}/{p.name}"
            for p in run.config.policies
        }
        if any(name in {p.name for p in policies} for name in own.values()):
            own = {name: f"{run.directory}/{name}" for name in own}
        policies += [replace(p, name=own[p.name]) for p in run.config.policies]
        for record in run.records:
            film = record.film and os.path.relpath(run.directory / record.film, out)
            records.append(replace(record, policy=own[record.policy], film=film))
        for trial in run.trials:
            order[replace(trial.spec, policy=own[trial.spec.policy]).key] = trial.number
    if len({p.name for p in policies}) != len(policies):
        raise PlanError("the same run is given twice")
    config = replace(
        runs[0].config,
        policies=tuple(policies),
        trials=max(run.config.trials for run in runs),
        tasks=_union([run.config.tasks for run in runs]),
        objects=_union([run.config.objects for run in runs]),
        sequential_alpha=None,
    )
    return Study(config, tuple(records), order, tuple(runs))


def differing_settings(study: Study) -> dict[str, list[Any]]:
    """What the runs of a study do not have in common, apart from their policies."""
    configs = [run.config.as_json() for run in study.runs]
    apart = ("policies", "film")
    return {
        name: [config[name] for config in configs]
        for name in configs[0]
        if name not in apart and any(config[name] != configs[0][name] for config in configs)
    }


def _union(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))
