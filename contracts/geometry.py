"""Poses as vectors of 7 in the base frame: position [m], then unit quaternion x y z w."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

ROUNDING = 4e-16
"""Error of a norm that dividing by it would not make smaller."""
QUATERNION_NORM_TOLERANCE = 1e-3


def normalized(quaternion: ArrayLike) -> Vector:
    """Unit quaternion(s) (..., 4) of the same direction(s)."""
    q = np.asarray(quaternion, dtype=np.float64)
    return np.asarray(q / np.linalg.norm(q, axis=-1, keepdims=True), dtype=np.float64)


def multiply(a: ArrayLike, b: ArrayLike) -> Vector:
    """Hamilton product a*b of quaternions (..., 4): rotate by b, then by a."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim == b.ndim == 1:  # plain floats are several times faster for one pair
        return np.array(_product(*a.tolist(), *b.tolist()))
    return np.stack(_product(*np.moveaxis(a, -1, 0), *np.moveaxis(b, -1, 0)), axis=-1)


def _product(
    ax: Any, ay: Any, az: Any, aw: Any, bx: Any, by: Any, bz: Any, bw: Any
) -> tuple[Any, Any, Any, Any]:
    """Components of the product, for floats and arrays alike."""
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def conjugate(quaternion: ArrayLike) -> Vector:
    """Inverse of unit quaternion(s) (..., 4)."""
    q = np.asarray(quaternion, dtype=np.float64)
    return np.asarray(q * np.array([-1.0, -1.0, -1.0, 1.0]))


def to_rotation_vector(quaternion: ArrayLike) -> Vector:
    """Rotation vector(s) (..., 3) [rad] of the shorter turn, norm at most pi."""
    q = np.asarray(quaternion, dtype=np.float64)
    if q.ndim == 1:
        x, y, z, w = q.tolist() if q[3] >= 0.0 else (-q).tolist()
        norm = math.sqrt(x * x + y * y + z * z)
        stretch = 2.0 * math.atan2(norm, w) / norm if norm > 1e-9 else 2.0
        return np.array([stretch * x, stretch * y, stretch * z])
    q = np.where(q[..., 3:] < 0.0, -q, q)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, q[..., 3:])
    # As the angle goes to 0 the ratio goes to 2; the guard only avoids 0/0.
    ratio = np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)
    return np.asarray(ratio * q[..., :3], dtype=np.float64)


def from_rotation_vector(rotation: ArrayLike) -> Vector:
    """Unit quaternion(s) (..., 4) of rotation vector(s) (..., 3) [rad]."""
    r = np.asarray(rotation, dtype=np.float64)
    if r.ndim == 1:
        x, y, z = r.tolist()
        half = 0.5 * math.sqrt(x * x + y * y + z * z)
        ratio = 0.5 * math.sin(half) / half if half > 1e-9 else 0.5
        return np.array([ratio * x, ratio * y, ratio * z, math.cos(half)])
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


def from_matrix(matrix: Vector | Sequence[Sequence[float]]) -> Vector:
    """Unit quaternion (4,) of a rotation matrix (3, 3); Shepperd's method, w >= 0."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (
        matrix.tolist() if isinstance(matrix, np.ndarray) else matrix
    )
    largest = max(xx, yy, zz, xx + yy + zz)
    if largest == xx + yy + zz:
        q = (zy - yz, xz - zx, yx - xy, 1.0 + largest)
    elif largest == xx:
        q = (1.0 + xx - yy - zz, yx + xy, zx + xz, zy - yz)
    elif largest == yy:
        q = (yx + xy, 1.0 + yy - zz - xx, zy + yz, xz - zx)
    else:
        q = (zx + xz, zy + yz, 1.0 + zz - xx - yy, yx - xy)
    norm = math.sqrt(sum(v * v for v in q))
    return np.array(q) / (-norm if q[3] < 0.0 else norm)


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
    if array.ndim == 1:  # plain floats are several times faster for one pose
        return _check_pose(array.tolist(), what)
    if array.ndim == 2 and _are_exact(array.tolist()):  # a chunk's, mostly; likewise
        return array.copy()
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: has values that are not finite")
    quaternions = array[..., 3:]
    norms = np.sqrt(np.einsum("...i,...i->...", quaternions, quaternions))
    if (np.abs(norms - 1.0) > QUATERNION_NORM_TOLERANCE).any():
        worst = norms.flat[np.argmax(np.abs(norms - 1.0))]
        raise ValueError(f"{what}: quaternion norms must be 1, worst is {worst:.4f}")
    checked = array.copy()
    checked[..., 3:] /= norms[..., None]
    return checked


def _are_exact(poses: list[list[float]]) -> bool:
    """Whether all poses are finite and their quaternions of norm 1 within ROUNDING."""
    for x, y, z, *quaternion in poses:
        # Of values that are finite a sum may not be: then numpy looks at them, one by one.
        if not (math.isfinite(x + y + z) and abs(math.hypot(*quaternion) - 1.0) <= ROUNDING):
            return False
    return True


def _check_pose(pose: list[float], what: str) -> Vector:
    if not all(map(math.isfinite, pose)):
        raise ValueError(f"{what}: has values that are not finite")
    norm = math.hypot(*pose[3:])
    if abs(norm - 1.0) > QUATERNION_NORM_TOLERANCE:
        raise ValueError(f"{what}: quaternion norms must be 1, worst is {norm:.4f}")
    return np.array([*pose[:3], *(value / norm for value in pose[3:])])
