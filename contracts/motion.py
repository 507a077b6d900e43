"""From end-effector waypoints to joint setpoints, within the robot's limits.

Shared by the node that owns the arm and by the fast simulation: both move alike because both call
this. The state is the last commanded setpoint, never the measured one, so that the stream is smooth
whatever the arm does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from contracts import geometry, kinematics
from contracts.geometry import Vector
from contracts.robot import FR3, RobotSpec

WORKSPACE_TOLERANCE = 0.002
"""Distance [m] that joints may reach outside the workspace; linearisation needs some."""


@dataclass(frozen=True)
class Setpoint:
    """Joint position [rad] and velocity [rad/s] (7,) to track, and the pose (7,) that they reach.

    `limited` says that the requested pose was changed to keep within a limit.
    """

    joints: Vector
    velocity: Vector
    pose: Vector
    limited: bool


class PoseFollower:
    """Turns a stream of end-effector poses, one a `period`, into joint setpoints."""

    def __init__(self, joints: ArrayLike, period: float, spec: RobotSpec = FR3) -> None:
        """Start at rest at `joints` (7,) [rad]; `period` is in seconds."""
        if period <= 0.0:
            raise ValueError(f"period must be positive, got {period}")
        self.spec = spec
        self.period = period
        self.reset(joints)

    def reset(self, joints: ArrayLike) -> None:
        """Forget the past and stand still at `joints` (7,) [rad].

        Raises:
            ValueError: not seven finite numbers.
        """
        q = np.array(joints, dtype=np.float64)
        if q.shape != (7,) or not np.isfinite(q).all():
            raise ValueError(f"expected seven finite joint positions, got {q}")
        self.joints = q
        self._jacobian, self.pose = kinematics.jacobian(q)

    def step(self, pose: ArrayLike) -> Setpoint:
        """Advance one period towards `pose` (7,); limited in workspace, speed and joint range.

        Raises:
            ValueError: `pose` is not finite or its quaternion is not a unit one; the follower's
                state is unchanged, so the caller can hold.
        """
        wanted = geometry.check_poses(pose, "requested pose")
        target = self._within_speed(self._within_workspace(wanted))
        drift = kinematics.POSTURE_GAIN * (self.spec.home_joints - self.joints)
        error = kinematics.pose_error(target, self.pose)
        joints = self._within_joint_limits(kinematics.damped_step(self._jacobian, error, drift))
        jacobian, reached = kinematics.jacobian(joints)
        # A joint at its limit bends the path; where that leads out of the workspace, stand still.
        leaves = self._outside(reached) > max(self._outside(self.pose), WORKSPACE_TOLERANCE)
        if leaves:
            return Setpoint(self.joints, np.zeros(7), self.pose, limited=True)
        velocity = (joints - self.joints) / self.period
        self.joints, self._jacobian, self.pose = joints, jacobian, reached
        limited = bool(np.abs(target[:3] - wanted[:3]).max() > 1e-4)
        return Setpoint(joints, velocity, reached, limited)

    def hold(self) -> Setpoint:
        """The setpoint that stands still at the last commanded joints."""
        return Setpoint(self.joints, np.zeros(7), self.pose, limited=False)

    def _within_workspace(self, pose: Vector) -> Vector:
        position = np.clip(pose[:3], self.spec.workspace_lower, self.spec.workspace_upper)
        return np.concatenate([position, pose[3:]])

    def _outside(self, pose: Vector) -> float:
        """Distance [m] of a position from the workspace along the worst axis, 0 inside."""
        beyond = np.maximum(
            self.spec.workspace_lower - pose[:3], pose[:3] - self.spec.workspace_upper
        )
        return max(float(beyond.max()), 0.0)

    def _within_speed(self, pose: Vector) -> Vector:
        error = kinematics.pose_error(pose, self.pose)
        distance, angle = np.linalg.norm(error[:3]), np.linalg.norm(error[3:])
        slower = max(
            float(distance) / (self.spec.linear_speed * self.period),
            float(angle) / (self.spec.angular_speed * self.period),
            1.0,
        )
        return pose if slower <= 1.0 else geometry.interpolate(self.pose, pose, 1.0 / slower)

    def _within_joint_limits(self, change: Vector) -> Vector:
        step = self.spec.joint_velocity * self.period
        # One factor for all joints keeps the direction of the motion.
        change = change / max(1.0, float(np.max(np.abs(change) / step)))
        margin = self.spec.joint_margin
        return np.clip(
            self.joints + change, self.spec.joint_lower + margin, self.spec.joint_upper - margin
        )
