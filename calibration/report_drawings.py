"""Drawings of the report as plain numbers: overlays on pictures, the scene in space, scatter."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from calibration import poses
from calibration.board import Board
from calibration.pinhole import Intrinsics, project
from calibration.refinement import Estimate
from calibration.views import View
from contracts.geometry import Vector

MAGNIFIED: Final = 100
"""Residual arrows are drawn this many times as long as they are."""
JPEG_QUALITY: Final = 78
AZIMUTH, ELEVATION = np.deg2rad(-55.0), np.deg2rad(24.0)
"""Whence the scene is seen: from before the robot, from its right and above."""
SCENE_SIZE: Final = (640.0, 430.0)
FRUSTUM_DEPTH: Final = {False: 0.16, True: 0.06}
"""Drawn depth [m] of a camera's pyramid, by `on_hand`."""
SCATTER_RANGE: Final = 0.6
"""Pixels from the middle to the edge of the scatter."""


@dataclass(frozen=True)
class Overlay:
    """One view's picture as a data URI and what is drawn on it, in its pixels.

    before, after: the board's outline as SVG points, as the old and the new calibration see it;
    arrows: from each corner, its residual magnified.
    """

    number: int
    picture: str
    width: int
    height: int
    before: str
    after: str
    corners: Sequence[tuple[float, float]]
    arrows: Sequence[tuple[float, ...]]
    rms_px: float
    hold_out_px: float | None
    hold_out_mm: float | None
    left_out: bool


@dataclass(frozen=True)
class Shape:
    """Lines of one thing in the scene: SVG points of polygons, and a class for its look."""

    look: str
    polygons: Sequence[str]


def overlay(
    view: View, board: Board, predicted: Vector, before: str, after: str, **numbers: object
) -> Overlay:
    """Overlay of a view; predicted: places (n, 2) [px] of its corners by the new calibration."""
    height, width = view.image.shape[:2]
    seen = view.detection.corners
    tips = seen + MAGNIFIED * (predicted - seen)
    return Overlay(
        number=view.number,
        picture=picture_uri(view.image),
        width=width,
        height=height,
        before=before,
        after=after,
        corners=[tuple(corner) for corner in np.round(seen, 1).tolist()],
        arrows=[tuple(row) for row in np.round(np.hstack([seen, tips]), 1).tolist()],
        rms_px=float(np.sqrt(np.mean(np.sum((predicted - seen) ** 2, axis=1)))),
        **numbers,  # type: ignore[arg-type]
    )


def picture_uri(image: np.ndarray) -> str:
    """A picture (height, width, 3) uint8 RGB as a JPEG data URI."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def points(pixels: Vector) -> str:
    """Places (n, 2) as SVG points; those behind the camera are left out."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels.tolist() if np.isfinite([x, y]).all())


def board_outline(estimate: Estimate, chain: Vector, board: Board) -> str:
    """The board's outline in the picture taken at `chain` (4, 4)."""
    view = poses.inverse(estimate.camera) @ chain @ estimate.boards[0]
    corners = board.outline @ view[:3, :3].T + view[:3, 3]
    return points(project(corners, estimate.intrinsics))


def scene(
    new: Estimate,
    old: Estimate | None,
    chains: Vector,
    board: Board,
    on_hand: bool,
) -> list[Shape]:
    """Table, robot base, boards and cameras of all views, seen in perspective from the side."""
    hands = poses.inverse(chains) if on_hand else chains
    cameras = hands @ new.camera if on_hand else new.camera[None]
    boards = new.boards[0][None] if on_hand else hands @ new.boards[0]
    looks: list[tuple[str, list[Vector]]] = [
        ("table", [np.array([[-0.15, -0.6, 0], [0.95, -0.6, 0], [0.95, 0.6, 0], [-0.15, 0.6, 0]])]),
        ("robot", _robot(hands)),
        ("board", [_placed(board.outline, matrix) for matrix in boards]),
    ]
    depth = FRUSTUM_DEPTH[on_hand]
    if old is not None:
        before = hands[:1] @ old.camera if on_hand else old.camera[None]
        looks.append(("before", _frustums(before, old.intrinsics, depth)))
    looks.append(("camera", _frustums(cameras, new.intrinsics, depth)))
    flat = [(look, [_from_the_side(p) for p in polygons]) for look, polygons in looks]
    everything = np.concatenate([p for _, polygons in flat for p in polygons])
    low, high = everything.min(axis=0), everything.max(axis=0)
    zoom = float(np.min((np.array(SCENE_SIZE) - 20.0) / (high - low)))
    middle = (low + high) / 2
    return [
        Shape(look, [points((p - middle) * zoom + np.array(SCENE_SIZE) / 2) for p in polygons])
        for look, polygons in flat
    ]


def _robot(hands: Vector) -> list[Vector]:
    """The base as a column, and a short line for each place of the hand."""
    square = 0.07 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    top = square + [0.0, 0.0, 0.33]
    sides = [np.array([square[i], square[i - 1], top[i - 1], top[i]]) for i in range(4)]
    return [*sides, top, *(np.array([h[:3, 3], h[:3, 3] + 0.06 * h[:3, 2]]) for h in hands)]


def _frustums(cameras: Vector, k: Intrinsics, depth: float) -> list[Vector]:
    """Four triangles and the picture's rectangle of each camera (n, 4, 4)."""
    pixels = np.array([[0, 0], [k.width, 0], [k.width, k.height], [0, k.height]], dtype=float)
    rays = np.column_stack([(pixels[:, 0] - k.cx) / k.fx, (pixels[:, 1] - k.cy) / k.fy, np.ones(4)])
    shapes = []
    for camera in cameras:
        far = _placed(depth * rays, camera)
        eye = camera[:3, 3]
        shapes += [np.array([eye, far[i], far[(i + 1) % 4]]) for i in range(4)]
    return shapes


def _placed(corners: Vector, matrix: Vector) -> Vector:
    return np.asarray(corners @ matrix[:3, :3].T + matrix[:3, 3])


def _from_the_side(corners: Vector) -> Vector:
    """Orthographic view (n, 2) of points (n, 3): x right, y down."""
    right = np.array([-np.sin(AZIMUTH), np.cos(AZIMUTH), 0.0])
    level = np.cos(ELEVATION)
    towards = np.array([np.cos(AZIMUTH) * level, np.sin(AZIMUTH) * level, np.sin(ELEVATION)])
    up = np.cross(towards, right)
    return np.column_stack([corners @ right, -(corners @ up)])
