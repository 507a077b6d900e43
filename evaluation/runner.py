"""A run from its configuration to its summary: the trials that are missing, on either backend."""

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
from evaluation.plan import RunConfig, TrialSpec, trial_plan
from evaluation.report import write_report
from evaluation.summary import software_versions, summarise
from evaluation.trial_log import FinishedTrial, TrialLog, TrialRecord, write_json

SUMMARY: Final = "summary.json"
Tell = Callable[[str], None]
"""Shows one line about what goes on now."""
Backend = Callable[[Sequence[TrialSpec], Tell], Generator[FinishedTrial]]
"""Runs trials and gives them as they finish."""


def run(
    config: RunConfig, directory: Path, backend: Backend, console: Console
) -> tuple[dict[str, Any], list[TrialRecord]]:
    """Run every trial that `directory` does not hold yet; write summary and report there.

    Returns the content of summary.json, and the record of every trial.

    Whatever ends the run early, the trials finished by then are kept, summarised and reported.

    Raises:
        LogError: the directory cannot be used.
    """
    started = time.monotonic()
    plan = list(trial_plan(config))
    with TrialLog(directory, config.as_json(), plan) as log:
        if log.records:
            console.print(f"{len(log.records)} of {len(plan)} trials are already there; going on")
        missing = [spec for spec in plan if spec.key not in log.records]
        try:
            _run_missing(missing, log, backend, console)
        finally:
            records = list(log.records.values())
            wall_seconds = time.monotonic() - started
            summary = summarise(config, records, wall_seconds, software_versions())
            write_json(directory / SUMMARY, summary)
            write_report(directory, summary, records)
    return summary, records


def _run_missing(
    missing: Sequence[TrialSpec], log: TrialLog, backend: Backend, console: Console
) -> None:
    if not missing:
        return
    with _progress(console) as progress:
        total = len(missing) + len(log.records)
        bar = progress.add_task("", total=total, completed=len(log.records), score=_score(log))

        def tell(line: str) -> None:
            if not console.is_terminal and line != progress.tasks[bar].description:
                console.print(line, soft_wrap=True)  # no bar is drawn into a file or a pipe
            progress.update(bar, description=line)

        with closing(backend(missing, tell)) as finished:
            for record, strip in finished:
                log.append(_with_film(record, strip, log.directory))
                progress.update(bar, advance=1, score=_score(log))


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
