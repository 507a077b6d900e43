"""A run from its configuration to its summary: the trials that are missing, on either backend.

Several policies run blind: backends, log and films know them as A and B, in the plan's order; their
names come back with the last trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evaluation.film import save_strip
from evaluation.plan import RunConfig, TrialSpec
from evaluation.report import write_report
from evaluation.results import RunResults, conclude, early_stop
from evaluation.study import study_of
from evaluation.summary import software_versions, summarise
from evaluation.trial_log import FinishedTrial, TrialLog, TrialRecord, is_broken, write_json
from evaluation.trial_plan import RunPlan, prepare

SUMMARY: Final = "summary.json"
Tell = Callable[[str], None]
"""Shows one line about what goes on now."""
Backend = Callable[[RunConfig, Sequence[TrialSpec], Tell], Generator[FinishedTrial]]
"""Runs trials and gives them as they finish; the configuration names policies as the trials do."""


def run(
    config: RunConfig, directory: Path, backend: Backend, console: Console
) -> tuple[dict[str, Any], RunResults]:
    """Run every trial that `directory` does not hold yet; write summary and report there.

    Returns the content of summary.json, and the results with every trial's record.

    Whatever ends the run early, the trials finished by then are kept, summarised and reported.

    Raises:
        LogError, PlanError: the directory cannot be used.
    """
    started = time.monotonic()
    plan = prepare(directory, config)
    with TrialLog(directory, config.as_json(), plan.specs) as log:
        if log.records:
            total = len(plan.trials)
            console.print(f"{len(log.records)} of {total} trials are already there; going on")
        try:
            log.begin(plan.hash)
            _run_missing(plan, log, backend, console)
            # In process there is no graph: what is no timeout there is the policy's own failure.
            if plan.config.backend == "live" and _void_broken(log, console):
                _run_missing(plan, log, backend, console)
        finally:
            summary, results = write_results(
                directory, config, plan, log, time.monotonic() - started
            )
    return summary, results


def write_results(
    directory: Path, config: RunConfig, plan: RunPlan, log: TrialLog, wall_seconds: float
) -> tuple[dict[str, Any], RunResults]:
    """Write summary and report of a run at the end of a session."""
    results = conclude(directory, config, plan, log.trials)
    summary = summarise(
        results.config, results.records, wall_seconds, software_versions(), results.stop
    )
    write_json(directory / SUMMARY, summary)
    write_report(directory, study_of(results), summary)
    return summary, results


def _run_missing(plan: RunPlan, log: TrialLog, backend: Backend, console: Console) -> None:
    missing = [spec for spec in plan.specs if spec.key not in log.records]
    if not missing or early_stop(plan, log.records.values()):
        return
    with _progress(console) as progress:
        total = len(missing) + len(log.records)
        bar = progress.add_task("", total=total, completed=len(log.records), score=_score(log))

        def tell(line: str) -> None:
            if not console.is_terminal and line != progress.tasks[bar].description:
                console.print(line, soft_wrap=True)  # no bar is drawn into a file or a pipe
            progress.update(bar, description=line)

        with closing(backend(plan.config, missing, tell)) as finished:
            for record, strip in finished:
                log.append(_with_film(record, strip, log.directory))
                progress.update(bar, advance=1, score=_score(log))
                if stop := early_stop(plan, log.records.values()):
                    tell(f"decided after {stop.starts} starts")
                    return


def _void_broken(log: TrialLog, console: Console) -> bool:
    """Take back, once, each trial that the graph spoilt: it says nothing about the policy."""
    repeated = {trial.spec.key for trial in log.voided}
    broken = [r for r in log.records.values() if is_broken(r) and r.spec.key not in repeated]
    for record in broken:
        why = f"{record.reason}: {record.message}"
        console.print(f"{record.object}, {record.task}: once more, since the graph failed: {why}")
        log.void(record.spec, why)
    return bool(broken)


def _with_film(record: TrialRecord, strip: bytes | None, directory: Path) -> TrialRecord:
    if strip is None:
        return record
    parts = (record.policy, record.task, record.object, f"{record.trial:03d}")
    path = save_strip(strip, directory, "-".join(parts).replace(" ", "_"))
    return TrialRecord(**{**vars(record), "film": path})


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("trials"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[score]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.description}"),
        console=console,
    )


def _score(log: TrialLog) -> str:
    """Running success of each policy."""
    successes: dict[str, list[bool]] = {}
    for record in log.records.values():
        successes.setdefault(record.policy, []).append(record.success)
    return "  ".join(
        f"{policy} {100 * sum(s) / len(s):.0f} %" for policy, s in sorted(successes.items())
    )
