"""`python -m calibration.check`: are the cameras still where the calibration says?

The arm shows the board to each camera from a few poses; 20 seconds a camera. Exit code 0: all in
place; 3: refused, a camera moved or it cannot be shown that it did not; 1: the check could not be
made; 130: Ctrl-C. Calibrations are only read here: whatever happens, the last one stays in force.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Until there is something to clean up: end at once, no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from calibration import files
from calibration.board import Board
from calibration.check_page import CheckedCamera, render_page
from calibration.check_views import (
    VIEWS,
    camera_of,
    check_source,
    open_source,
    plan_views,
    take_views,
)
from calibration.detection import CaptureError
from calibration.drift import DriftError, DriftLimits, measure_drift
from calibration.gate import gate_problems
from calibration.live_link import Bump
from calibration.source import MotionError
from calibration.store import CalibrationStore, read_calibration
from contracts.calibration import Calibration

CAMERAS: Final = ("front", "wrist")
SIMULATED: Final = Path(__file__).parent / "defaults" / "simulated.yaml"
STORE: Final = Path("runs/calibration/calibrations")
COULD_NOT: Final = 1
REFUSED: Final = 3
INTERRUPTED: Final = 130
PLACE_BOARD: Final = {
    "base": "put the board into the hand, as at calibration",
    "hand": "lay the board on the table, where it was at calibration",
}
ERRORS: Final = (DriftError, MotionError, CaptureError, ValueError, OSError)


@dataclass(frozen=True)
class CheckConfig:
    """What to check: cameras by name, with serial numbers where the robot is real."""

    backend: str
    cameras: Sequence[str]
    address: str
    serials: Mapping[str, str]
    views: int
    bump: Bump


def check_camera(
    name: str, calibration: Calibration, config: CheckConfig, progress: Progress
) -> CheckedCamera:
    """Check one camera.

    Raises:
        DriftError, MotionError, CaptureError: the check could not be made; the text says why.
    """
    camera = camera_of(calibration, name)
    problems = gate_problems(camera)
    if problems:
        raise DriftError("; ".join(problems) + ": calibrate again")
    board = Board.from_document(calibration.board) if calibration.board else Board()
    task = progress.add_task(f"{name}: planning", total=config.views)
    route = plan_views(camera, board, config.views)
    if config.address:
        _ask(f"{name}: {PLACE_BOARD[camera.frame]}; on Enter the arm moves", progress)
    progress.update(task, description=f"{name}: starting")
    serial = config.serials.get(name, "")
    with open_source(config.backend, name, board, config.address, serial, config.bump) as source:
        check_source(calibration, source)
        progress.update(task, description=f"{name}: looking")
        started = time.monotonic()
        views = take_views(source, board, route, lambda done: progress.update(task, completed=done))
        seconds = time.monotonic() - started
    seen = [view.view for view in views if view.view is not None]
    if len(seen) < DriftLimits().fewest_views:
        reasons = sorted({view.problem for view in views if view.problem})
        raise DriftError(
            f"camera {name}: the board was seen in {len(seen)} of {len(views)} views: "
            + "; ".join(reasons)
        )
    drift = measure_drift(seen, camera, board)
    return CheckedCamera(camera, board, drift, views, seconds)


def run(
    config: CheckConfig, calibration: Calibration, out: Path, console: Console
) -> list[CheckedCamera]:
    """Check all cameras, write `check.html` and `check.json` to `out`."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        checked = [check_camera(name, calibration, config, progress) for name in config.cameras]
    page = render_page(checked, calibration, config.backend)
    files.write_atomically(out / "check.html", page.encode())
    text = json.dumps(summary(checked), indent=2)
    files.write_atomically(out / "check.json", text.encode())
    return checked


def summary(checked: Sequence[CheckedCamera]) -> dict[str, Any]:
    """The result for a machine."""
    cameras = {}
    for entry in checked:
        d = entry.drift
        cameras[d.camera] = {
            "verdict": str(d.verdict),
            "moved_mm": round(d.mm, 3),
            "moved_deg": round(d.deg, 4),
            "margin_mm": round(d.margin_mm, 3),
            "margin_deg": round(d.margin_deg, 4),
            "limit_mm": d.limits.mm,
            "limit_deg": d.limits.deg,
            "before_px": round(d.before_px, 3),
            "after_px": round(d.after_px, 3),
            "views": d.views,
            "seconds": round(entry.seconds, 1),
        }
    return {"refused": any(entry.drift.refused for entry in checked), "cameras": cameras}


def load_in_force(path: Path | None, simulated: bool) -> Calibration:
    """The calibration to compare with. Raises ValueError: there is none, or it cannot be read."""
    if path is None and simulated:
        path = SIMULATED
    if path is not None:
        return read_calibration(path)
    found = CalibrationStore(STORE).in_force()
    if found is None:
        raise ValueError(
            f"no calibration in {STORE}: calibrate first (python -m calibration.hand_eye), or give "
            "a file with --calibration"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code as the module says."""
    options = _parser().parse_args(arguments)
    # A shell starts what runs in its background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # Standard output is for the result alone.
    console = Console(stderr=True)
    try:
        config = _config(options)
        calibration = load_in_force(options.calibration, not options.robot_ip)
        checked = run(config, calibration, options.out, console)
    except KeyboardInterrupt:
        print("check: interrupted; the arm rests", file=sys.stderr)
        return INTERRUPTED
    except ERRORS as error:
        print(f"check: {error}", file=sys.stderr)
        return COULD_NOT
    for entry in checked:
        print(entry.drift.sentence)
    print(options.out / "check.html")
    if options.json:
        print(json.dumps(summary(checked)))
    return REFUSED if any(entry.drift.refused for entry in checked) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m calibration.check", description=__doc__)
    add = parser.add_argument
    add("--backend", choices=("fast", "live"), default="fast", help="default fast: in process")
    add("--camera", choices=(*CAMERAS, "all"), default="all")
    add("--robot-ip", default="", help="a real arm (with --backend live); default: a simulated one")
    add("--serial", action="append", default=[], metavar="NAME=NUMBER", help="of a real camera")
    add("--calibration", type=Path, help=f"file; default: in force in {STORE}, or the simulation's")
    add("--views", type=int, default=VIEWS, help=f"poses a camera (default {VIEWS})")
    add("--bump-mm", type=float, default=0.0, help="rehearsal: move the simulated cameras first")
    add("--out", type=Path, default=Path("runs/check"), help="folder for the page")
    add("--json", action="store_true", help="end with one line of JSON")
    return parser


def _config(options: argparse.Namespace) -> CheckConfig:
    """Raises ValueError: options that contradict each other."""
    if options.robot_ip and options.backend != "live":
        raise ValueError("--robot-ip needs --backend live")
    if options.robot_ip and options.bump_mm:
        raise ValueError("--bump-mm is for simulated cameras")
    if options.views < DriftLimits().fewest_views:
        raise ValueError(f"--views must be at least {DriftLimits().fewest_views}")
    serials = {}
    for text in options.serial:
        name, mark, number = text.partition("=")
        if name not in CAMERAS or not mark or not number:
            raise ValueError(f"--serial {text}: give front=NUMBER or wrist=NUMBER")
        serials[name] = number
    return CheckConfig(
        backend=options.backend,
        cameras=CAMERAS if options.camera == "all" else (options.camera,),
        address=options.robot_ip,
        serials=serials,
        views=options.views,
        bump=Bump(shift=(1e-3 * options.bump_mm, 0.0, 0.0)),
    )


def _ask(text: str, progress: Progress) -> None:
    progress.console.print(text)
    if sys.stdin.isatty():
        progress.stop()
        input()
        progress.start()


if __name__ == "__main__":
    sys.exit(main())
