"""The last word on what the arm is told: joint setpoints in, setpoints within every limit out.

Pure. It lives in the process that owns the arm and trusts nobody above it: policy, teleoperation
and homing all pass through here. A setpoint is let through unchanged if it breaks no limit and if
the arm could still come to rest from it without breaking one. Otherwise the motion is limited, and
where even that breaks a limit, the arm brakes along the line on which it moves. Since every
setpoint that was let through has left room for that braking, there is always a safe one to send.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from contracts import kinematics
from contracts.geometry import Vector
from contracts.motion import WORKSPACE_TOLERANCE, Setpoint
from contracts.robot import FR3, RobotSpec

BRAKE_SHARE = 0.5
"""Share of the acceleration limit that braking along a line of joint space uses."""
BEND_SHARE = 0.4
"""Share for the acceleration that moving along such a line brings by its curvature alone."""
JOINT_BRAKE_SHARE = 0.9
SMALLEST_SHARE = 0.01
"""Of a wanted motion; with less than this of it the arm rather stands still."""
TARGET_SPEED, TARGET_ACCELERATION = 0.6, 4.0
"""Of all joints together [rad/s, rad/s2], on the way to a target in joint space."""


@dataclass(frozen=True)
class GripperShape:
    """The Franka hand as boxes across the approach axis z, which points out of the fingers.

    Each layer: distance along z from the end effector, half widths along its x and y [m]. The
    end effector lies between the pads; the fingers reach 9 mm beyond, and open to 40 mm each way.
    """

    layers: tuple[tuple[float, float, float], ...] = (
        (0.0088, 0.011, 0.053),
        (-0.0375, 0.032, 0.102),
        (-0.1034, 0.032, 0.102),
    )

    @cached_property
    def radius(self) -> float:
        """Largest distance [m] of a corner from the end effector."""
        return max(math.hypot(*layer) for layer in self.layers)


@dataclass(frozen=True)
class FilterLimits:
    """What no setpoint exceeds; the end effector's in m/s, rad/s and so on.

    Wider than what RobotSpec plans with, narrower than what the arm allows (FR3 datasheet: 3.0 m/s,
    9 m/s2, 4500 m/s3; 2.5 rad/s, 17 rad/s2, 8500 rad/s3). Joint positions and speeds: RobotSpec.

    joint_acceleration: of the setpoints [rad/s2], which the impedance follows more softly; the
    datasheet's 10 rad/s2 hold for motions that the arm itself generates.
    table_height: z of the table's plane, which no part of the gripper goes below.
    """

    linear_speed: float = 0.75
    angular_speed: float = 2.0
    linear_acceleration: float = 6.0
    angular_acceleration: float = 15.0
    linear_jerk: float = 4500.0
    angular_jerk: float = 8500.0
    joint_acceleration: float = 20.0
    table_height: float = 0.0
    gripper: GripperShape = field(default_factory=GripperShape)

    def check_period(self, period: float) -> None:
        """Raises ValueError: at this `period` [s] the acceleration limit does not bound the jerk.

        Between two setpoints the acceleration changes by twice its limit at most; so the jerk needs
        no look of its own if that is little enough.
        """
        for acceleration, jerk in (
            (self.linear_acceleration, self.linear_jerk),
            (self.angular_acceleration, self.angular_jerk),
        ):
            if not 0.0 < 2.0 * acceleration / period <= jerk:
                raise ValueError(
                    f"at a period of {period} s an acceleration of {acceleration} may change "
                    f"faster than the jerk limit {jerk}"
                )


@dataclass(frozen=True)
class Filtered:
    """What to command, and the limits that changed it; none if it is what was wanted."""

    setpoint: Setpoint
    limited_by: tuple[str, ...] = ()


class _Motion:
    """A period's motion to a setpoint, in plain floats: numpy's cost a call is the arithmetic's.

    twist: mean twist (6,) on the way; bend: acceleration (6,) of going on along the same line of
    joint space.
    """

    __slots__ = ("bend", "joints", "pose", "setpoint", "twist", "velocity")

    def __init__(self, setpoint: Setpoint, velocity: Vector, before: Setpoint, period: float):
        self.setpoint = setpoint
        self.velocity: list[float] = velocity.tolist()
        self.joints: list[float] = setpoint.joints.tolist()
        self.pose: list[float] = setpoint.pose.tolist()
        bent: list[float] = ((setpoint.jacobian - before.jacobian) @ velocity).tolist()
        end: list[float] = (setpoint.jacobian @ velocity).tolist()
        self.twist = [e - 0.5 * b for e, b in zip(end, bent, strict=True)]
        self.bend = [b / period for b in bent]


class SafetyFilter:
    """Keeps one stream of joint setpoints, one a `period`, within the limits.

    The state is the last setpoint sent. It may start outside a limit of position (a person has
    moved the arm); then it only moves further in.
    """

    def __init__(
        self,
        joints: ArrayLike,
        period: float,
        spec: RobotSpec = FR3,
        limits: FilterLimits | None = None,
    ) -> None:
        """Start at rest at `joints` (7,) [rad]. Raises ValueError: contradicting limits."""
        self.spec = spec
        self.limits = limits or FilterLimits()
        self.limits.check_period(period)
        self.period = period
        self._joint_rows = list(
            zip(
                (spec.joint_lower + spec.joint_margin).tolist(),
                (spec.joint_upper - spec.joint_margin).tolist(),
                spec.joint_lower.tolist(),
                spec.joint_upper.tolist(),
                (2.0 * spec.joint_deceleration).tolist(),
                spec.joint_velocity_offset.tolist(),
                spec.joint_velocity.tolist(),
                strict=True,
            )
        )
        self._box = list(
            zip(
                (spec.workspace_lower - WORKSPACE_TOLERANCE).tolist(),
                (spec.workspace_upper + WORKSPACE_TOLERANCE).tolist(),
                strict=True,
            )
        )
        self.reset(joints)

    def reset(self, joints: ArrayLike) -> None:
        """Forget the past and stand still at `joints` (7,) [rad]. Raises ValueError: not finite."""
        q = np.array(joints, dtype=np.float64)
        if q.shape != (7,) or not np.isfinite(q).all():
            raise ValueError(f"expected seven finite joint positions, got {q}")
        jacobian, pose = kinematics.jacobian(q)
        still = Setpoint(q, np.zeros(7), pose, jacobian, limited=False)
        self._last = _Motion(still, still.velocity, still, self.period)
        self._lowest = self._lowest_point(self._last.pose)

    @property
    def setpoint(self) -> Setpoint:
        """What was commanded last."""
        return self._last.setpoint

    def step(self, wanted: Setpoint) -> Filtered:
        """What to command in place of `wanted`, which is where the arm shall be a period from now.

        Pose and Jacobian of `wanted` must belong to its joints: PoseFollower computes them anyway.
        """
        last = self._last.setpoint
        if not all(map(math.isfinite, wanted.joints.tolist())):
            return self.brake("not finite")
        velocity = (wanted.joints - last.joints) / self.period
        if not np.array_equal(velocity, wanted.velocity):
            wanted = replace(wanted, velocity=velocity)
        direct = _Motion(wanted, velocity, last, self.period)
        limit = self._broken_limit(direct)
        if not limit:
            self._accept(direct)
            return Filtered(wanted)
        limits = {limit: None}
        braked = self._braked_velocity()
        share = self._allowed_share(braked, velocity - braked)
        for tried in (share, 0.5 * share) if share > SMALLEST_SHARE else ():
            candidate = self._moved(braked + tried * (velocity - braked))
            limit = self._broken_limit(candidate)
            if not limit:
                self._accept(candidate)
                return Filtered(candidate.setpoint, tuple(limits))
            limits[limit] = None
        return self.brake(*limits)

    def step_joints(self, target: ArrayLike) -> Filtered:
        """One period on the straight way through joint space to `target` (7,) [rad], as allowed."""
        goal = np.asarray(target, dtype=np.float64)
        if goal.shape != (7,) or not np.isfinite(goal).all():
            return self.brake("not finite")
        here = self._last.setpoint.joints
        way = np.clip(goal - here, -math.tau, math.tau)  # whatever is asked, no overflow
        distance = math.sqrt(float(way @ way))
        # No faster than it can come to rest at the target.
        speed = min(TARGET_SPEED, math.sqrt(2.0 * TARGET_ACCELERATION * distance))
        step = self.period * speed
        wanted = goal if step >= distance else here + way * (step / distance)
        jacobian, pose = kinematics.jacobian(wanted)
        return self.step(Setpoint(wanted, np.zeros(7), pose, jacobian, limited=False))

    def brake(self, *reasons: str) -> Filtered:
        """Come to rest on the line on which the joints move."""
        candidate = self._moved(self._braked_velocity())
        self._accept(candidate)
        return Filtered(candidate.setpoint, reasons)

    # -- how motions are made ------------------------------------------------------------------

    def _moved(self, velocity: Vector) -> _Motion:
        last = self._last.setpoint
        joints = last.joints + self.period * velocity
        jacobian, pose = kinematics.jacobian(joints)
        new = Setpoint(joints, velocity, pose, jacobian, limited=True)
        return _Motion(new, velocity, last, self.period)

    def _accept(self, new: _Motion) -> None:
        self._last = new
        self._lowest = self._lowest_point(new.pose)

    def _braked_velocity(self) -> Vector:
        """The last joint velocity, shortened by what may be braked in one period."""
        velocity = np.array(self._last.velocity)
        linear, angular = _norms(self._last.twist)
        rest = self._time_to_rest(linear, angular, float(np.abs(velocity).max()))
        return velocity * max(0.0, 1.0 - self.period / rest) if rest > 0.0 else velocity * 0.0

    def _time_to_rest(self, linear: float, angular: float, joint: float) -> float:
        """Seconds that braking takes from these speeds."""
        return max(
            linear / (BRAKE_SHARE * self.limits.linear_acceleration),
            angular / (BRAKE_SHARE * self.limits.angular_acceleration),
            joint / (JOINT_BRAKE_SHARE * self.limits.joint_acceleration),
        )

    def _allowed_share(self, braked: Vector, rest: Vector) -> float:
        """Largest share of `rest` that may be added to `braked`, to first order."""
        limits, period, share = self.limits, self.period, 1.0 - BEND_SHARE
        jacobian = self._last.setpoint.jacobian
        base, way = jacobian @ braked, jacobian @ rest
        change = base - self._last.twist
        joint_room = 0.99 * self.limits.joint_acceleration * period
        return min(
            _largest_shares(braked - self._last.velocity, rest, joint_room),
            _largest_share(change[:3], way[:3], share * limits.linear_acceleration * period),
            _largest_share(change[3:], way[3:], share * limits.angular_acceleration * period),
            _largest_share(base[:3], way[:3], 0.98 * limits.linear_speed),
            _largest_share(base[3:], way[3:], 0.98 * limits.angular_speed),
        )

    # -- what must hold ------------------------------------------------------------------------

    def _broken_limit(self, new: _Motion) -> str:
        """Name of the limit that `new` breaks, or would break while it brakes; empty if none."""
        last, limits, period = self._last, self.limits, self.period
        linear, angular = _norms(new.twist)
        if linear > limits.linear_speed or angular > limits.angular_speed:
            return "speed"
        changes = [a - b for a, b in zip(new.twist, last.twist, strict=True)]
        linear_change, angular_change = _norms(changes)
        linear_bend, angular_bend = _norms(new.bend)
        if (
            linear_change > limits.linear_acceleration * period
            or angular_change > limits.angular_acceleration * period
            or linear_bend > BEND_SHARE * limits.linear_acceleration
            or angular_bend > BEND_SHARE * limits.angular_acceleration
        ):
            return "acceleration"
        joint_change = self.limits.joint_acceleration * period
        fastest = 0.0
        for v, before in zip(new.velocity, last.velocity, strict=True):
            if abs(v - before) > joint_change:
                return "joint acceleration"
            fastest = max(fastest, abs(v))
        rest = self._time_to_rest(linear, angular, fastest)
        # The line bends while it is braked on: the speed to brake grows by this much.
        linear, angular = linear + 0.5 * linear_bend * rest, angular + 0.5 * angular_bend * rest
        reach = 0.5 * self._time_to_rest(linear, angular, fastest) + period
        return (
            self._broken_joint(new, reach)
            or self._broken_box(new, reach)
            or self._broken_table(new, reach)
        )

    def _broken_joint(self, new: _Motion, reach: float) -> str:
        """Joint positions and their velocity limits, where the joints would come to rest."""
        for q, v, (lower, upper, end_below, end_above, slope, offset, most) in zip(
            new.joints, new.velocity, self._joint_rows, strict=True
        ):
            at_rest = q + v * reach
            if v > 0.0:
                outside, room = at_rest > upper, end_above - at_rest
            elif v < 0.0:
                outside, room = at_rest < lower, at_rest - end_below
            else:
                continue
            if outside:
                return "joint position"
            # The limit there is the narrowest one on the way: it falls towards the end.
            if abs(v) > most or (abs(v) + offset) ** 2 > slope * room:
                return "joint velocity"
        return ""

    def _broken_box(self, new: _Motion, reach: float) -> str:
        """The end effector, on its whole way to rest, in the workspace."""
        before = self._last.pose
        for axis, (lower, upper) in enumerate(self._box):
            low, high = _extremes(new.pose[axis], new.twist[axis], new.bend[axis], reach)
            if (low < lower and low < before[axis]) or (high > upper and high > before[axis]):
                return "workspace"
        return ""

    def _broken_table(self, new: _Motion, reach: float) -> str:
        """Every corner of the gripper, on the way to rest, above the table."""
        fall = _extremes(0.0, new.twist[2], new.bend[2], reach)[0]
        tilt = math.hypot(new.twist[3], new.twist[4]) * reach
        lowest = self._lowest_point(new.pose) + fall - tilt * self.limits.gripper.radius
        below = lowest < self.limits.table_height
        return "table" if below and lowest < self._lowest - 1e-9 else ""

    def _lowest_point(self, pose: list[float]) -> float:
        """z [m] of the gripper's lowest corner at `pose` (7,)."""
        _, _, height, x, y, z, w = pose
        # Third row of the rotation matrix: heights of the gripper's own axes.
        up_x = abs(2.0 * (x * z - y * w))
        up_y = abs(2.0 * (y * z + x * w))
        up_z = 1.0 - 2.0 * (x * x + y * y)
        return height + min(
            up_z * along - up_x * half_x - up_y * half_y
            for along, half_x, half_y in self.limits.gripper.layers
        )


def _norms(twist: list[float]) -> tuple[float, float]:
    """Lengths of the linear and of the angular part."""
    x, y, z, a, b, c = twist
    return math.sqrt(x * x + y * y + z * z), math.sqrt(a * a + b * b + c * c)


def _extremes(
    start: float, velocity: float, acceleration: float, time: float
) -> tuple[float, float]:
    """Lowest and highest value of start + velocity t + acceleration t^2 / 2 for t in 0..time."""
    end = start + velocity * time + 0.5 * acceleration * time * time
    low, high = min(start, end), max(start, end)
    if velocity * acceleration < 0.0 and abs(velocity) < abs(acceleration) * time:
        turn = start - 0.5 * velocity * velocity / acceleration
        low, high = min(low, turn), max(high, turn)
    return low, high


def _largest_share(base: Vector, way: Vector, length: float) -> float:
    """Largest share in 0..1 with |base + share way| <= length; 0 if there is none."""
    a, b = float(way @ way), float(base @ way)
    c = float(base @ base) - length * length
    if a + 2.0 * b + c <= 0.0:
        return 1.0
    if c >= 0.0 or a <= 0.0:
        return 0.0
    return min(1.0, (-b + math.sqrt(b * b - a * c)) / a)


def _largest_shares(base: Vector, way: Vector, length: float) -> float:
    """As `_largest_share`, with the length for each component."""
    shares = (length - np.sign(way) * base) / np.maximum(np.abs(way), 1e-9)
    return float(np.clip(shares.min(), 0.0, 1.0))
