"""`python -m evaluation bench`: time of an evaluation on the fast simulation, by part."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contracts.task import OBJECTS, TASKS
from evaluation.bench import measure_run
from evaluation.plan import PlanError, RunConfig, check_request
from evaluation.policies import choose_policies


def bench(options: argparse.Namespace, console: Console) -> None:
    """Measure; the last line is JSON."""
    check_request("fast", options.trials, options.seed, tuple(TASKS), OBJECTS)
    if options.workers < 1:
        raise PlanError(f"--workers must be at least 1, got {options.workers}")
    config = RunConfig(choose_policies([options.policy]), "fast", options.trials, options.seed)
    columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("")
        found = measure_run(
            config,
            options.workers,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if not options.json:
        for part, share in found["share"].items():
            console.print(f"{part:10} {100 * share:5.1f} %  {found['worker_seconds'][part]:8.1f} s")
        console.print(f"{found['trials']} trials in {found['wall_seconds']:.0f} s")
    print(json.dumps(found), flush=True)
