"""The pinhole camera with the five distortion coefficients of Brown and Conrady."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contracts.calibration import CameraCalibration
from contracts.geometry import Vector


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and centre [px], integers being pixel centres; distortion k1 k2 p1 p2 k3."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = (0.0,) * 5

    @classmethod
    def of(cls, camera: CameraCalibration) -> Intrinsics:
        """Those of a calibrated camera."""
        return cls(
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy,
            tuple(camera.distortion),
        )  # fmt: skip

    @property
    def matrix(self) -> Vector:
        """Camera matrix (3, 3)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def coefficients(self) -> Vector:
        """Distortion (5,) in OpenCV's order."""
        return np.array(self.distortion)


def project(points: Vector, intrinsics: Intrinsics) -> Vector:
    """Pixels (..., 2) of points (..., 3) [m] in the optical frame; nan behind the camera.

    Source: OpenCV's camera model (calib3d); its own function is slower for many small groups.
    """
    k1, k2, p1, p2, k3 = intrinsics.distortion
    depth = np.where(points[..., 2] > 1e-6, points[..., 2], np.nan)
    x, y = points[..., 0] / depth, points[..., 1] / depth
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    u = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    v = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
    return np.stack([intrinsics.fx * u + intrinsics.cx, intrinsics.fy * v + intrinsics.cy], axis=-1)
