"""The FR3 through franky: connect, read, track joint setpoints, go home, stop, recover.

Every call is made from one thread, the control loop's. Nothing here waits for a motion: motions
are begun, and `moving` tells when they have ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import franky
import numpy as np

from contracts.geometry import Vector
from contracts.robot import FR3, RobotSpec

# franka_ros2's collision behaviour: contact above the lower, reflex above the upper values.
TORQUE_CONTACT_NM = [25.0, 25.0, 22.0, 20.0, 19.0, 17.0, 14.0]
TORQUE_REFLEX_NM = [35.0, 35.0, 32.0, 30.0, 29.0, 27.0, 24.0]
FORCE_CONTACT_N = [30.0] * 6
FORCE_REFLEX_N = [40.0] * 6
FRANKY_ERRORS = (
    franky.Exception,
    franky.InvalidMotionTypeException,
    franky.MotionReuseException,
    franky.ReactionRecursionException,
    franky.TorqueSignalTimeoutException,
)
"""Not all of franky's exceptions derive from its own base class."""
HOME_DYNAMICS = 0.2
"""Share of the arm's velocity, acceleration and jerk limits that homing uses."""


class ArmError(RuntimeError):
    """The arm does not do what was asked; the text is libfranka's reason."""


@dataclass(frozen=True)
class ArmState:
    """Measured state: pose (7,) in the base frame, joints [rad], [rad/s]; `error` empty if fine.

    time: the arm's own clock [s], which counts its control cycles. success_rate: libfranka's share
    of control commands that arrived in time, 0..1.
    """

    time: float
    pose: Vector
    joint_positions: Vector
    joint_velocities: Vector
    success_rate: float
    error: str


class Arm(Protocol):
    """What the control loop needs of an arm. Every method may raise ArmError."""

    def read(self) -> ArmState: ...
    def start_tracking(self) -> None: ...
    def track(self, joints: Vector, velocity: Vector) -> None: ...
    def begin_stop(self) -> None: ...
    def begin_home(self) -> None: ...
    def moving(self) -> bool: ...
    def recover(self) -> None: ...


class ArmDriver:
    """A Franka arm at `hostname`, libfranka's own interface; implements Arm."""

    def __init__(
        self, hostname: str, *, home_dynamics: float = HOME_DYNAMICS, spec: RobotSpec = FR3
    ) -> None:
        if not 0.0 < home_dynamics <= 1.0:
            raise ValueError(f"home_dynamics must be in 0..1, got {home_dynamics}")
        self.hostname = hostname
        self.spec = spec
        self._home_dynamics = home_dynamics
        self._robot: franky.Robot | None = None
        self._tracker: franky.JointImpedanceTracker | None = None

    def connect(self) -> None:
        """Raises ArmError: nobody answers, or the robot runs another protocol version."""
        with (
            _kept_scheduling(),
            _franky_errors(f"cannot connect to the arm at {self.hostname}"),
        ):
            self._robot = franky.Robot(self.hostname, realtime_config=_realtime_config())
            self._robot.set_collision_behavior(
                TORQUE_CONTACT_NM, TORQUE_REFLEX_NM, FORCE_CONTACT_N, FORCE_REFLEX_N
            )

    def read(self) -> ArmState:
        with _franky_errors("cannot read the arm's state"):
            state = self._connected().state
        pose = np.concatenate([state.O_T_EE.translation, state.O_T_EE.quaternion])
        return ArmState(
            time=state.time.to_sec(),
            pose=pose,
            joint_positions=np.asarray(state.q, dtype=np.float64),
            joint_velocities=np.asarray(state.dq, dtype=np.float64),
            success_rate=float(state.control_command_success_rate),
            error=_error_text(state),
        )

    def start_tracking(self) -> None:
        """Hold the present joints by impedance, and follow `track` from here on."""
        with _franky_errors("cannot start tracking"):
            self._tracker = franky.JointImpedanceTracker(
                self._connected(),
                stiffness=self.spec.joint_stiffness,
                damping=self.spec.joint_damping,
            )

    def track(self, joints: Vector, velocity: Vector) -> None:
        """Setpoint for the impedance controller: [rad], [rad/s], (7,) each."""
        if self._tracker is None:
            raise ArmError("not tracking")
        with _franky_errors("cannot track"):
            if not self._tracker.is_running:
                self._connected().join_motion(timeout=0.0)
                raise ArmError("the tracking controller has ended by itself")
            self._tracker.set_target(joints, velocity)

    def begin_stop(self) -> None:
        """Ramp the torque of tracking down until the arm rests."""
        self._tracker = None
        with _franky_errors("cannot stop"):
            robot = self._connected()
            if robot.is_in_control:
                robot.move(franky.TorqueStopMotion(), asynchronous=True)

    def begin_home(self) -> None:
        with _franky_errors("cannot go home"):
            home = franky.JointMotion(
                np.array(self.spec.home_joints), relative_dynamics_factor=self._home_dynamics
            )
            self._connected().move(home, asynchronous=True)

    def moving(self) -> bool:
        """Whether the motion that was begun still runs. Raises ArmError if it failed."""
        with _franky_errors("the motion failed"):
            # Not poll_motion: it says the opposite of its documentation (franky 2.0.0).
            return not self._connected().join_motion(timeout=0.0)

    def recover(self) -> None:
        """Clear a reflex; connect again if the connection is gone."""
        self._tracker = None
        try:
            with _franky_errors("cannot recover"):
                self._connected().recover_from_errors()
                self._connected().join_motion(timeout=1.0)
        except ArmError:
            self._robot = None
            self.connect()
            with _franky_errors("cannot recover"):
                self._connected().recover_from_errors()

    def _connected(self) -> franky.Robot:
        if self._robot is None:
            raise ArmError(f"not connected to the arm at {self.hostname}")
        return self._robot


@contextmanager
def _franky_errors(what: str) -> Iterator[None]:
    try:
        yield
    except FRANKY_ERRORS as error:
        raise ArmError(f"{what}: {error}") from error


def _error_text(state: franky.RobotState) -> str:
    mode = state.robot_mode
    if mode == franky.RobotMode.UserStopped:
        return "user stop is pressed"
    if mode == franky.RobotMode.Reflex:
        return f"reflex: {state.last_motion_errors}"
    # An Errors object is true even when it holds none.
    current = str(state.current_errors)
    return "" if current == "[]" else f"errors: {current}"


@contextmanager
def _kept_scheduling() -> Iterator[None]:
    """Give the calling thread its scheduling back, which libfranka raises to the top real-time one.

    Python's threads would inherit it and starve the rest of the machine; libfranka's own control
    thread asks for it again by itself.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _realtime_config() -> franky.RealtimeConfig:
    """Enforce real-time scheduling where the kernel has it (libfranka's own check)."""
    flag = Path("/sys/kernel/realtime")
    if flag.is_file() and flag.read_text().strip() == "1":
        return franky.RealtimeConfig.Enforce
    return franky.RealtimeConfig.Ignore
