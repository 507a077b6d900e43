"""From end-effector waypoints to joint setpoints, within the robot's limits.

Shared by the node that owns the arm and by the fast simulation: both move alike because both call
this. The state is the last commanded setpoint, never the measured one, so that the stream is smooth
whatever the arm does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from contracts import geometry, kinematics
from contracts.geometry import Vector
from contracts.robot import FR3, RobotSpec

WORKSPACE_TOLERANCE = 0.002
"""Distance [m] that joints may reach outside the workspace; linearisation needs some."""
LIMITED_DISTANCE = 1e-4
LATE_DISTANCE = 0.03
"""Distances [m] from which a setpoint counts as limited: a wanted pose moved into the workspace,
and a commanded pose that stays behind the wanted one."""
APPROACH_RATE = 20.0
"""Share of the remaining distance that is made up in a second [1/s], near the target."""


@dataclass(frozen=True)
class Setpoint:
    """Joint position [rad] and velocity [rad/s] (7,) to track, and the pose (7,) that they reach.

    jacobian: (6, 7), linear rows first, at `joints`. `limited` says that the requested pose was
    changed to keep within a limit.
    """

    joints: Vector
    velocity: Vector
    pose: Vector
    jacobian: Vector
    limited: bool


class PoseFollower:
    """Turns a stream of end-effector poses, one a `period`, into joint setpoints.

    The wanted poses' own velocity is fed forward and their distance is made up on top, both within
    speed and acceleration: steady motion is followed without lag, a sudden jump becomes a smooth
    move that brakes in time.
    """

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
        self._wanted: Vector | None = None
        self._twist = np.zeros(6)

    def step(self, pose: ArrayLike) -> Setpoint:
        """Advance one period towards `pose` (7,); limited in workspace, speed and joint range.

        Raises:
            ValueError: `pose` is not finite or its quaternion is not a unit one; the follower's
                state is unchanged, so the caller can hold.
        """
        asked = geometry.check_poses(pose, "requested pose")
        wanted = self._within_workspace(asked)
        last = wanted if self._wanted is None else self._wanted
        flow = kinematics.pose_error(wanted, last) / self.period
        self._wanted = wanted
        # The way from `last` to `wanted` is in the flow; the error is what was behind before it.
        setpoint = self._advance(self._following(flow, kinematics.pose_error(last, self.pose)))
        outside = float(np.abs(wanted[:3] - asked[:3]).max()) > LIMITED_DISTANCE
        late = float(np.linalg.norm(wanted[:3] - setpoint.pose[:3])) > LATE_DISTANCE
        return setpoint if not (outside or late) else replace(setpoint, limited=True)

    def adopt(self, commanded: Setpoint) -> None:
        """Go on from what was commanded in place of the last setpoint: a filter has changed it."""
        self.joints, self.pose = commanded.joints, commanded.pose
        self._jacobian = commanded.jacobian
        self._twist = commanded.jacobian @ commanded.velocity

    @property
    def wanted(self) -> Vector:
        """Pose (7,) last asked for, within the workspace; the commanded one while holding."""
        return self.pose if self._wanted is None else self._wanted

    def hold(self) -> Setpoint:
        """Brake as hard as the acceleration limit allows, then stand still."""
        self._wanted = None
        return self._advance(np.zeros(6))

    def _following(self, flow: Vector, error: Vector) -> Vector:
        """Wanted twist (6,): the target's own velocity plus what makes the error up."""
        spec = self.spec
        return np.concatenate(
            [
                _approach(flow[:3], error[:3], spec.linear_speed, spec.linear_acceleration),
                _approach(flow[3:], error[3:], spec.angular_speed, spec.angular_acceleration),
            ]
        )

    def _advance(self, wanted_twist: Vector) -> Setpoint:
        """Change the twist towards the wanted one within the acceleration, and move by it."""
        twist = self._within_acceleration(wanted_twist)
        drift = kinematics.POSTURE_GAIN * (self.spec.home_joints - self.joints)
        if not (twist.any() or wanted_twist.any()):
            drift = np.zeros(7)  # standing still means every joint
        change = kinematics.damped_step(self._jacobian, twist * self.period, drift)
        joints = self._within_joint_limits(change)
        jacobian, reached = kinematics.jacobian(joints)
        # A joint at its limit bends the path; where that leads out of the workspace, stand still.
        if self._outside(reached) > max(self._outside(self.pose), WORKSPACE_TOLERANCE):
            self._twist = np.zeros(6)
            return Setpoint(self.joints, np.zeros(7), self.pose, self._jacobian, limited=True)
        velocity = (joints - self.joints) / self.period
        self._twist = kinematics.pose_error(reached, self.pose) / self.period
        self.joints, self._jacobian, self.pose = joints, jacobian, reached
        return Setpoint(joints, velocity, reached, jacobian, limited=False)

    def _within_acceleration(self, wanted: Vector) -> Vector:
        spec, change = self.spec, wanted - self._twist
        linear = _shortened(change[:3], spec.linear_acceleration * self.period)
        angular = _shortened(change[3:], spec.angular_acceleration * self.period)
        twist: Vector = self._twist + np.concatenate([linear, angular])
        # No faster towards a side of the workspace than can be braked before it.
        position, reach = self.pose[:3], 2.0 * spec.linear_acceleration
        below = np.sqrt(reach * np.maximum(position - spec.workspace_lower, 0.0))
        above = np.sqrt(reach * np.maximum(spec.workspace_upper - position, 0.0))
        twist[:3] = np.clip(twist[:3], -below, above)
        return twist

    def _within_workspace(self, pose: Vector) -> Vector:
        position = np.clip(pose[:3], self.spec.workspace_lower, self.spec.workspace_upper)
        return np.concatenate([position, pose[3:]])

    def _outside(self, pose: Vector) -> float:
        """Distance [m] of a position from the workspace along the worst axis, 0 inside."""
        beyond = np.maximum(
            self.spec.workspace_lower - pose[:3], pose[:3] - self.spec.workspace_upper
        )
        return max(float(beyond.max()), 0.0)

    def _within_joint_limits(self, change: Vector) -> Vector:
        step = self.spec.joint_velocity * self.period
        # One factor for all joints keeps the direction of the motion.
        change = change / max(1.0, float(np.max(np.abs(change) / step)))
        margin = self.spec.joint_margin
        return np.clip(
            self.joints + change, self.spec.joint_lower + margin, self.spec.joint_upper - margin
        )


def _approach(flow: Vector, error: Vector, speed: float, acceleration: float) -> Vector:
    """Velocity (3,) that joins a target moving with `flow` at a distance `error`, at most `speed`.

    Half of the acceleration is planned for braking; the other half is for what was not foreseen.
    """
    distance = math.sqrt(float(error @ error))
    correction = min(APPROACH_RATE, math.sqrt(acceleration / max(distance, 1e-9)))
    return _shortened(_shortened(flow, speed) + correction * error, speed)


def _shortened(vector: Vector, length: float) -> Vector:
    """`vector` cut to at most `length`."""
    norm = math.sqrt(float(vector @ vector))
    return vector if norm <= length else np.asarray(vector * (length / norm), dtype=np.float64)
