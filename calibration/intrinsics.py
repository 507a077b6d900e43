"""`python -m calibration.intrinsics --camera front|wrist`: focal lengths, centre and distortion.

The arm (or, with `--by-hand`, a person) shows the board all over the picture; what is covered is
drawn on the newest picture (OUT/intrinsics-CAMERA.jpg). The result is compared with what the
camera says itself, and written to OUT/intrinsics-CAMERA.yaml for `hand_eye --intrinsics FILE`.
Exit code 0: measured; 1: it could not be; 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from rich.console import Console

from calibration import coverage, files
from calibration.board import Board, load_board
from calibration.capture_progress import CaptureProgress
from calibration.conflicts import OUTLIER_FACTOR
from calibration.coverage import Coverage
from calibration.detection import CaptureError, Detection, board_pose
from calibration.intrinsics_estimate import estimate_intrinsics
from calibration.intrinsics_file import save_intrinsics
from calibration.intrinsics_page import write_page
from calibration.pinhole import Intrinsics, project
from calibration.session import SessionConfig, add_arguments, open_source, take_views
from calibration.solution import folds
from calibration.source import MotionError
from calibration.views import LEAST_VIEWS, View, ViewSet, load_views, save_views, without
from contracts.geometry import Vector

LEAST_OUTLIER: Final = 0.3
COULD_NOT, INTERRUPTED = 1, 130


@dataclass(frozen=True)
class MeasuredIntrinsics:
    """Intrinsics, their standard errors (fx, fy, cx, cy) [px], and how well they fit.

    rms_px, hold_out_px: RMS over views that were used, and over views held out in turn;
    view_px: RMS of each view by number; outliers: those left out. factory_px: RMS distance between
    where these and the factory's intrinsics put the seen points, None without factory values.
    """

    views: ViewSet
    intrinsics: Intrinsics
    standard_errors: Vector
    rms_px: float
    hold_out_px: float
    view_px: Mapping[int, float]
    outliers: Mapping[int, float]
    coverage: Coverage
    factory_px: float | None


def measure(view_set: ViewSet, board: Board) -> MeasuredIntrinsics:
    """Intrinsics from views of the board.

    Raises:
        CaptureError: too few or parallel views, or parts of the picture never covered.
    """
    _check_count(view_set)
    first, _, errors = estimate_intrinsics(view_set, board)
    limit = max(LEAST_OUTLIER, OUTLIER_FACTOR * float(np.median(errors)))
    outliers = {
        view.number: float(error)
        for view, error in zip(view_set.views, errors, strict=True)
        if error > limit
    }
    kept = without(view_set, list(outliers))
    _check_count(kept)
    detections = [view.detection for view in kept.views]
    covered = Coverage.of(detections, *kept.size)
    coverage.check_coverage(covered, detections, board, first)
    found, rms, errors = estimate_intrinsics(kept, board)
    return MeasuredIntrinsics(
        views=kept,
        intrinsics=found,
        standard_errors=_standard_errors(kept, board, found),
        rms_px=rms,
        hold_out_px=_hold_out(kept, board),
        view_px={v.number: float(e) for v, e in zip(kept.views, errors, strict=True)},
        outliers=outliers,
        coverage=covered,
        factory_px=_factory_distance(kept, found),
    )


def _check_count(view_set: ViewSet) -> None:
    if len(view_set) < LEAST_VIEWS:
        raise CaptureError(f"too few views: {len(view_set)}, at least {LEAST_VIEWS} are needed")


def _hold_out(view_set: ViewSet, board: Board) -> float:
    """RMS [px] of views under intrinsics that were found without them."""
    squares: list[float] = []
    for held in folds(len(view_set)):
        numbers = [view_set.views[i].number for i in held]
        found, _, _ = estimate_intrinsics(without(view_set, numbers), board)
        squares += [board_pose(view_set.views[i].detection, board, found)[1] ** 2 for i in held]
    return float(np.sqrt(np.mean(squares)))


def _standard_errors(view_set: ViewSet, board: Board, found: Intrinsics) -> Vector:
    """Standard errors (4,) of fx, fy, cx, cy: delete-one-fold jackknife.

    Source: Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3 (grouped jackknife).
    """
    values = []
    groups = folds(len(view_set))
    for held in groups:
        numbers = [view_set.views[i].number for i in held]
        k, _, _ = estimate_intrinsics(without(view_set, numbers), board)
        values.append([k.fx, k.fy, k.cx, k.cy])
    spread = np.array(values) - [found.fx, found.fy, found.cx, found.cy]
    count = len(groups)
    return np.asarray(np.sqrt((count - 1) / count * np.sum(spread**2, axis=0)))


def _factory_distance(view_set: ViewSet, found: Intrinsics) -> float | None:
    """RMS distance [px] between the two over the covered part of the picture."""
    factory = view_set.factory
    if factory is None:
        return None
    pixels = np.concatenate([view.detection.corners for view in view_set.views])
    rays = cv2.undistortPoints(pixels[:, None], found.matrix, found.coefficients)[:, 0]
    seen = project(np.column_stack([rays, np.ones(len(rays))]), factory)
    return float(np.sqrt(np.mean(np.sum((seen - pixels) ** 2, axis=1))))


class GuidedCapture(CaptureProgress):
    """A capture that draws what is covered and says where the board should go next."""

    def __init__(self, console: Console, count: int, path: Path) -> None:
        super().__init__(console, count)
        self._path = path
        self._seen: list[Detection] = []

    def tell(self, count: int, view: View | None, reason: str) -> None:
        super().tell(count, view, reason)
        if view is None:
            return
        self._seen.append(view.detection)
        height, width = view.image.shape[:2]
        covered = Coverage.of(self._seen, width, height)
        self.hint = covered.hint
        drawn = coverage.draw(view.image, view.detection, covered)
        encoded = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1]
        files.write_atomically(self._path, encoded.tobytes())


def summary(measured: MeasuredIntrinsics) -> dict[str, Any]:
    """The result for a machine."""
    k, factory = measured.intrinsics, measured.views.factory
    return {
        "camera": measured.views.camera,
        "intrinsics": vars(k),
        "standard_errors_px": measured.standard_errors.tolist(),
        "factory": None if factory is None else vars(factory),
        "factory_distance_px": measured.factory_px,
        "rms_px": measured.rms_px,
        "hold_out_px": measured.hold_out_px,
        "view_px": {str(number): px for number, px in measured.view_px.items()},
        "outliers": {str(number): px for number, px in measured.outliers.items()},
        "coverage": measured.coverage.share,
    }


def run(config: SessionConfig, console: Console) -> MeasuredIntrinsics:
    """Take or read views, measure, and write the file, the page and the JSON.

    Raises:
        CaptureError, MotionError, ValueError, OSError: the text says why.
    """
    now = datetime.now(UTC)
    board = Board() if config.board is None else load_board(config.board)
    if config.recorded is not None:
        view_set = load_views(config.recorded, board)
    else:
        picture = config.out / f"intrinsics-{config.camera}.jpg"
        with (
            open_source(config, board) as (source, _),
            GuidedCapture(console, config.views, picture) as shown,
        ):
            view_set = take_views(config, source, board, None, shown)
        folder = config.out / "views" / f"intrinsics-{config.camera}_{now:%Y-%m-%d_%H%M%S}"
        save_views(view_set, folder)
        console.print(f"raw views: {folder}")
    with console.status("solving"):
        measured = measure(view_set, board)
    stem = config.out / f"intrinsics-{config.camera}"
    save_intrinsics(
        stem.with_suffix(".yaml"), measured.intrinsics, view_set.camera, view_set.serial,
        measured.rms_px, now.date(),
    )  # fmt: skip
    write_page(stem.with_suffix(".html"), measured)
    files.write_atomically(
        stem.with_suffix(".json"), json.dumps(summary(measured), indent=1).encode()
    )
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code as the module says."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    try:
        as_json = options.__dict__.pop("json")
        config = SessionConfig(**vars(options))
        measured = run(config, console)
    except KeyboardInterrupt:
        print("intrinsics: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (CaptureError, MotionError, ValueError, OSError) as error:
        print(f"intrinsics: {error}", file=sys.stderr)
        return COULD_NOT
    k = measured.intrinsics
    print(
        f"{config.camera}: f = {k.fx:.2f}, {k.fy:.2f} px, centre {k.cx:.2f}, {k.cy:.2f} px; "
        f"RMS {measured.rms_px:.3f} px, {measured.hold_out_px:.3f} px on views not seen"
    )
    if measured.factory_px is not None:
        print(f"the factory's intrinsics put the corners {measured.factory_px:.2f} px away (RMS)")
    if measured.outliers:
        print(
            "left out:", ", ".join(f"view {n} ({e:.1f} px)" for n, e in measured.outliers.items())
        )
    print(config.out / f"intrinsics-{config.camera}.html")
    if as_json:
        print(json.dumps(summary(measured)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m calibration.intrinsics", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
