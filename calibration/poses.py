"""Poses as 4x4 matrices and as the vectors of `contracts.geometry`, and distances between them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from contracts import geometry, kinematics
from contracts.geometry import Vector

IDENTITY: Final = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def to_matrix(pose: ArrayLike) -> Vector:
    """Homogeneous matrix (4, 4) of a pose (7,)."""
    vector = np.asarray(pose, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = geometry.to_matrix(vector[3:])
    matrix[:3, 3] = vector[:3]
    return matrix


def to_pose(matrix: Vector) -> Vector:
    """Inverse of `to_matrix`."""
    return np.concatenate([matrix[:3, 3], geometry.from_matrix(matrix[:3, :3])])


def inverse(matrix: Vector) -> Vector:
    """Inverse of homogeneous matrices (..., 4, 4) of rigid motions."""
    turned = np.swapaxes(matrix[..., :3, :3], -1, -2)
    result = np.zeros_like(matrix)
    result[..., :3, :3] = turned
    result[..., :3, 3] = -(turned @ matrix[..., :3, 3:])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def compose(a: ArrayLike, b: ArrayLike) -> Vector:
    """Pose (7,) `b`, given in the frame `a`, in the frame that `a` is given in."""
    return to_pose(to_matrix(a) @ to_matrix(b))


def invert(pose: ArrayLike) -> Vector:
    """Pose (7,) of the outer frame in the frame `pose`."""
    return to_pose(inverse(to_matrix(pose)))


def moved(matrix: Vector, change: Vector) -> Vector:
    """`matrix` (4, 4) moved by `change` (6,): metres and a rotation vector in the outer frame.

    The rotation is about the moved frame's own origin.
    """
    result = np.eye(4)
    turn = geometry.to_matrix(geometry.from_rotation_vector(change[3:]))
    result[:3, :3] = turn @ matrix[:3, :3]
    result[:3, 3] = matrix[:3, 3] + change[:3]
    return result


def change_between(a: ArrayLike, b: ArrayLike) -> Vector:
    """The `change` (6,) with which `moved` leads from pose `a` (7,) to pose `b` (7,)."""
    return kinematics.pose_error(np.asarray(b, dtype=float), np.asarray(a, dtype=float))


def apart(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Distance of two poses (7,): millimetres and degrees."""
    change = change_between(a, b)
    return 1e3 * float(np.linalg.norm(change[:3])), float(np.degrees(np.linalg.norm(change[3:])))


def hand_of(end_effector: ArrayLike) -> Vector:
    """Pose (7,) of the hand's body (`fr3_hand`) for an end-effector pose (7,) between the tips."""
    return compose(end_effector, [0.0, 0.0, -kinematics.TCP_OFFSET, 0.0, 0.0, 0.0, 1.0])


def end_effector_of(hand: ArrayLike) -> Vector:
    """Inverse of `hand_of`."""
    return compose(hand, [0.0, 0.0, kinematics.TCP_OFFSET, 0.0, 0.0, 0.0, 1.0])


def mean_pose(matrices: Vector) -> Vector:
    """Mean (4, 4) of poses (n, 4, 4): positions, and rotations in the chordal sense.

    Source: Hartley et al., Rotation Averaging, IJCV 2013, section 5.3.
    """
    left, _, right = np.linalg.svd(matrices[:, :3, :3].sum(axis=0))
    result = np.eye(4)
    result[:3, :3] = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    result[:3, 3] = matrices[:, :3, 3].mean(axis=0)
    return result
