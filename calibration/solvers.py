"""All of OpenCV's hand-eye solvers behind one call: camera and board from poses alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from calibration import poses
from contracts.geometry import Vector

HAND_EYE: Final = {
    "Tsai": cv2.CALIB_HAND_EYE_TSAI,
    "Park": cv2.CALIB_HAND_EYE_PARK,
    "Horaud": cv2.CALIB_HAND_EYE_HORAUD,
    "Andreff": cv2.CALIB_HAND_EYE_ANDREFF,
    "Daniilidis": cv2.CALIB_HAND_EYE_DANIILIDIS,
}
ROBOT_WORLD: Final = {
    "Shah": cv2.CALIB_ROBOT_WORLD_HAND_EYE_SHAH,
    "Li": cv2.CALIB_ROBOT_WORLD_HAND_EYE_LI,
}
SOLVERS: Final = (*HAND_EYE, *ROBOT_WORLD)


def solve(solver: str, chains: Vector, boards: Vector) -> tuple[Vector, Vector] | None:
    """Camera C and board B (4, 4) with C @ boards[i] = chains[i] @ B; None if it finds none.

    chains: G of `refinement` (n, 4, 4); boards: the board in the optical frame (n, 4, 4).
    """
    try:
        if solver in HAND_EYE:
            turn, shift = cv2.calibrateHandEye(
                *_parts(poses.inverse(chains)), *_parts(boards), method=HAND_EYE[solver]
            )
            camera = _matrix(turn, shift)
        else:
            *_, turn, shift = cv2.calibrateRobotWorldHandEye(
                *_parts(boards), *_parts(chains), method=ROBOT_WORLD[solver]
            )
            camera = poses.inverse(_matrix(turn, shift))
    except cv2.error:
        return None  # degenerate for this method; others may still do
    if not np.isfinite(camera).all():
        return None
    return camera, poses.mean_pose(poses.inverse(chains) @ camera @ boards)


def _parts(matrices: Vector) -> tuple[Sequence[Vector], Sequence[Vector]]:
    return [m[:3, :3] for m in matrices], [m[:3, 3] for m in matrices]


def _matrix(turn: np.ndarray, shift: np.ndarray) -> Vector:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, np.ravel(shift)
    return matrix
