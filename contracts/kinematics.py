"""Kinematics of the FR3 with the Franka hand, in plain numpy.

The live arm and the fast simulation turn end-effector waypoints into joint setpoints with this one
code, so that they move alike. Source: Franka's modified DH table (FR3 datasheet); the end-effector
frame is libfranka's: flange turned by -45 degrees and moved 0.1034 m to the fingertips. Checked
against Pinocchio and MuJoCo in the tests.
"""

from __future__ import annotations

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

POSTURE_GAIN = 0.02
"""Share of the way to the wanted posture that the null space goes in one step, so that the elbow
does not drift over long runs."""


def _link_constant(a: float, d: float, alpha: float) -> Vector:
    ca, sa = np.cos(alpha), np.sin(alpha)
    return np.array([[1, 0, 0, a], [0, ca, -sa, -d * sa], [0, sa, ca, d * ca], [0, 0, 0, 1.0]])


def _turn_z(angle: float) -> Vector:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


_LINKS = tuple(_link_constant(*row) for row in _DH)
_TCP = _link_constant(0.0, FLANGE_OFFSET + TCP_OFFSET, 0.0) @ _turn_z(HAND_ANGLE)


def _joint_frames(joints: Vector) -> tuple[Vector, Vector]:
    """Origins and z axes (7, 4, 4 frames) of the joints, and the end-effector transform (4, 4)."""
    frames = np.empty((7, 4, 4))
    transform = np.eye(4)
    cos, sin = np.cos(joints), np.sin(joints)
    for i, link in enumerate(_LINKS):
        t = transform @ link
        x, y = t[:, 0], t[:, 1]
        transform = np.empty((4, 4))
        transform[:, 0] = cos[i] * x + sin[i] * y
        transform[:, 1] = cos[i] * y - sin[i] * x
        transform[:, 2:] = t[:, 2:]
        frames[i] = transform
    return frames, transform @ _TCP


def forward(joints: ArrayLike) -> Vector:
    """End-effector pose (7,) in the base frame for joint positions (7,) [rad]."""
    _, tcp = _joint_frames(np.asarray(joints, dtype=np.float64))
    return np.concatenate([tcp[:3, 3], geometry.from_matrix(tcp[:3, :3])])


def jacobian(joints: ArrayLike) -> tuple[Vector, Vector]:
    """Geometric Jacobian (6, 7), linear rows first, in the base frame, and the pose (7,)."""
    frames, tcp = _joint_frames(np.asarray(joints, dtype=np.float64))
    axes, origins = frames[:, :3, 2], frames[:, :3, 3]
    arms = tcp[:3, 3] - origins
    linear = np.cross(axes, arms)
    pose = np.concatenate([tcp[:3, 3], geometry.from_matrix(tcp[:3, :3])])
    return np.concatenate([linear.T, axes.T]), pose


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
    gram[np.diag_indices(6)] += damping**2
    pseudo_inverse = np.linalg.solve(gram, jac).T
    return np.asarray(pseudo_inverse @ (error - jac @ drift) + drift, dtype=np.float64)


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
