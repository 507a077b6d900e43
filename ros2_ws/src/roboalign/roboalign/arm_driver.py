"""The FR3 through franky: connect, read, track joint setpoints, go home, stop, recover.

Every call is made from one thread, the control loop's. Nothing here waits: motions are begun, and
`moving` tells when they have ended; connecting and clearing errors, which may hang as long as the
network does, run in a thread of their own until `busy` says no.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
USER_STOP = "user stop is pressed"
"""ArmState.error then."""


class ArmError(RuntimeError):
    """The arm does not do what was asked; the text is libfranka's reason."""


@dataclass(frozen=True)
class ArmState:
    """Measured state: pose (7,) in the base frame, joints [rad], [rad/s]; `error` empty if fine.

    time: the arm's own clock [s], which counts its control cycles. success_rate: libfranka's share
    of control commands that arrived in time, 0..1. wrench: estimated external force and torque
    (6,) [N, Nm] on the end effector, in the base frame.
    """

    time: float
    pose: Vector
    joint_positions: Vector
    joint_velocities: Vector
    success_rate: float
    error: str
    wrench: Vector = field(default_factory=lambda: np.zeros(6))


class Arm(Protocol):
    """What the control loop needs of an arm. Every method may raise ArmError."""

    def read(self) -> ArmState: ...
    def start_tracking(self) -> None: ...
    def track(self, joints: Vector, velocity: Vector) -> None: ...
    def begin_stop(self) -> None: ...
    def moving(self) -> bool: ...
    @property
    def connected(self) -> bool: ...
    def begin_connect(self) -> None: ...
    def begin_clear(self) -> None: ...
    @property
    def busy(self) -> bool: ...
    @property
    def problem(self) -> str: ...


class ArmDriver:
    """A Franka arm at `hostname`, libfranka's own interface; implements Arm."""

    def __init__(self, hostname: str, *, spec: RobotSpec = FR3) -> None:
        self.hostname = hostname
        self.spec = spec
        self._robot: franky.Robot | None = None
        self._tracker: franky.JointImpedanceTracker | None = None
        self._lost = False
        self._work: _Work | None = None

    def connect(self) -> None:
        """Raises ArmError: nobody answers, or the robot runs another protocol version."""
        with _kept_scheduling(), self._errors(f"cannot connect to the arm at {self.hostname}"):
            robot = franky.Robot(self.hostname, realtime_config=_realtime_config())
            robot.set_collision_behavior(
                TORQUE_CONTACT_NM, TORQUE_REFLEX_NM, FORCE_CONTACT_N, FORCE_REFLEX_N
            )
            self._robot, self._lost = robot, False

    def read(self) -> ArmState:
        with self._errors("cannot read the arm's state"):
            state = self._connected().state
        pose = np.concatenate([state.O_T_EE.translation, state.O_T_EE.quaternion])
        return ArmState(
            time=state.time.to_sec(),
            pose=pose,
            joint_positions=np.asarray(state.q, dtype=np.float64),
            joint_velocities=np.asarray(state.dq, dtype=np.float64),
            success_rate=float(state.control_command_success_rate),
            error=_error_text(state),
            wrench=np.asarray(state.O_F_ext_hat_K, dtype=np.float64),
        )

    def start_tracking(self) -> None:
        """Hold the present joints by impedance, and follow `track` from here on."""
        with self._errors("cannot start tracking"):
            self._tracker = franky.JointImpedanceTracker(
                self._connected(),
                stiffness=self.spec.joint_stiffness,
                damping=self.spec.joint_damping,
            )

    def track(self, joints: Vector, velocity: Vector) -> None:
        """Setpoint for the impedance controller: [rad], [rad/s], (7,) each."""
        if self._tracker is None:
            raise ArmError("not tracking")
        with self._errors("cannot track"):
            if not self._tracker.is_running:
                self._connected().join_motion(timeout=0.0)
                raise ArmError("the tracking controller has ended by itself")
            self._tracker.set_target(joints, velocity)

    def begin_stop(self) -> None:
        """Ramp the torque of tracking down until the arm rests."""
        self._tracker = None
        with self._errors("cannot stop"):
            robot = self._connected()
            if robot.is_in_control:
                robot.move(franky.TorqueStopMotion(), asynchronous=True)

    def moving(self) -> bool:
        """Whether the motion that was begun still runs. Raises ArmError if it failed."""
        with self._errors("the motion failed"):
            # Not poll_motion: it says the opposite of its documentation (franky 2.0.0).
            return not self._connected().join_motion(timeout=0.0)

    @property
    def connected(self) -> bool:
        """Whether there is a connection whose last call did not fail."""
        return self._robot is not None and not self._lost

    def begin_connect(self) -> None:
        """Give up the old connection, if any, and make a new one."""
        self._tracker = self._robot = None
        self._begin(self.connect)

    def begin_clear(self) -> None:
        """Clear the arm's errors, as after a reflex."""
        self._tracker = None
        self._begin(self._clear)

    @property
    def busy(self) -> bool:
        """Whether connecting or clearing still runs."""
        return self._work is not None and self._work.running

    @property
    def problem(self) -> str:
        """How the last connecting or clearing failed; empty if it did not."""
        return self._work.problem if self._work is not None else ""

    def _clear(self) -> None:
        with self._errors("cannot clear the arm's errors"):
            robot = self._connected()
            with suppress(*FRANKY_ERRORS):  # how the last motion failed is known already
                robot.join_motion(timeout=1.0)
            robot.recover_from_errors()

    def _begin(self, call: Callable[[], None]) -> None:
        self._work = _Work(call)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turns franky's errors into ArmError, and notes when the connection is gone."""
        try:
            yield
        except ArmError:
            raise
        except FRANKY_ERRORS as error:
            self._lost = self._lost or isinstance(error, franky.NetworkException)
            raise ArmError(f"{what}: {error}") from error
        except RuntimeError as error:
            # The network library below libfranka has errors of its own, which pass it unchanged.
            self._lost = True
            raise ArmError(f"{what}: the connection is lost ({error})") from error

    def _connected(self) -> franky.Robot:
        if self._robot is None:
            raise ArmError(f"not connected to the arm at {self.hostname}")
        return self._robot


class _Work:
    """A call that may block, in a thread of its own. One that never returns is left to itself."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.problem = ""
        self._call = call
        self._thread = threading.Thread(target=self._run, name="arm recovery", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._call()
        except ArmError as error:
            self.problem = str(error)


def _error_text(state: franky.RobotState) -> str:
    mode = state.robot_mode
    if mode == franky.RobotMode.UserStopped:
        return USER_STOP
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
