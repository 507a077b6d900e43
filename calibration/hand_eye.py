"""`python -m calibration.hand_eye --camera front|wrist`: where is the camera?

The arm shows the board to the front camera, or the wrist camera to the board on the table, from
planned viewpoints (or `--by-hand`). The result is put into force as a new dated file under
OUT/calibrations if it holds on views that it has not seen; after any refusal the last one stays in
force. Raw views and a page with pictures are kept either way. Exit code 0: in force; 3: refused;
1: it could not be made; 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibration import files, poses
from calibration.board import Board, load_board
from calibration.capture_progress import CaptureProgress
from calibration.detection import CaptureError
from calibration.gate import gate_problems
from calibration.intrinsics_file import load_intrinsics
from calibration.pinhole import Intrinsics
from calibration.report import Outcome, write_report
from calibration.session import SessionConfig, add_arguments, open_source, take_views
from calibration.solution import Solution, solve
from calibration.source import MotionError
from calibration.store import CalibrationStore, check_owner
from calibration.views import ViewSet, load_views, save_views
from contracts.calibration import Calibration, CameraCalibration
from contracts.geometry import Vector

COULD_NOT, REFUSED, INTERRUPTED = 1, 3, 130


class CalibrationRefused(ValueError):
    """The calibration is not good enough to be put into force; the text says why."""


@dataclass(frozen=True)
class HandEyeConfig(SessionConfig):
    """One calibration of one camera.

    intrinsics: `factory`, `estimated`, or the file that `calibration.intrinsics` wrote.
    new_camera: another camera took the place of the last one.
    """

    intrinsics: str = "factory"
    new_camera: bool = False


def calibrate(
    view_set: ViewSet, board: Board, intrinsics: str, made_on: datetime
) -> tuple[Solution, CameraCalibration]:
    """Solve, and put it in the form of the calibration file.

    Raises:
        CaptureError: the views are not good enough; the text says which and why.
        ValueError: the intrinsics' file is wrong, or another camera's.
    """
    solution = solve(view_set, board, _given_intrinsics(view_set, intrinsics))
    k = solution.intrinsics
    return solution, CameraCalibration(
        name=view_set.camera,
        serial=view_set.serial,
        width=k.width,
        height=k.height,
        fx=k.fx,
        fy=k.fy,
        cx=k.cx,
        cy=k.cy,
        distortion=k.distortion,
        frame="hand" if view_set.on_hand else "base",
        pose=solution.camera_pose,
        residual_px=solution.hold_out.rms_px,
        residual_mm=solution.hold_out.rms_mm,
        standard_errors=tuple(solution.refined.standard_errors.tolist()),
        board_pose=solution.board_pose,
        intrinsics_source=Path(intrinsics).name,
        calibrated_on=made_on.date(),
        views=len(solution.views),
    )


def _given_intrinsics(view_set: ViewSet, wanted: str) -> Intrinsics | None:
    if wanted == "estimated":
        return None
    if wanted == "factory":
        if view_set.factory is None:
            raise CaptureError(
                "this camera tells no factory intrinsics: use --intrinsics estimated, or measure "
                "them with `python -m calibration.intrinsics`"
            )
        return view_set.factory
    return load_intrinsics(Path(wanted), view_set.camera, view_set.serial)


def run(config: HandEyeConfig, console: Console) -> Outcome:
    """Take the views, solve, judge, put into force, and write page and JSON.

    Raises:
        CaptureError, MotionError, ValueError, OSError: it could not be made; the text says why.
        CalibrationRefused: it is not good enough. The last calibration stays in force either way.
    """
    now, started = datetime.now(UTC), time.monotonic()
    store = CalibrationStore(config.out / "calibrations")
    last = store.in_force()
    board = _board(config, last)
    view_set, truth = _views(config, board, last, console)
    _check_last(config, last, view_set, store)
    if config.recorded is None:
        folder = config.out / "views" / f"{config.camera}_{now:%Y-%m-%d_%H%M%S}"
        save_views(view_set, folder)
        console.print(f"raw views: {folder}")
    with console.status("solving"):
        solution, camera = calibrate(view_set, board, config.intrinsics, now)
    before = None if last is None else last.cameras.get(config.camera)
    outcome = Outcome(
        solution, camera, before, truth, tuple(gate_problems(camera)), time.monotonic() - started
    )
    write_report(config.out / f"{config.camera}.html", outcome, board, config.backend)
    text = json.dumps(dataclasses.asdict(config) | summary(outcome), indent=1, default=str)
    files.write_atomically(config.out / f"{config.camera}.json", text.encode())
    if outcome.problems:
        raise CalibrationRefused("; ".join(outcome.problems))
    store.write(_merged(last, view_set, camera, board, now), now)
    return outcome


def summary(outcome: Outcome) -> dict[str, Any]:
    """The result for a machine."""
    solution = outcome.solution
    numbers: dict[str, Any] = {
        "camera": outcome.camera.name,
        "pose": outcome.camera.pose.tolist(),
        "half_widths_mm": (1e3 * solution.refined.half_widths[:3]).tolist(),
        "half_widths_deg": np.degrees(solution.refined.half_widths[3:]).tolist(),
        "hold_out_px": solution.hold_out.rms_px,
        "hold_out_mm": solution.hold_out.rms_mm,
        "views": len(solution.views),
        "outliers": {str(number): px for number, px in solution.outliers.items()},
        "solver": solution.solver,
        "solver_px": dict(solution.solver_px),
        "board_scale": solution.scale,
        "problems": list(outcome.problems),
        "seconds": outcome.seconds,
    }
    if outcome.truth is not None:
        mm, degrees = poses.apart(outcome.camera.pose, outcome.truth)
        numbers |= {"error_mm": mm, "error_deg": degrees}
    return numbers


def sentences(outcome: Outcome) -> list[str]:
    """The result for a person."""
    s, camera = outcome.solution, outcome.camera
    widths = s.refined.half_widths
    where = ", ".join(f"{1e3 * x:.1f}" for x in camera.pose[:3])
    lines = [
        f"{camera.name}: at ({where}) mm in the {camera.frame}, known to "
        f"{1e3 * widths[:3].max():.2f} mm and {np.degrees(widths[3:].max()):.3f} degrees (95 %)",
        f"on views not seen: {s.hold_out.rms_px:.2f} px, {s.hold_out.rms_mm:.2f} mm (RMS of "
        f"{len(s.views)}); solver {s.solver}, then refined",
    ]
    if s.outliers:
        named = ", ".join(f"view {number} ({px:.1f} px)" for number, px in s.outliers.items())
        lines.append(f"left out: {named}")
    if outcome.truth is not None:
        mm, degrees = poses.apart(camera.pose, outcome.truth)
        lines.append(f"the simulation knows the truth: {mm:.2f} mm and {degrees:.3f} degrees off")
    return lines


def _board(config: HandEyeConfig, last: Calibration | None) -> Board:
    """The board given, else the one used last, else the one that `calibration.board` draws."""
    if config.board is not None:
        return load_board(config.board)
    return Board() if last is None or last.board is None else Board.from_document(last.board)


def _views(
    config: HandEyeConfig, board: Board, last: Calibration | None, console: Console
) -> tuple[ViewSet, Vector | None]:
    """The views to solve, and the camera's true pose (7,) where it is known."""
    if config.recorded is not None:
        return load_views(config.recorded, board), None
    with (
        open_source(config, board) as (source, truth),
        CaptureProgress(console, config.views) as shown,
    ):
        return take_views(config, source, board, last, shown), truth


def _check_last(
    config: HandEyeConfig, last: Calibration | None, view_set: ViewSet, store: CalibrationStore
) -> None:
    """Raises ValueError: the views or the last calibration are another robot's or camera's."""
    if view_set.camera != config.camera:
        raise ValueError(f"{config.recorded} has views of {view_set.camera}, not {config.camera}")
    if last is not None:
        known = last.cameras.get(config.camera)
        serial = view_set.serial if known is None or not config.new_camera else known.serial
        check_owner(last, view_set.robot, config.camera, serial, store.path_in_force())


def _merged(
    last: Calibration | None,
    view_set: ViewSet,
    camera: CameraCalibration,
    board: Board,
    now: datetime,
) -> Calibration:
    """The last calibration with this camera's part new."""
    others = {} if last is None else dict(last.cameras)
    return Calibration(
        robot=view_set.robot,
        made_on=now.date(),
        cameras=others | {camera.name: camera},
        latencies=None if last is None else last.latencies,
        board=board.to_document(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code as the module says."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)  # standard output is for the result alone
    try:
        as_json = options.__dict__.pop("json")
        config = HandEyeConfig(**vars(options))
        outcome = run(config, console)
    except KeyboardInterrupt:
        print("hand_eye: interrupted; the last calibration stays in force", file=sys.stderr)
        return INTERRUPTED
    except CalibrationRefused as error:
        print(f"hand_eye: refused: {error}; the last stays in force", file=sys.stderr)
        return REFUSED
    except (CaptureError, MotionError, ValueError, OSError) as error:
        print(f"hand_eye: {error}; the last calibration stays in force", file=sys.stderr)
        return COULD_NOT
    print(*sentences(outcome), sep="\n")
    print(config.out / f"{config.camera}.html")
    if as_json:
        print(json.dumps(summary(outcome)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m calibration.hand_eye", description=__doc__)
    add_arguments(parser)
    add = parser.add_argument
    add("--intrinsics", default="factory", help="factory (default), estimated, or a file")
    add("--new-camera", action="store_true", help="another camera took the place of the last one")
    add("--json", action="store_true", help="end with one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
