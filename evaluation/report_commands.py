"""`python -m evaluation report` and `compare`: pages of runs that are already there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.report import FIGURES, report_figures, write_report
from evaluation.results import load_results
from evaluation.runner import SUMMARY
from evaluation.study import Study, joined, study_of
from evaluation.summary import main_figures, software_versions, summarise
from evaluation.trial_log import LogError


def report(options: argparse.Namespace, console: Console) -> None:
    """Draw a run's page again, finished or under way."""
    results = load_results(options.directory)
    before = _summary(options.directory)
    summary = summarise(
        results.config,
        results.records,
        before.get("wall_seconds", 0.0),
        before.get("versions") or software_versions(),
        results.stop,
    )
    _show(study_of(results), summary, options.directory, console)


def compare(options: argparse.Namespace, console: Console) -> None:
    """Draw one page of several runs."""
    options.out.mkdir(parents=True, exist_ok=True)
    study = joined([load_results(directory) for directory in options.directories], options.out)
    versions = [_summary(run.directory).get("versions") or {} for run in study.runs]
    summary = summarise(study.config, study.records, 0.0, _common(versions))
    _show(study, {**summary, "complete": study.complete}, options.out, console)


def _show(study: Study, summary: Mapping[str, Any], directory: Path, console: Console) -> None:
    page = write_report(directory, study, summary)
    comparisons = report_figures(study, summary)["comparisons"]
    for c in comparisons:
        low, high = (100 * bound for bound in c["interval"])
        console.print(
            f"{c['first']} - {c['second']}: {100 * c['difference']:+.1f} points "
            f"({low:+.1f} to {high:+.1f}), {c['test']}: p = {c['p_holm']:.3g}"
        )
    console.print(f"report: {page}, {FIGURES} and report.tex beside it", soft_wrap=True)
    names = ("first", "second", "difference", "interval", "test", "p_value", "p_holm")
    short = [{name: c[name] for name in names} for c in comparisons]
    line = {**main_figures(dict(summary)), "blind": study.blind, "comparisons": short}
    print(json.dumps(line | {"report": str(page)}), flush=True)


def _summary(directory: Path) -> dict[str, Any]:
    path = directory / SUMMARY
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise LogError(f"{path}: not valid JSON ({error}); run the evaluation again") from error


def _common(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Versions of all runs; those that differ one after the other."""
    names = dict.fromkeys(name for found in versions for name in found)
    return {
        name: " / ".join(dict.fromkeys(found.get(name, "?") for found in versions))
        for name in names
    }
