"""`python -m calibration.bench --json`: calibration against the truth that the simulation knows.

Each seed draws where cameras and board truly are; views are rendered with sensor noise, detected
and solved, with the true intrinsics and with estimated ones. The last line is JSON: `true_k_mm`,
`true_k_deg`, `estimated_k_mm` and `estimated_k_deg` are the larger of the two cameras' median
errors; `interval_coverage` is the share of 95 % intervals (six a run) that hold the truth.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from scipy import stats

from calibration import capture, hand_eye, poses, session, viewpoints
from calibration.board import Board
from calibration.drift_bench import drift_rates
from calibration.fast_source import FastSource, board_world
from calibration.latency_bench import latency_error_ms
from calibration.solution import Solution
from calibration.source import ON_HAND
from contracts.calibration import CameraCalibration
from contracts.geometry import Vector
from simulation.calibration_board import BoardWorld

VIEWS: Final = 25
SEEDS: Final = 20
INTRINSICS: Final = {"true_k": "factory", "estimated_k": "estimated"}
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Run:
    """One solution against the truth: error, the intervals (6,) that hold it, and whether the
    joint 95 % region (Hotelling) does."""

    camera: str
    intrinsics: str
    seed: int
    mm: float
    deg: float
    held: tuple[bool, ...]
    region_held: bool
    found: CameraCalibration


def calibrate_once(camera: str, seed: int, board: Board, world: BoardWorld) -> list[Run]:
    """Capture once, solve with each kind of intrinsics."""
    source = FastSource(camera, seed, board, world)
    set_up = session.planned_set_up(source, board, None)
    route = viewpoints.plan(set_up, VIEWS, seed, spare=session.SPARE_VIEWS)
    view_set = capture.visit(source, board, route, VIEWS, lambda *_: None)
    truth = world.truth.camera_pose
    runs = []
    for name, intrinsics in INTRINSICS.items():
        solution, found = hand_eye.calibrate(view_set, board, intrinsics, datetime.now(UTC))
        mm, deg = poses.apart(solution.camera_pose, truth)
        held, region = covered(solution, truth)
        runs.append(Run(camera, name, seed, mm, deg, held, region, found))
    return runs


def covered(solution: Solution, truth: Vector) -> tuple[tuple[bool, ...], bool]:
    """Which of the six intervals hold the true pose (7,), and whether the joint region does."""
    error = poses.change_between(solution.camera_pose, truth)
    refined, size = solution.refined, len(error)
    held = tuple(bool(h) for h in np.abs(error) <= refined.half_widths)
    count = len(refined.observations)
    distance = float(error @ np.linalg.solve(refined.covariance[:size, :size], error))
    limit = size * (count - 1) / (count - size) * stats.f.ppf(0.95, size, count - size)
    return held, bool(distance <= limit)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The figures of the geometry."""
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for name in INTRINSICS:
        errors = {
            camera: [(r.mm, r.deg) for r in runs if (r.camera, r.intrinsics) == (camera, name)]
            for camera in ON_HAND
        }
        medians = {camera: np.median(values, axis=0) for camera, values in errors.items()}
        figures[f"{name}_mm"] = max(float(m[0]) for m in medians.values())
        figures[f"{name}_deg"] = max(float(m[1]) for m in medians.values())
        details[name] = {
            camera: {
                "median_mm": float(medians[camera][0]),
                "median_deg": float(medians[camera][1]),
                "worst_mm": max(mm for mm, _ in values),
                "worst_deg": max(deg for _, deg in values),
            }
            for camera, values in errors.items()
        }
    figures["interval_coverage"] = float(np.mean([r.held for r in runs]))
    figures["region_coverage"] = float(np.mean([r.region_held for r in runs]))
    return figures | {"details": details}


def run(seeds: int, console: Console) -> dict[str, Any]:
    """All figures."""
    board, runs = Board(), []
    with ExitStack() as stack, Progress(console=console, transient=True) as progress:
        task = progress.add_task("calibrating", total=seeds * len(ON_HAND))
        worlds = {camera: board_world(camera, board) for camera in ON_HAND}
        for world in worlds.values():
            stack.callback(world.close)
        for seed in range(seeds):
            for camera, world in worlds.items():
                runs += calibrate_once(camera, seed, board, world)
                progress.advance(task)
        figures = summary(runs)
        progress.update(task, description="latencies")
        figures["latency_error_ms"] = latency_error_ms(seeds)
        progress.update(task, description="drift")
        found = {r.seed: r.found for r in runs if (r.camera, r.intrinsics) == ("front", "true_k")}
        caught, refused = drift_rates(found, worlds["front"], board)
        figures |= {"moved_caught": caught, "unmoved_refused": refused}
    return figures | {"seeds": seeds, "views": VIEWS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if a calibration fails, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m calibration.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs a camera (default 20)")
    parser.add_argument("--json", action="store_true", help="only the line of JSON on stdout")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    try:
        figures = run(options.seeds, Console(stderr=True))
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    rounded = _rounded(figures)
    if not options.json:
        print(json.dumps(rounded, indent=1))
    print(json.dumps(rounded))
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
