"""Which parts of the picture the board has covered, drawn on the picture, and where to go next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from calibration import poses
from calibration.board import Board
from calibration.detection import CaptureError, Detection, board_pose
from calibration.pinhole import Intrinsics
from contracts.geometry import Vector

GRID: Final = (4, 3)
"""Cells across and down; a cell counts as covered with LEAST_CORNERS corners in it."""
LEAST_CORNERS: Final = 4
LEAST_COVERED: Final = 0.6
LEAST_TILT: Final = np.deg2rad(15.0)
"""RMS tilt of the board against the picture below which focal length and distance are one."""
ROWS: Final = ("upper", "middle", "lower")
COLUMNS: Final = ("far left", "left", "right", "far right")
COVERED_COLOUR: Final = (80, 200, 120)
CORNER_COLOUR: Final = (255, 220, 60)


@dataclass(frozen=True)
class Coverage:
    """Corners that each cell (3, 4) of the picture has held."""

    counts: np.ndarray

    @classmethod
    def of(cls, detections: Sequence[Detection], width: int, height: int) -> Coverage:
        """What these detections cover in pictures of `width` x `height`."""
        counts = np.zeros(GRID[::-1], dtype=int)
        for detection in detections:
            cells = (detection.corners + 0.5) / (width, height) * GRID
            columns, rows = np.clip(cells.astype(int), 0, np.subtract(GRID, 1)).T
            np.add.at(counts, (rows, columns), 1)
        return cls(counts)

    @property
    def covered(self) -> np.ndarray:
        """Which cells (3, 4) are covered."""
        return np.asarray(self.counts >= LEAST_CORNERS)

    @property
    def share(self) -> float:
        return float(self.covered.mean())

    @property
    def hint(self) -> str:
        """Where the board should be shown next; empty if everything is covered."""
        if self.covered.all():
            return ""
        row, column = np.unravel_index(int(np.argmin(self.counts)), self.counts.shape)
        return f"bring the board to the {ROWS[row]} {COLUMNS[column]} of the picture"


def draw(image: np.ndarray, detection: Detection | None, coverage: Coverage) -> np.ndarray:
    """A copy of the picture (height, width, 3) with covered cells tinted and corners marked."""
    height, width = image.shape[:2]
    drawn = image.copy()
    columns, rows = GRID
    for row in range(rows):
        for column in range(columns):
            x, y = column * width // columns, row * height // rows
            right, lower = (column + 1) * width // columns, (row + 1) * height // rows
            if coverage.covered[row, column]:
                cell = drawn[y:lower, x:right].astype(float)
                tinted = 0.75 * cell + 0.25 * np.array(COVERED_COLOUR)
                drawn[y:lower, x:right] = tinted.astype(np.uint8)
            cv2.rectangle(drawn, (x, y), (right - 1, lower - 1), COVERED_COLOUR, 1)
    for corner in [] if detection is None else detection.corners:
        cv2.circle(drawn, np.rint(corner).astype(int).tolist(), 4, CORNER_COLOUR, 1, cv2.LINE_AA)
    return drawn


def tilts(detections: Sequence[Detection], board: Board, intrinsics: Intrinsics) -> Vector:
    """Angles (n,) [rad] between the board's normal and the line of sight."""
    angles = []
    for detection in detections:
        pose = poses.to_matrix(board_pose(detection, board, intrinsics)[0])
        centre = pose[:3, :3] @ board.centre + pose[:3, 3]
        cosine = float(pose[:3, 2] @ centre / np.linalg.norm(centre))
        angles.append(np.arccos(np.clip(abs(cosine), 0.0, 1.0)))
    return np.array(angles)


def check_coverage(
    coverage: Coverage, detections: Sequence[Detection], board: Board, intrinsics: Intrinsics
) -> None:
    """Raises CaptureError: large parts of the picture never held the board, or it never tilted."""
    if coverage.share < LEAST_COVERED:
        raise CaptureError(
            f"the board covered {100 * coverage.share:.0f} % of the picture, at least "
            f"{100 * LEAST_COVERED:.0f} % are needed: {coverage.hint}"
        )
    tilt = float(np.sqrt(np.mean(tilts(detections, board, intrinsics) ** 2)))
    if tilt < LEAST_TILT:
        raise CaptureError(
            f"parallel views: the board was tilted by {np.degrees(tilt):.0f} degrees only (RMS), "
            f"at least {np.degrees(LEAST_TILT):.0f} are needed: tilt it more"
        )
