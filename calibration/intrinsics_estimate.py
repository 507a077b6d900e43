"""Intrinsics from pictures of the board alone."""

from __future__ import annotations

import cv2
import numpy as np

from calibration.board import Board
from calibration.detection import CaptureError
from calibration.pinhole import Intrinsics
from calibration.views import ViewSet
from contracts.geometry import Vector


def estimate_intrinsics(view_set: ViewSet, board: Board) -> tuple[Intrinsics, float, Vector]:
    """Intrinsics from the pictures alone, their RMS [px], and that of each view (v,).

    Focal lengths, centre, k1 and k2 (Zhang 2000; OpenCV's calibrateCamera).

    Raises:
        CaptureError: the views do not determine them.
    """
    size = view_set.size
    points = [board.corners[v.detection.ids].astype(np.float32) for v in view_set.views]
    pixels = [v.detection.corners.astype(np.float32) for v in view_set.views]
    flags = cv2.CALIB_ZERO_TANGENT_DIST | cv2.CALIB_FIX_K3
    try:
        rms, matrix, distortion, *_, errors = cv2.calibrateCameraExtended(
            points, pixels, size, np.eye(3), np.zeros(5), flags=flags
        )
    except cv2.error as error:
        raise CaptureError(f"the views do not determine the intrinsics: {error.err}") from error
    width, height = size
    (fx, _, cx), (_, fy, cy), _ = matrix.tolist()
    coefficients = tuple(np.ravel(distortion)[:5].tolist())
    found = Intrinsics(width, height, fx, fy, cx, cy, coefficients)
    inside = 0 <= found.cx < size[0] and 0 <= found.cy < size[1]
    if not (np.isfinite(rms) and inside and min(found.fx, found.fy) > 0.1 * size[0]):
        raise CaptureError(
            "the views do not determine the intrinsics: tilt the board more, and bring it to the "
            "edges of the picture"
        )
    return found, float(rms), np.ravel(errors)
