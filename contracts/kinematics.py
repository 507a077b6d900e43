"""Kinematics of the FR3 with the Franka hand, in plain numpy.

The live arm and the fast simulation turn end-effector waypoints into joint setpoints with this one
code, so that they move alike. Source: Franka's modified DH table (FR3 datasheet); the end-effector
frame is libfranka's: flange turned by -45 degrees and moved 0.1034 m to the fingertips. Checked
against Pinocchio and MuJoCo in the tests.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from contracts import geometry
from contracts.geometry import Vector

# Modified DH rows a [m], d [m], alpha [rad] of joints 1..7, then the flange.
_DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
FLANGE_OFFSET = 0.107
TCP_OFFSET = 0.1034
HAND_ANGLE = -np.pi / 4

_Triple = tuple[float, float, float]
_LINKS = tuple((a, d, round(math.cos(alpha)), round(math.sin(alpha))) for a, d, alpha in _DH)

POSTURE_GAIN = 0.02
"""Share of the way to the wanted posture that the null space goes in one step, so that the elbow
does not drift over long runs."""


_COS_HAND, _SIN_HAND = math.cos(HAND_ANGLE), math.sin(HAND_ANGLE)


def _chain(joints: ArrayLike) -> tuple[list[_Triple], list[_Triple], Vector]:
    """Origins and z axes of the seven joints, and the end-effector pose (7,).

    Plain floats: numpy's cost a call would be five times the arithmetic's.
    """
    xx, xy, xz = 1.0, 0.0, 0.0  # the x, y and z axes of the current frame
    yx, yy, yz = 0.0, 1.0, 0.0
    zx, zy, zz = 0.0, 0.0, 1.0
    px, py, pz = 0.0, 0.0, 0.0
    origins, axes = [], []
    for (a, d, ca, sa), angle in zip(_LINKS, np.asarray(joints).tolist(), strict=True):
        c, s = math.cos(angle), math.sin(angle)
        ux, uy, uz = ca * yx + sa * zx, ca * yy + sa * zy, ca * yz + sa * zz
        zx, zy, zz = ca * zx - sa * yx, ca * zy - sa * yy, ca * zz - sa * yz
        px, py, pz = px + a * xx + d * zx, py + a * xy + d * zy, pz + a * xz + d * zz
        yx, yy, yz = c * ux - s * xx, c * uy - s * xy, c * uz - s * xz
        xx, xy, xz = c * xx + s * ux, c * xy + s * uy, c * xz + s * uz
        origins.append((px, py, pz))
        axes.append((zx, zy, zz))
    reach = FLANGE_OFFSET + TCP_OFFSET
    c, s = _COS_HAND, _SIN_HAND
    rotation = (
        (c * xx + s * yx, c * yx - s * xx, zx),
        (c * xy + s * yy, c * yy - s * xy, zy),
        (c * xz + s * yz, c * yz - s * xz, zz),
    )
    position = [px + reach * zx, py + reach * zy, pz + reach * zz]
    return origins, axes, np.array([*position, *geometry.from_matrix(rotation).tolist()])


def forward(joints: ArrayLike) -> Vector:
    """End-effector pose (7,) in the base frame for joint positions (7,) [rad]."""
    return _chain(joints)[2]


def jacobian(joints: ArrayLike) -> tuple[Vector, Vector]:
    """Geometric Jacobian (6, 7), linear rows first, in the base frame, and the pose (7,)."""
    origins, axes, pose = _chain(joints)
    tx, ty, tz = pose[:3].tolist()
    columns = [
        (
            ay * (tz - oz) - az * (ty - oy),
            az * (tx - ox) - ax * (tz - oz),
            ax * (ty - oy) - ay * (tx - ox),
            ax,
            ay,
            az,
        )
        for (ox, oy, oz), (ax, ay, az) in zip(origins, axes, strict=True)
    ]
    return np.array(columns).T, pose


def pose_error(target: Vector, pose: Vector) -> Vector:
    """Twist (6,) [m, rad] that leads from `pose` to `target`, in the base frame."""
    turn = geometry.to_rotation_vector(geometry.multiply(target[3:], geometry.conjugate(pose[3:])))
    return np.concatenate([target[:3] - pose[:3], turn])


def step_towards(
    target: Vector, joints: Vector, posture: Vector, *, posture_gain: float = POSTURE_GAIN
) -> Vector:
    """Joint change (7,) [rad] of one damped step from `joints` towards the pose `target` (7,).

    The null space goes `posture_gain` of the way to `posture` (7,).
    """
    jac, pose = jacobian(joints)
    return damped_step(jac, pose_error(target, pose), posture_gain * (posture - joints))


def damped_step(jac: Vector, error: Vector, drift: Vector, *, damping: float = 0.02) -> Vector:
    """Joint change (7,) [rad] of one damped least-squares step (Nakamura and Hanafusa 1986).

    `jac` (6, 7) is the Jacobian; `error` (6,) the twist to make up; `drift` (7,) [rad] a joint
    change of which only the part that does not move the end effector is made.
    """
    gram = jac @ jac.T
    gram.flat[::7] += damping**2
    change = jac.T @ np.linalg.solve(gram, error - jac @ drift) + drift
    return np.asarray(change, dtype=np.float64)


def inverse(target: ArrayLike, seed: ArrayLike, *, iterations: int = 100) -> Vector:
    """Joint positions (7,) [rad] that reach `target` (7,) from `seed`.

    Raises:
        ValueError: no solution within 0.1 mm and 0.1 mrad after `iterations` steps.
    """
    goal = geometry.check_poses(target, "inverse kinematics target")
    q = np.array(seed, dtype=np.float64)
    posture = q.copy()
    for _ in range(iterations):
        q = q + step_towards(goal, q, posture, posture_gain=0.0)
        error = pose_error(goal, forward(q))
        if np.linalg.norm(error[:3]) < 1e-4 and np.linalg.norm(error[3:]) < 1e-4:
            return q
    raise ValueError(f"no joint solution for the pose {np.round(goal, 4).tolist()}")
