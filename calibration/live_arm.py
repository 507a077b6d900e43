"""The arm for calibration, through franky: the simulated one or a real one, at an address.

It moves as the arm node does: end-effector poses through `PoseFollower` (workspace, speed, joint
limits) into joint impedance tracking, so that the latency that is measured is the runtime's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

import franky
import numpy as np

from calibration import viewpoints
from calibration.source import MotionError
from contracts import geometry
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.robot import FR3

PERIOD: Final = 0.01
"""Seconds between two setpoints, as in the arm node."""
CLOCK_STEP: Final = 0.001
"""Resolution [s] of the arm's own clock."""
POLL_PERIOD: Final = 0.001
REHEARSAL_PERIOD: Final = 0.04
CALM_RAD_S: Final = 1.3
"""Joint speed that moves between viewpoints stay below."""
SHORTEST_MOVE: Final = 0.5
ARRIVED_M: Final = 0.02
"""Distance from the wanted pose that impedance and gravity may leave; the measured pose is used."""
STILL_RAD_S: Final = 0.004
SETPOINT_ARRIVED_M: Final = 0.001
SETTLE_TIMEOUT: Final = 30.0
START_ATTEMPTS: Final = 3
AT_HOME_RAD: Final = 0.02
HOME_DYNAMICS: Final = 0.15
"""Share of the arm's own limits: a person may stand beside it."""
WAITING_LAG: Final = 0.15
"""Joint error [rad] beyond which the setpoint waits for the arm."""
MOST_PASSED: Final = 3
LONGEST_WAIT: Final = 5.0
LARGEST_LAG: Final = 0.35
"""Joint error [rad] at which the arm is stopped: it is blocked."""
FRANKY_ERRORS: Final = (
    franky.Exception,
    franky.InvalidMotionTypeException,
    franky.MotionReuseException,
    franky.ReactionRecursionException,
    franky.TorqueSignalTimeoutException,
)
"""Not all of franky's exceptions derive from its own base class."""


@dataclass(frozen=True)
class ArmReading:
    """End-effector pose (7,) in the base, joints (7,) [rad], [rad/s].

    stamp: the computer's clock [s] after reading; arm_time: the arm's own clock [s].
    """

    pose: Vector
    joints: Vector
    velocities: Vector
    stamp: float
    arm_time: float


@dataclass
class Track:
    """What was sent and read while following a path, a row a tick."""

    sent_stamps: list[float] = field(default_factory=list)
    sent_poses: list[Vector] = field(default_factory=list)
    readings: list[ArmReading] = field(default_factory=list)


class LiveArm:
    """A Franka arm at `address`; a context manager. Every method may raise MotionError."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._robot = self._connect()
        self._follower = PoseFollower(self.read().joints, PERIOD)
        self._tracker: franky.JointImpedanceTracker | None = None
        self._lag = 0.0
        self._period_start = 0.0  # by the arm's clock
        self._passed = 1
        self._last_in_time = 0.0

    def __enter__(self) -> LiveArm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What ended the block is the news; an arm that is gone cannot be stopped either.
        with suppress(*(() if error is None else (MotionError,))):
            self.close()

    def read(self) -> ArmReading:
        """The measured state now; MotionError if the arm reports numbers that are not finite."""
        with _errors("cannot read the arm's state"):
            state = self._robot.state
        pose = np.concatenate([state.O_T_EE.translation, state.O_T_EE.quaternion])
        stamp = time.time()
        joints = np.asarray(state.q, dtype=np.float64)
        velocities = np.asarray(state.dq, dtype=np.float64)
        try:
            pose = geometry.check_poses(pose, f"the arm at {self.address} reports a pose that")
        except ValueError as error:
            raise MotionError(str(error)) from error
        return ArmReading(pose, joints, velocities, stamp, state.time.to_sec())

    def home(self) -> None:
        """Move to the home joints by the arm's own motion, unless it stands there."""
        home = np.array(FR3.home_joints)
        if float(np.abs(self.read().joints - home).max()) < AT_HOME_RAD:
            return
        self._release()
        with _errors("cannot go home"):
            motion = franky.JointMotion(home, relative_dynamics_factor=HOME_DYNAMICS)
            self._robot.move(motion, asynchronous=True)
            try:
                while not self._robot.join_motion(timeout=0.1):
                    pass
            except KeyboardInterrupt:
                self._robot.stop()
                raise

    def move_to(self, pose: Vector) -> None:
        """Go to the end-effector pose (7,) in the base, on a straight line, and come to rest.

        Raises:
            MotionError: outside the workspace, or the arm does not arrive.
        """
        goal = geometry.check_poses(pose, "wanted pose")
        below, above = FR3.workspace_lower, FR3.workspace_upper
        if (goal[:3] < below).any() or (goal[:3] > above).any():
            raise MotionError(f"the pose {np.round(goal[:3], 3).tolist()} is outside the workspace")
        start = self._begin()
        duration = self._calm_duration(start, goal)
        self.follow(
            lambda t: _on_the_way(start, goal, t / duration), duration + viewpoints.SETTLING
        )
        self._settle(goal)

    def _calm_duration(self, start: Vector, goal: Vector) -> float:
        """Seconds for the way from `start` to `goal` (7,) in which no joint has to hurry.

        Near a singular pose joints may turn fast while the hand hardly moves; joint impedance
        begins to swing there.
        """
        duration = max(viewpoints.PERIOD * len(viewpoints.way(start, goal)), SHORTEST_MOVE)
        rehearsal = PoseFollower(self._follower.joints, REHEARSAL_PERIOD)
        fastest = max(
            float(np.abs(rehearsal.step(_on_the_way(start, goal, t / duration)).velocity).max())
            for t in np.arange(0.0, duration, REHEARSAL_PERIOD).tolist()
        )
        return duration * max(1.0, fastest / CALM_RAD_S)

    @property
    def commanded_pose(self) -> Vector:
        """End-effector pose (7,) of the last setpoint."""
        return self._begin()

    def follow(self, path: Callable[[float], Vector], duration: float) -> Track:
        """Stream the poses path(t) (7,), t [s] up to `duration`; return what was sent and measured.

        Raises:
            MotionError: the arm stays behind, or its controller ends.
        """
        self._begin()
        track, step = Track(), 0
        self._last_in_time = time.monotonic()
        self._period_start, self._passed = self.read().arm_time, 1
        while step < round(duration / PERIOD):
            if self._lag > WAITING_LAG:
                self._tick([None], track)
                continue
            passed = range(step + 1, step + 1 + self._passed)
            self._tick([path(n * PERIOD) for n in passed], track)
            step = passed[-1]
        return track

    def _tick(self, wanted: Sequence[Vector | None], track: Track) -> None:
        """Setpoints towards poses (7,), or to stand still, one a period that has passed by the
        arm's clock; the last one is sent. Then a reading at the next period."""
        for pose in wanted:
            setpoint = self._follower.hold() if pose is None else self._follower.step(pose)
        self._send(setpoint.joints, setpoint.velocity)
        track.sent_stamps.append(time.time())
        track.sent_poses.append(setpoint.pose)
        reading = self._next_period()
        track.readings.append(reading)
        self._lag = float(np.abs(setpoint.joints - reading.joints).max())
        now = time.monotonic()
        if self._lag <= WAITING_LAG:
            self._last_in_time = now
        if self._lag > LARGEST_LAG or now - self._last_in_time > LONGEST_WAIT:
            self.close()
            raise MotionError(f"the arm does not follow: a joint is {self._lag:.2f} rad behind")

    def _next_period(self) -> ArmReading:
        """The reading that begins the next period by the arm's own clock.

        A simulated arm on a busy machine runs slower than the wall clock: setpoints that came by
        the latter would be too fast for it. And where this loop is late, it leaves setpoints out,
        so that their velocity stays true; but not so many that the arm would feel a jump.
        """
        deadline = time.monotonic() + LONGEST_WAIT
        time.sleep(PERIOD - POLL_PERIOD)
        half = CLOCK_STEP / 2
        while (reading := self.read()).arm_time < self._period_start + PERIOD - half:
            if time.monotonic() > deadline:
                raise MotionError("the arm's clock stands still: is it, or its simulation, alive?")
            time.sleep(POLL_PERIOD)
        passed = int((reading.arm_time - self._period_start + half) / PERIOD)
        self._period_start += passed * PERIOD
        self._passed = min(passed, MOST_PASSED)
        return reading

    def close(self) -> None:
        """Ramp the torque down; the arm's own controller holds it."""
        self._release()

    def _begin(self) -> Vector:
        """Take the arm under impedance control where it stands; return the commanded pose."""
        for attempt in range(START_ATTEMPTS if self._tracker is None else 0):
            try:
                with _errors("cannot start tracking"):
                    self._tracker = franky.JointImpedanceTracker(
                        self._robot, stiffness=FR3.joint_stiffness, damping=FR3.joint_damping
                    )
                self._follower.reset(self.read().joints)
                self._lag, self._last_in_time = 0.0, time.monotonic()
                break
            except MotionError:
                # On a busy machine the first packets may come too late; libfranka then drops the
                # connection, before anything has moved.
                self._tracker = None
                if attempt + 1 == START_ATTEMPTS:
                    raise
                self._robot = self._connect()
        return self._follower.pose

    def _connect(self) -> franky.Robot:
        with _kept_scheduling(), _errors(f"cannot connect to the arm at {self.address}"):
            return franky.Robot(self.address, realtime_config=_realtime_config())

    def _send(self, joints: Vector, velocity: Vector) -> None:
        assert self._tracker is not None  # _begin() made it
        with _errors("cannot track"):
            if not self._tracker.is_running:
                self._tracker = None
                self._robot.join_motion(timeout=0.0)
                raise MotionError("the arm's controller has ended by itself")
            self._tracker.set_target(joints, velocity)

    def _settle(self, goal: Vector) -> None:
        """Bring the setpoint to `goal` and hold it there until the arm rests."""
        deadline, track = time.monotonic() + SETTLE_TIMEOUT, Track()
        while True:
            off = float(np.linalg.norm(self._follower.pose[:3] - goal[:3]))
            # Holding stands still in every joint; following would go on towards the home posture.
            arrived = off < SETPOINT_ARRIVED_M or self._lag > WAITING_LAG
            self._tick([None if arrived else goal], track)
            reading = track.readings[-1]
            speed = float(np.abs(reading.velocities).max())
            off = float(np.linalg.norm(reading.pose[:3] - goal[:3]))
            if speed < STILL_RAD_S and off < ARRIVED_M:
                return
            if time.monotonic() > deadline:
                raise MotionError(
                    f"the arm does not come to rest at the viewpoint: {1e3 * off:.0f} mm off, "
                    f"joints at {speed:.3f} rad/s"
                )

    def _release(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        with _errors("cannot stop"):
            if self._robot.is_in_control:
                self._robot.move(franky.TorqueStopMotion(), asynchronous=True)
                self._robot.join_motion(timeout=3.0)


def _on_the_way(start: Vector, goal: Vector, share: float) -> Vector:
    """Pose (7,) at a share (0..1 and beyond) of the time of a soft straight move."""
    s = min(share, 1.0)
    return geometry.interpolate(start, goal, s * s * (3 - 2 * s))


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except FRANKY_ERRORS as error:
        raise MotionError(f"{what}: {error}") from error


@contextmanager
def _kept_scheduling() -> Iterator[None]:
    """Give the thread its scheduling back, which libfranka raises to the top real-time one."""
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
