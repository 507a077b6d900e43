"""What a run's directory says: the trials that count, under names once the key is open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from evaluation.blinding import OPEN_KEY, BlindingKey, masked
from evaluation.plan import PlanError, RunConfig, trial_plan
from evaluation.run_events import KEY_OPENED, append_event, read_events
from evaluation.statistics.sequential import SequentialDesign, Stop
from evaluation.trial_log import LogError, TrialRecord, Trials, VoidedTrial, read_config, write_json
from evaluation.trial_order import PlannedTrial
from evaluation.trial_plan import PLAN, RunPlan, read_plan


@dataclass(frozen=True)
class RunResults:
    """A run so far.

    config: policies under their names, or masked under labels while the run is blind. records:
    those that count, in no order; a sequential run's end with its `stop`. key: None unless it is
    open. trials: the plan's, under the same names as the records.
    """

    directory: Path
    config: RunConfig
    trials: tuple[PlannedTrial, ...]
    records: tuple[TrialRecord, ...]
    voided: tuple[VoidedTrial, ...]
    plan: Mapping[str, Any] | None
    key: BlindingKey | None
    stop: Stop | None

    @property
    def blind(self) -> bool:
        """Whether policies are still under their labels."""
        return self.key is None and self.plan is not None and bool(self.plan["commitment"])

    @property
    def complete(self) -> bool:
        return self.stop is not None or len(self.records) == len(self.trials)


def results_of(
    directory: Path, config: RunConfig, plan: RunPlan, trials: Trials, key: BlindingKey | None
) -> RunResults:
    """Results of a run with a plan; `key` None leaves its policies under their labels."""
    stop = early_stop(plan, trials.records.values())
    records = _counted(plan, trials.records.values(), stop)
    names: Mapping[str, str] = key.labels if key is not None else {}

    def named(spec: Any) -> Any:
        return replace(spec, policy=names.get(spec.policy, spec.policy))

    voided = tuple(
        VoidedTrial(named(v.spec), v.reason, v.record and named(v.record)) for v in trials.voided
    )
    if key is None and plan.key is not None:
        config = masked(plan.config)
    return RunResults(
        directory,
        config,
        tuple(replace(trial, spec=named(trial.spec)) for trial in plan.trials),
        tuple(named(record) for record in records),
        voided,
        plan.content,
        key,
        stop,
    )


def conclude(directory: Path, config: RunConfig, plan: RunPlan, trials: Trials) -> RunResults:
    """Results of a run at the end of a session; the key is opened once every trial is scored."""
    if plan.key is None or not results_of(directory, config, plan, trials, None).complete:
        return results_of(directory, config, plan, trials, None)
    if not key_is_open(directory):
        append_event(
            directory, KEY_OPENED, labels=dict(plan.key.labels), commitment=plan.key.commitment
        )
    write_json(directory / OPEN_KEY, plan.key.as_json())
    return results_of(directory, config, plan, trials, plan.key)


def load_results(directory: Path) -> RunResults:
    """Results of the run in `directory`, which may still be under way.

    Raises:
        LogError, PlanError: it is no run's directory, or something in it is damaged.
    """
    config = RunConfig.from_json(read_config(directory))
    if not (directory / PLAN).exists():
        if len(config.policies) > 1:
            raise PlanError(f"{directory}: {PLAN} is missing; nothing says what was planned")
        specs = list(trial_plan(config))
        trials = Trials.read(directory, specs)
        planned = tuple(PlannedTrial(i, i, spec) for i, spec in enumerate(specs, 1))
        records, voided = tuple(trials.records.values()), tuple(trials.voided)
        return RunResults(directory, config, planned, records, voided, None, None, None)
    plan = read_plan(directory, config)
    trials = Trials.read(directory, plan.specs)
    opened = plan.key if plan.key is not None and key_is_open(directory) else None
    return results_of(directory, config, plan, trials, opened)


def key_is_open(directory: Path) -> bool:
    """Whether scoring has ended; raises LogError if the events are damaged."""
    try:
        return any(event["event"] == KEY_OPENED for event in read_events(directory))
    except ValueError as error:
        raise LogError(str(error)) from error


def early_stop(plan: RunPlan, records: Iterable[TrialRecord]) -> Stop | None:
    """Where a sequential run ends, in the plan's order and whatever the order of the records."""
    alpha = plan.config.sequential_alpha
    if alpha is None:
        return None
    found = {record.spec.key: record.success for record in records}
    first, second = (policy.name for policy in plan.config.policies)
    outcomes: list[int] = []
    blocks = _blocks(plan.trials)
    for block in blocks:
        success = {t.spec.policy: found.get(t.spec.key) for t in block}
        if None in success.values():
            break
        outcomes.append(int(bool(success[first])) - int(bool(success[second])))
    return _design(len(blocks), alpha).decide(outcomes)


def _counted(plan: RunPlan, records: Iterable[TrialRecord], stop: Stop | None) -> list[TrialRecord]:
    """Trials that ran ahead of the stop do not count, or the number of workers would matter."""
    if stop is None:
        return list(records)
    within = {t.spec.key for block in _blocks(plan.trials)[: stop.starts] for t in block}
    return [record for record in records if record.spec.key in within]


def _blocks(trials: Sequence[PlannedTrial]) -> list[list[PlannedTrial]]:
    blocks: dict[int, list[PlannedTrial]] = {}
    for trial in trials:
        blocks.setdefault(trial.block, []).append(trial)
    return [blocks[number] for number in sorted(blocks)]


@lru_cache(maxsize=4)
def _design(starts: int, alpha: float) -> SequentialDesign:
    return SequentialDesign(starts, alpha)
