"""The page of a check: where each camera should see the board, and where it does."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from calibration.board import Board
from calibration.check_views import TakenView
from calibration.drift import Drift, Verdict, board_pixels
from contracts.calibration import Calibration, CameraCalibration
from contracts.geometry import Vector

TEMPLATE: Final = "check_page.html.j2"
MAGNIFIED: Final = 10
"""Arrows are drawn this many times as long as the corner is off."""
QUALITY: Final = 80
BACKEND_WORDS: Final = {
    "fast": "simulated in process, with the sensor's noise",
    "live": "live: arm by libfranka, pictures by librealsense",
}


@dataclass(frozen=True)
class CheckedCamera:
    """A camera's calibration, the board, the result, the views and the time they took [s]."""

    camera: CameraCalibration
    board: Board
    drift: Drift
    views: Sequence[TakenView]
    seconds: float


@dataclass(frozen=True)
class Overlay:
    """One picture with what to draw on it, in its pixels: outlines as SVG points, corners, arrows.

    before, after: the board as the calibration and as the new pose see it. off_px: RMS distance of
    the corners from where the calibration has them.
    """

    picture: str
    width: int
    height: int
    before: str
    after: str
    corners: Sequence[tuple[float, float]]
    arrows: Sequence[tuple[float, float, float, float]]
    off_px: float
    problem: str


def render_page(checked: Sequence[CheckedCamera], calibration: Calibration, backend: str) -> str:
    """The page as HTML, whole in itself."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        checked=checked,
        overlays={entry.drift.camera: overlays(entry) for entry in checked},
        refused=any(entry.drift.refused for entry in checked),
        calibration=calibration,
        backend=BACKEND_WORDS[backend],
        magnified=MAGNIFIED,
        Verdict=Verdict,
        written=datetime.now().strftime("%-d %B %Y, %H:%M"),
    )


def overlays(entry: CheckedCamera) -> list[Overlay]:
    """Every view of a camera, the one that is off most first."""
    now = replace(entry.camera, pose=entry.drift.pose, board_pose=entry.drift.board_pose)
    drawn = [_overlay(view, entry.camera, now, entry.board) for view in entry.views]
    return sorted(drawn, key=lambda overlay: -overlay.off_px)


def _overlay(
    view: TakenView, camera: CameraCalibration, now: CameraCalibration, board: Board
) -> Overlay:
    height, width = view.image.shape[:2]
    corners, arrows, off = [], [], 0.0
    if view.view is not None:
        found = view.view.detection
        seen = np.asarray(found.corners)
        expected = board_pixels(view.hand, camera, board.corners[found.ids])
        corners = [(float(x), float(y)) for x, y in seen]
        tips = expected + MAGNIFIED * (seen - expected)
        ends = np.concatenate([expected, tips], axis=1).tolist()
        arrows = [(x1, y1, x2, y2) for x1, y1, x2, y2 in ends]
        off = float(np.sqrt(((seen - expected) ** 2).sum(axis=1).mean()))
    return Overlay(
        picture=_data_uri(view.image),
        width=width,
        height=height,
        before=_points(board_pixels(view.hand, camera, board.outline)),
        after=_points(board_pixels(view.hand, now, board.outline)),
        corners=corners,
        arrows=arrows,
        off_px=off,
        problem=view.problem,
    )


def _points(pixels: Vector) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in pixels.tolist())


def _data_uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
