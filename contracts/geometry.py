"""Poses as vectors of 7 in the base frame: position [m], then unit quaternion x y z w."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

QUATERNION_NORM_TOLERANCE = 1e-3


def normalized(quaternion: ArrayLike) -> Vector:
    """Unit quaternion(s) (..., 4) of the same direction(s)."""
    q = np.asarray(quaternion, dtype=np.float64)
    return np.asarray(q / np.linalg.norm(q, axis=-1, keepdims=True), dtype=np.float64)


def multiply(a: ArrayLike, b: ArrayLike) -> Vector:
    """Hamilton product a*b of quaternions (..., 4): rotate by b, then by a."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    ax, ay, az, aw = a[..., 0], a[..., 1], a[..., 2], a[..., 3]
    bx, by, bz, bw = b[..., 0], b[..., 1], b[..., 2], b[..., 3]
    return np.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        axis=-1,
    )


def conjugate(quaternion: ArrayLike) -> Vector:
    """Inverse of unit quaternion(s) (..., 4)."""
    q = np.asarray(quaternion, dtype=np.float64)
    return np.asarray(q * np.array([-1.0, -1.0, -1.0, 1.0]))


def to_rotation_vector(quaternion: ArrayLike) -> Vector:
    """Rotation vector(s) (..., 3) [rad] of the shorter turn, norm at most pi."""
    q = np.asarray(quaternion, dtype=np.float64)
    q = np.where(q[..., 3:] < 0.0, -q, q)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, q[..., 3:])
    # As the angle goes to 0 the ratio goes to 2; the guard only avoids 0/0.
    ratio = np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)
    return np.asarray(ratio * q[..., :3], dtype=np.float64)


def from_rotation_vector(rotation: ArrayLike) -> Vector:
    """Unit quaternion(s) (..., 4) of rotation vector(s) (..., 3) [rad]."""
    r = np.asarray(rotation, dtype=np.float64)
    angle = np.linalg.norm(r, axis=-1, keepdims=True)
    return np.concatenate(
        [r * (0.5 * np.sinc(angle / (2.0 * np.pi))), np.cos(angle / 2.0)], axis=-1
    )


def to_matrix(quaternion: ArrayLike) -> Vector:
    """Rotation matrix (3, 3) of a unit quaternion (4,)."""
    x, y, z, w = (float(v) for v in np.asarray(quaternion, dtype=np.float64))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def from_matrix(matrix: ArrayLike) -> Vector:
    """Unit quaternion (4,) of a rotation matrix (3, 3); Shepperd's method, w >= 0."""
    m = np.asarray(matrix, dtype=np.float64)
    trace = float(np.trace(m))
    candidates = np.array([m[0, 0], m[1, 1], m[2, 2], trace])
    i = int(np.argmax(candidates))
    if i == 3:
        q = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1.0 + trace])
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        q = np.empty(4)
        q[i] = 1.0 + m[i, i] - m[j, j] - m[k, k]
        q[j] = m[j, i] + m[i, j]
        q[k] = m[k, i] + m[i, k]
        q[3] = m[k, j] - m[j, k]
    q = normalized(q)
    return -q if q[3] < 0.0 else q


def interpolate(a: ArrayLike, b: ArrayLike, fraction: float) -> Vector:
    """Pose between poses `a` and `b` (7,): linear in position, slerp in rotation."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    turn = to_rotation_vector(multiply(b[3:], conjugate(a[3:])))
    position = a[:3] + fraction * (b[:3] - a[:3])
    return np.concatenate([position, multiply(from_rotation_vector(fraction * turn), a[3:])])


def check_poses(poses: ArrayLike, what: str) -> Vector:
    """Poses (..., 7) as float64 with unit quaternions.

    Raises:
        ValueError: wrong shape, a value that is not finite, or a quaternion whose norm is off by
            more than QUATERNION_NORM_TOLERANCE; the message names `what`.
    """
    array = np.asarray(poses, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != 7:
        raise ValueError(
            f"{what}: expected (..., 7) position and quaternion, got shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: has values that are not finite")
    norms = np.linalg.norm(array[..., 3:], axis=-1)
    if np.any(np.abs(norms - 1.0) > QUATERNION_NORM_TOLERANCE):
        worst = norms.flat[np.argmax(np.abs(norms - 1.0))]
        raise ValueError(f"{what}: quaternion norms must be 1, worst is {worst:.4f}")
    return np.concatenate([array[..., :3], normalized(array[..., 3:])], axis=-1)
