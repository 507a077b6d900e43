"""The stream of setpoints to the arm: paced by the arm's clock, filtered, never far ahead of it.

Everything that moves the arm goes through `send`: policy, teleoperation and homing alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from contracts import kinematics
from contracts.motion import PoseFollower, Setpoint
from contracts.robot import FR3, RobotSpec
from roboalign.arm_driver import Arm, ArmError, ArmState
from roboalign.safety_filter import Filtered, SafetyFilter

LAG_HOLD_RAD = 0.1
"""Joint error beyond which the setpoint waits for the arm; in free motion it is some hundredths."""
LAG_ERROR_RAD = 0.5
"""Joint error beyond which the arm is stopped: it is pushed away, or its controller swings. The
latter needs no fault of its own: libfranka's limit of 1 Nm a ms on the torque's change is enough,
once the error is large."""
HOME_POSE_M, HOME_POSE_RAD = 0.003, 0.02
HOME_JOINTS_RAD = 1e-4
"""Distances from home at which its pose and its joints count as reached."""
HOME_ARRIVED_RAD = 0.02
"""Of the measured joints."""
HOME_PATIENCE_TICKS = 200
"""How long the way home may not get shorter: something is in the way, or a limit."""
HOME_SPEED = 1.5
"""Homing's speed limits over the policy's, at full `home_dynamics`."""


class SetpointStream:
    """Owns what was commanded last. For one thread, the control loop's."""

    def __init__(self, arm: Arm, period: float, spec: RobotSpec = FR3) -> None:
        """`period` [s] is that of the control loop. Raises ArmError: the arm cannot be read."""
        self.spec = spec
        self.period = period
        self._arm = arm
        self.state: ArmState = arm.read()
        self.follower = PoseFollower(self.state.joint_positions, period, spec)
        self.filter = SafetyFilter(self.state.joint_positions, period, spec)
        self.tracking = False
        """Whether the arm follows what is sent."""
        self._stepped_at = -np.inf
        self.begin_tick()

    def begin_tick(self) -> None:
        """Forget what the tick before has sent."""
        self.sent: Setpoint | None = None
        self.limited_by: tuple[str, ...] = ()
        """Limits that changed the setpoint of this tick."""
        self.filter_us = 0.0

    def read(self) -> ArmState:
        """The arm's state, which lag and pace are judged by. Raises ArmError."""
        self.state = self._arm.read()
        return self.state

    def take_over(self) -> None:
        """Hold the arm where it stands. Raises ArmError."""
        self._arm.start_tracking()
        self.read()
        self.follower = PoseFollower(self.state.joint_positions, self.period, self.spec)
        self.filter.reset(self.state.joint_positions)
        self._stepped_at = -np.inf
        self.tracking = True

    def due(self) -> bool:
        """Whether the next setpoint may be sent: the arm has lived through a period since the last.

        The arm's clock stands where its cycles do not come: the setpoint must not run ahead.
        """
        if 0.0 <= self.state.time - self._stepped_at < 0.5 * self.period:
            return False
        self._stepped_at = self.state.time
        return True

    @property
    def lag(self) -> float:
        """Largest joint error [rad] of the arm to its setpoint."""
        return float(np.abs(self.filter.setpoint.joints - self.state.joint_positions).max())

    @property
    def at_rest(self) -> bool:
        """Whether the last setpoint stood still."""
        return not self.filter.setpoint.velocity.any()

    def send(self, wanted: Setpoint) -> None:
        """Filter and track `wanted`. Raises ArmError."""
        started = time.perf_counter()
        self._track(self.filter.step(wanted), started)

    def hold(self, reason: str = "") -> None:
        """Brake and stand still; a `reason` counts as a limit. Raises ArmError."""
        wanted = self.follower.hold()
        started = time.perf_counter()
        self._track(self.filter.step(wanted), started)
        if reason:
            self.limited_by = (*self.limited_by, reason)

    def _track(self, filtered: Filtered, started: float) -> None:
        self.filter_us = 1e6 * (time.perf_counter() - started)
        setpoint = filtered.setpoint
        if filtered.limited_by:
            self.follower.adopt(setpoint)
        self._arm.track(setpoint.joints, setpoint.velocity)
        self.limited_by, self.sent = filtered.limited_by, setpoint

    def check_lag(self) -> None:
        """Raises ArmError, with the arm stopping: it is far from where it was told to be."""
        lag = self.lag
        if lag > LAG_ERROR_RAD:
            self._arm.begin_stop()
            raise ArmError(f"the arm does not follow: a joint is {lag:.2f} rad off its setpoint")

    # -- procedures: each yields once a tick ----------------------------------------------------

    def come_to_rest(self) -> Iterator[None]:
        while not self.at_rest:
            if self.due():
                self.check_lag()
                self.hold()
            yield

    def go_home(self, dynamics: float) -> Iterator[None]:
        """Straight to the home pose, then to the home joints. Raises ArmError: it cannot get there.

        A straight line of the end effector stays in the workspace, which is convex; a line in joint
        space need not.
        """
        share = min(1.0, HOME_SPEED * dynamics)
        slow = replace(
            self.spec,
            linear_speed=share * self.spec.linear_speed,
            angular_speed=share * self.spec.angular_speed,
        )
        self.follower = PoseFollower(self.filter.setpoint.joints, self.period, slow)
        home = kinematics.forward(self.spec.home_joints)
        progress = _Progress()
        while True:
            if self.due():
                self.check_lag()
                way = self._way_home(home)
                if way < 1.0 or progress.stuck(way):
                    break  # what is left is left to the joints
                if self.lag > LAG_HOLD_RAD:
                    self.hold()
                else:
                    self.send(self.follower.step(home))
            yield
        yield from self._to_home_joints()
        self.follower = PoseFollower(self.filter.setpoint.joints, self.period, self.spec)

    def _way_home(self, home: np.ndarray) -> float:
        """Distance of the setpoint from the home pose, in units of what counts as there."""
        error = kinematics.pose_error(home, self.filter.setpoint.pose)
        return max(
            float(np.linalg.norm(error[:3])) / HOME_POSE_M,
            float(np.linalg.norm(error[3:])) / HOME_POSE_RAD,
        )

    def _to_home_joints(self) -> Iterator[None]:
        goal = self.spec.home_joints
        progress = _Progress()
        while True:
            setpoint_off = float(np.abs(goal - self.filter.setpoint.joints).max())
            arm_off = float(np.abs(goal - self.state.joint_positions).max())
            if setpoint_off < HOME_JOINTS_RAD and arm_off < HOME_ARRIVED_RAD and self.at_rest:
                return
            if self.due():
                self.check_lag()
                way = setpoint_off + arm_off
                if progress.stuck(way):
                    limits = ", ".join(self.limited_by) or "something in its way"
                    raise ArmError(f"home is not reached: {way:.2f} rad to go, held by {limits}")
                started = time.perf_counter()
                if self.lag > LAG_HOLD_RAD:
                    filtered = self.filter.brake("lag")
                else:
                    filtered = self.filter.step_joints(goal)
                self._track(filtered, started)
            yield


class _Progress:
    """Notices that a way no longer gets shorter."""

    def __init__(self) -> None:
        self._best = np.inf
        self._patience = HOME_PATIENCE_TICKS

    def stuck(self, way: float) -> bool:
        """Whether `way` has not become shorter for HOME_PATIENCE_TICKS calls."""
        if way < 0.999 * self._best:
            self._best, self._patience = way, HOME_PATIENCE_TICKS
        self._patience -= 1
        return self._patience < 0
