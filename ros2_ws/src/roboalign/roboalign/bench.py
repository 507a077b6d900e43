"""How the robot runtime moves: real-time chunking against synchronous execution, on the live graph.

`python -m roboalign.bench --json` brings the whole graph up on the simulated arm, with a policy
server that answers 50, 150 and 300 ms later than it could, and runs the same starts in both modes.
The page is DIR/bench.html; the last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from roboalign import bench_page
from roboalign.bench_figures import Measured, by_mode, figures, measure, verdicts
from roboalign.bench_trials import BenchFailed, LiveTrials, Trial, live_trials, plan, starts
from roboalign.supervisor import GraphDied
from simulation.live_control import LiveControlError

PERIOD_S = 0.01
"""Of the arm node's control loop."""
DELAYS_MS = (50, 150, 300)
PAIRED_DELAY_MS = 150
TRIALS = 48
SIDE_TRIALS = 4
SEED = 9000


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run every trial and write the page; return the JSON line's content.

    Raises:
        BenchFailed, GraphDied, LiveControlError, OSError: the text says what is wrong.
    """
    directory: Path = options.out
    directory.mkdir(parents=True, exist_ok=True)
    first = starts(options.trials, options.seed)
    trials = plan(first, first[: options.side_trials], DELAYS_MS, PAIRED_DELAY_MS)
    measured: list[Measured] = []
    traces: dict[str, bench_page.SpeedTrace] = {}
    with Progress(
        TextColumn("{task.description:<58}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=len(trials))

        def tell(text: str) -> None:
            progress.update(bar, description=text)

        try:
            with (
                live_trials(options.bundle, directory / "logs", tell) as live,
                (directory / "trials.jsonl").open("w", encoding="utf-8") as lines,
            ):
                for trial in trials:
                    measured.append(_run_one(live, trial, traces))
                    lines.write(json.dumps(measured[-1].as_json()) + "\n")
                    lines.flush()
                    progress.advance(bar)
        finally:
            # Whatever ends the run: what it has measured by then took long enough.
            content = _write_results(directory, measured, traces)
    return content


def _write_results(
    directory: Path, measured: Sequence[Measured], traces: Mapping[str, bench_page.SpeedTrace]
) -> dict[str, Any]:
    """Write bench.json and bench.html; return what the former holds."""
    found = figures(measured, PAIRED_DELAY_MS, PERIOD_S)
    content: dict[str, Any] = {
        **found,
        "missed": [row["name"] for row in verdicts(found) if not row["kept"]],
        "modes": by_mode(measured),
        "load_average": round(os.getloadavg()[2], 2),
        "cores": os.cpu_count(),
    }
    _write(directory / "bench.json", json.dumps(content, indent=1) + "\n")
    page = bench_page.render(content, verdicts(found), measured, traces, datetime.now())
    _write(directory / "bench.html", page)
    return content


def _run_one(live: LiveTrials, trial: Trial, traces: dict[str, bench_page.SpeedTrace]) -> Measured:
    outcome, recording = live.run(trial)
    if not recording.setpoints:
        raise BenchFailed("no setpoint was recorded: does the arm node run, and does it publish?")
    stream, chunks = recording.stream(), recording.traces()
    if trial.delay_ms == PAIRED_DELAY_MS and str(trial.mode) not in traces:
        traces[str(trial.mode)] = bench_page.SpeedTrace.of(stream.following())
    filter_us = [m.filter_us for m in recording.setpoints if m.chunk_id]
    return measure(outcome, stream, chunks, filter_us, recording.stage_times, PERIOD_S)


def _write(path: Path, text: str) -> None:
    """The whole file or none."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m roboalign.bench",
        description="real-time chunking against synchronous execution, on the live graph",
    )
    parser.add_argument("--trials", type=int, default=TRIALS, help="paired trials at 150 ms")
    parser.add_argument(
        "--side-trials",
        type=int,
        default=SIDE_TRIALS,
        help="trials a mode at the other latencies, and with temporal ensembling",
    )
    parser.add_argument("--seed", type=int, default=SEED, help="first seed of the placements")
    parser.add_argument("--bundle", default="shipped", help="name or directory of a policy bundle")
    parser.add_argument("--out", type=Path, default=Path("runs/runtime-bench"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="only the JSON line on stdout")
    options = parser.parse_args(arguments)
    if options.trials < 1 or not 0 <= options.side_trials <= options.trials or options.seed < 0:
        parser.error("--trials must be at least 1, --side-trials 0..trials, --seed not negative")
    return options


class _Ended(BaseException):
    """SIGTERM."""


def _end(*_: int | FrameType | None) -> None:
    raise _Ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 done, 1 failed, 130 or 143 ended by a signal."""
    options = _parse(arguments)
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _end)
    missing = [name for name in ("rclpy", "roboalign_msgs") if find_spec(name) is None]
    if missing:
        print(f"bench: {', '.join(missing)} not installed here: run `make setup`", file=sys.stderr)
        return 1
    try:
        content = run(options, console)
    except (BenchFailed, GraphDied, LiveControlError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except _Ended:
        return 143
    if not options.json:
        for row in verdicts(content):
            mark = {True: "ok    ", False: "MISSED", None: "?     "}[row["kept"]]
            print(f"{mark} {row['name']:<28} {row['value']}  ({row['bound']})")
        print(f"page: {options.out / 'bench.html'}")
    print(json.dumps(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
