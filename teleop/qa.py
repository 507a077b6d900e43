"""Check the quality of a data set; exit code 0: no error, 1: errors, or it cannot be checked.

    python -m teleop.qa runs/demos

Writes `quality.html` and `quality.json` into the data set. `--trim-idle` also writes a copy of it
without the rest at both ends of each episode.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from rich.console import Console
from rich.progress import Progress

from contracts import episode as layout
from contracts.episode import EpisodeError
from teleop.dataset import DemonstrationDataset
from teleop.quality import checks
from teleop.quality.checks import ERROR, WARNING, EpisodeQuality, Finding, Limits
from teleop.quality.codec import CodecError
from teleop.quality.page import write_page
from teleop.quality.trim import trim
from teleop.recorder import RecordingFailed, sync_folder

JSON_FILE: Final = "quality.json"
PAGE_FILE: Final = "quality.html"
LABELS: Final = ("success", "failure")
INTERRUPTED: Final = 130


def check(
    directory: Path, limits: Limits, tell: Callable[[], None]
) -> tuple[DemonstrationDataset, list[EpisodeQuality], list[Finding], CodecError | None]:
    """Every episode's quality and all findings; damaged files are findings, too.

    Raises:
        EpisodeError: no data set, or no episode in it.
    """
    dataset = DemonstrationDataset(directory, LABELS, skip_damaged=True)
    found = [Finding("damaged", ERROR, None, text) for text in dataset.damaged]
    if not (len(dataset) or found):
        raise EpisodeError(f"{directory}: no episode to check")
    qualities = []
    for episode in dataset:
        try:
            quality = checks.measure(episode)
        except EpisodeError as error:
            text = str(error).removeprefix(f"{episode.path}: ")
            found.append(Finding("damaged", ERROR, episode.header.number, text))
            continue
        finally:
            tell()
        qualities.append(quality)
    whole = {q.number for q in qualities}
    episodes = [e for e in dataset if e.header.number in whole]
    each, together = checks.codec_errors(episodes)
    qualities = [replace(q, codec=error) for q, error in zip(qualities, each, strict=True)]
    for quality in qualities:
        found += checks.findings(quality, limits)
    found += checks.set_findings(qualities, checks.start_cells(episodes), limits)
    own = {q.number: tuple(f for f in found if f.episode == q.number) for q in qualities}
    return dataset, [replace(q, findings=own[q.number]) for q in qualities], found, together


def summary(
    qualities: Sequence[EpisodeQuality], found: Sequence[Finding], codec: CodecError | None
) -> dict[str, Any]:
    """quality.json without the episodes."""
    tables: dict[str, Counter[str]] = {}
    for q in qualities:
        tables.setdefault(q.task, Counter())[q.object] += q.label == "success"
    severities = Counter(f.severity for f in found)
    return {
        "passed": severities[ERROR] == 0,
        "episodes": len(qualities),
        "labels": dict(Counter(q.label for q in qualities)),
        "errors": severities[ERROR],
        "warnings": severities[WARNING],
        "by_check": {name: sum(f.check == name for f in found) for name in checks.ALL_CHECKS},
        "successes": {task: dict(counts) for task, counts in tables.items()},
        "camera_lag_s": checks.camera_lags(qualities),
        "codec": asdict(codec) if codec is not None else None,
        "dropped": sum(s.dropped for q in qualities for s in q.streams),
        "repeated": sum(c.repeated for q in qualities for c in q.cameras),
        "minutes": round(sum(q.motion.duration for q in qualities) / 60, 2),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, default=_plain)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def _plain(value: Any) -> Any:
    """Arrays as lists, what is not a number as null."""
    if isinstance(value, np.ndarray):
        return [None if np.isnan(v) else round(float(v), 4) for v in value]
    raise TypeError(f"{type(value).__name__} does not belong in {JSON_FILE}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 passed, 1 errors found or not checkable, 130 Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m teleop.qa",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument(
        "--trim-idle",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="OUT",
        help="write a trimmed copy to OUT (default DATASET-trimmed)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False, markup=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(options, console)
    except (EpisodeError, RecordingFailed, OSError) as error:
        console.print(f"teleop.qa: {error}", style="red", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted", soft_wrap=True)
        return INTERRUPTED


def _run(options: argparse.Namespace, console: Console) -> int:
    directory: Path = options.dataset
    total = len(list((directory / layout.EPISODES).glob(f"*{layout.SUFFIX}")))
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("check", total=total)
        dataset, qualities, found, codec = check(
            directory, Limits(), lambda: progress.update(bar, advance=1)
        )
        result = summary(qualities, found, codec)
        rows = [asdict(q) for q in qualities]
        content = {**result, "findings": [asdict(f) for f in found], "per_episode": rows}
        _write_json(directory / JSON_FILE, content)
        write_page(directory / PAGE_FILE, dataset, qualities, found, result)
    if options.trim_idle is not None:
        trimmed = options.trim_idle
        out = directory.with_name(f"{directory.name}-trimmed") if trimmed == Path() else trimmed
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("trim", total=len(dataset))
            cut = trim(dataset, out, lambda _: progress.update(bar, advance=1))
        console.print(f"{out}: {cut:.1f} s of rest cut", soft_wrap=True)
    _show(result, found, directory, console)
    if options.json:
        print(json.dumps(result))
    return 0 if result["passed"] else 1


def _show(
    result: dict[str, Any], found: Sequence[Finding], directory: Path, console: Console
) -> None:
    for finding in [f for f in found if f.severity == ERROR][:20]:
        where = "" if finding.episode is None else f"episode {finding.episode}: "
        console.print(f"{finding.check}: {where}{finding.text}", soft_wrap=True)
    verdict = "passed" if result["passed"] else "FAILED"
    counts = "{episodes} episodes, {errors} errors, {warnings} warnings".format(**result)
    console.print(f"{verdict}: {counts}; {directory / PAGE_FILE}", soft_wrap=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
