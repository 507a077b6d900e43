"""RobotSpec: the Franka Research 3's limits, the workspace and the home pose."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from contracts.geometry import Vector


def _vector(*values: float) -> Vector:
    array = np.array(values)
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class RobotSpec:
    """Limits in SI units; joint order is fr3_joint1..7; positions in the base frame.

    The defaults are Franka's FR3 datasheet (joint limits, rates) and this project's workspace:
    a table top at z = 0 in front of the base.
    """

    joint_lower: Vector = field(
        default_factory=lambda: _vector(
            -2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159
        )
    )
    joint_upper: Vector = field(
        default_factory=lambda: _vector(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159)
    )
    joint_velocity: Vector = field(
        default_factory=lambda: _vector(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
    )
    joint_deceleration: Vector = field(
        default_factory=lambda: _vector(6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0)
    )
    joint_velocity_offset: Vector = field(
        default_factory=lambda: _vector(0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35)
    )
    """Deceleration [rad/s2] and offset [rad/s] of the joint velocity's limit near a position limit:
    sqrt(2 deceleration distance) - offset (FR3 datasheet; libfranka, rate_limiting.h)."""
    joint_margin: float = 0.05
    """Distance [rad] that every joint setpoint keeps from its limit."""
    linear_speed: float = 0.6
    """Cartesian speed limit [m/s] of the policy's motions; the arm itself allows 3.0."""
    angular_speed: float = 1.5
    """Rotation speed limit [rad/s]; the arm itself allows 2.5."""
    linear_acceleration: float = 2.5
    angular_acceleration: float = 8.0
    """Acceleration limits [m/s2, rad/s2]. The arm allows 9 and 17, but the joint impedance's torque
    may change by 1 Nm/ms only: harder starts make the loop unstable (seen in simulation)."""
    workspace_lower: Vector = field(default_factory=lambda: _vector(0.25, -0.45, 0.012))
    workspace_upper: Vector = field(default_factory=lambda: _vector(0.75, 0.45, 0.60))
    home_joints: Vector = field(
        default_factory=lambda: _vector(0.0, -0.42, 0.0, -2.50, 0.0, 2.08, 0.7854)
    )
    """Gripper straight down, about 0.45 m in front of the base and 0.3 m above the table."""
    joint_stiffness: Vector = field(
        default_factory=lambda: _vector(600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
    )
    """Stiffness [Nm/rad] of the joint impedance that tracks setpoints (Franka's own defaults)."""
    gripper_width: float = 0.08
    """Width [m] between the fingers when fully open (opening = 1)."""
    gripper_speed: float = 0.1
    """Speed [m/s] at which the width changes."""

    def __post_init__(self) -> None:
        if np.any(self.joint_lower >= self.joint_upper):
            raise ValueError("RobotSpec: every joint's lower limit must be below its upper limit")
        if np.any(self.workspace_lower >= self.workspace_upper):
            raise ValueError("RobotSpec: the workspace box is empty")
        if not self.joints_within_limits(self.home_joints):
            raise ValueError("RobotSpec: the home pose is outside the joint limits")

    @property
    def joint_damping(self) -> Vector:
        """Damping [Nms/rad] (7,) of the joint impedance: franky's rule 2 sqrt(stiffness)."""
        return np.asarray(2.0 * np.sqrt(self.joint_stiffness))

    def joint_velocity_limits(self, joints: ArrayLike) -> tuple[Vector, Vector]:
        """Lower and upper limit [rad/s] (7,) of the joint velocities at positions (7,) [rad].

        Zero beyond a position limit. libfranka measures the distance from its URDF's limits, which
        are up to 0.01 rad wider than the datasheet's; the narrower ones are used here.
        """
        q = np.asarray(joints, dtype=np.float64)
        return (
            -self._speed_before(q - self.joint_lower),
            self._speed_before(self.joint_upper - q),
        )

    def _speed_before(self, distance: Vector) -> Vector:
        speed = np.sqrt(2.0 * self.joint_deceleration * np.maximum(distance, 0.0))
        return np.clip(speed - self.joint_velocity_offset, 0.0, self.joint_velocity)

    def joints_within_limits(self, joints: ArrayLike) -> bool:
        """Whether joint positions (7,) [rad] keep `joint_margin` from every limit."""
        q = np.asarray(joints, dtype=np.float64)
        inside = (q >= self.joint_lower + self.joint_margin) & (
            q <= self.joint_upper - self.joint_margin
        )
        return bool(np.all(inside))


FR3 = RobotSpec()
