"""What the arm does at each tick of the control loop: hold, track, home, recover.

One thread calls `tick`; any thread may offer chunks and ask for a procedure. No ROS here: the arm,
the hand and the clock are injected, so that every mode is tested without hardware.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from contracts.action import ActionChunk
from contracts.motion import PoseFollower
from roboalign.arm_driver import Arm, ArmError, ArmState
from roboalign.chunk_executor import ChunkExecutor, ChunkRefused, GripperHysteresis
from roboalign.gripper import Hand

PROCEDURE_TIMEOUT_S = 20.0
"""Longest that stopping, homing or recovering may take before it counts as failed."""
LAG_HOLD_RAD = 0.1
"""Joint error beyond which the setpoint waits for the arm; in free motion it is some hundredths."""
LAG_ERROR_RAD = 0.5
"""Joint error beyond which the arm is stopped: it is pushed away, or its controller swings. The
latter needs no fault of its own: libfranka's limit of 1 Nm a ms on the torque's change is enough,
once the error is large."""


class Mode(StrEnum):
    """As in roboalign_msgs/ArmStatus."""

    IDLE = "idle"
    TRACKING = "tracking"
    HOLDING = "holding"
    MOVING = "moving"
    ERROR = "error"


@dataclass(frozen=True)
class Report:
    """Result of one tick, taken at `stamp` [s]. `state` is None when the arm could not be read.

    first_use: the chunk whose first setpoint was sent in this tick, if there was one.
    """

    stamp: float
    mode: Mode
    reason: str
    state: ArmState | None
    queue_remaining: float
    limited_setpoints: int
    dropped_waypoints: int
    refused_chunks: int
    last_chunk_id: str
    first_use: str


class Procedure:
    """A motion that was asked for; `wait` tells the asker how it ended."""

    def __init__(self, steps: Callable[[], Iterator[None]]) -> None:
        self.steps = steps
        self.error = ""
        self._ended = threading.Event()

    def end(self, error: str = "") -> None:
        self.error = error
        self._ended.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`; `error` is empty if it ended well."""
        return self._ended.wait(timeout_s)


class ArmControl:
    """Owns the arm, the hand and the queue of waypoints."""

    def __init__(
        self,
        arm: Arm,
        hand: Hand | None,
        executor: ChunkExecutor,
        period: float,
        clock: Callable[[], float],
    ) -> None:
        """`period` [s] is that of `tick`; `clock` [s] is the one that chunks are stamped with."""
        self._arm = arm
        self._hand = hand
        self._executor = executor
        self._clock = clock
        self._lock = threading.Lock()
        self._period = period
        self._state = arm.read()
        self._follower = PoseFollower(self._state.joint_positions, period)
        self._stepped_at = -np.inf
        self._hysteresis = GripperHysteresis()
        self._mode = Mode.IDLE
        self._reason = "not started"
        self._refusal = ""
        self._refused_chunks = 0
        self._limited = 0
        self._last_chunk_id = ""
        self._wanted: Procedure | None = None
        self._running: tuple[Procedure, Iterator[None], float] | None = None

    # -- from any thread ---------------------------------------------------------------------

    def offer(self, chunk: ActionChunk) -> None:
        """Queue a chunk. Raises ChunkRefused; the reason is also in the next reports."""
        try:
            with self._lock:
                if self._mode not in (Mode.TRACKING, Mode.HOLDING):
                    raise ChunkRefused(f"chunk {chunk.chunk_id!r}: the arm is {self._mode}")
                self._executor.add(chunk, self._clock(), current_pose=self._follower.wanted)
                self._refusal = ""
        except ChunkRefused as refusal:
            self.refuse(str(refusal))
            raise

    def refuse(self, reason: str) -> None:
        """Count a chunk that could not even be read, and show why."""
        self._refused_chunks += 1
        self._refusal = reason

    def hold(self) -> None:
        """Drop what is queued; chunks observed before now are refused from here on."""
        with self._lock:
            self._executor.clear(observed_after=self._clock())

    def start(self) -> Procedure:
        """Take the arm under impedance control where it stands."""
        return self._ask(self._start_steps)

    def home(self) -> Procedure:
        """Drop the queue, open the hand, move to the home joints, then hold there."""
        return self._ask(self._home_steps)

    def recover(self) -> Procedure:
        """Clear a reflex or a lost connection, then hold where the arm is."""
        return self._ask(self._recover_steps)

    def stop(self) -> Procedure:
        """Ramp the torque down and let the arm's own controller hold."""
        return self._ask(self._stop_steps)

    # -- from the control thread -------------------------------------------------------------

    def tick(self) -> Report:
        """One period: read, decide, command."""
        now = self._clock()
        state, first_use = None, ""
        try:
            self._begin_wanted(now)
            if self._running is not None:
                self._continue(now)
            elif self._mode in (Mode.TRACKING, Mode.HOLDING):
                first_use = self._follow(now)
            state = self._state = self._arm.read()
            if state.error:
                self._fail(state.error)
        except ArmError as error:
            self._fail(str(error))
        with self._lock:
            remaining = self._executor.remaining(now)
        reason = self._reason if self._mode == Mode.ERROR else self._refusal or self._reason
        return Report(
            stamp=self._clock(),
            mode=self._mode,
            reason=reason,
            state=state,
            queue_remaining=remaining,
            limited_setpoints=self._limited,
            dropped_waypoints=self._executor.discarded,
            refused_chunks=self._refused_chunks,
            last_chunk_id=self._last_chunk_id,
            first_use=first_use,
        )

    def _follow(self, now: float) -> str:
        """Send the setpoint for `now`; return the chunk's id if it is that chunk's first."""
        # The arm's clock stands where its cycles do not come: the setpoint must not run ahead.
        if 0.0 <= self._state.time - self._stepped_at < 0.5 * self._period:
            return ""
        self._stepped_at = self._state.time
        lag = float(np.abs(self._follower.joints - self._state.joint_positions).max())
        if lag > LAG_ERROR_RAD:
            self._arm.begin_stop()
            raise ArmError(f"the arm does not follow: a joint is {lag:.2f} rad off its setpoint")
        with self._lock:
            target = self._executor.target(now)
            if target is None:
                self._mode, self._reason = Mode.HOLDING, "no waypoint to follow"
                setpoint = self._follower.hold()
            elif lag > LAG_HOLD_RAD:
                self._mode, self._reason = Mode.TRACKING, f"waits for the arm: {lag:.2f} rad behind"
                setpoint = replace(self._follower.hold(), limited=True)
            else:
                self._mode, self._reason = Mode.TRACKING, ""
                setpoint = self._follower.step(target.pose)
        self._arm.track(setpoint.joints, setpoint.velocity)
        if target is None:
            return ""
        self._limited += setpoint.limited
        if self._hand is not None:
            self._hand.command(self._hysteresis.update(target.gripper))
        if target.chunk_id == self._last_chunk_id:
            return ""
        self._last_chunk_id = target.chunk_id
        return target.chunk_id

    def _ask(self, steps: Callable[[], Iterator[None]]) -> Procedure:
        procedure = Procedure(steps)
        with self._lock:
            replaced, self._wanted = self._wanted, procedure
        if replaced is not None:
            replaced.end("replaced by a newer request")
        return procedure

    def _begin_wanted(self, now: float) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        if self._running is not None:
            self._running[0].end("replaced by a newer request")
        self._running = (wanted, wanted.steps(), now + PROCEDURE_TIMEOUT_S)

    def _continue(self, now: float) -> None:
        assert self._running is not None
        procedure, steps, deadline = self._running
        if now > deadline:
            self._fail("a motion did not end in time")
            return
        try:
            next(steps)
        except StopIteration:
            self._running = None
            procedure.end()

    def _fail(self, error: str) -> None:
        self._mode, self._reason = Mode.ERROR, error
        self.hold()
        if self._running is not None:
            self._running[0].end(error)
            self._running = None

    # -- procedures: each yields once a tick while it waits ------------------------------------

    def _start_steps(self) -> Iterator[None]:
        self._take_over()
        yield

    def _stop_steps(self) -> Iterator[None]:
        yield from self._come_to_rest()
        self._mode, self._reason = Mode.IDLE, "stopped"

    def _home_steps(self) -> Iterator[None]:
        if self._mode == Mode.ERROR:
            raise ArmError(f"recover first: {self._reason}")
        yield from self._come_to_rest()
        if self._hand is not None:
            self._hand.command(self._hysteresis.update(1.0))
        self._arm.begin_home()
        while self._arm.moving():
            yield
        self._take_over()

    def _recover_steps(self) -> Iterator[None]:
        # Before the first yield: a tick would find the error that this is to clear.
        self._arm.recover()
        self._take_over()
        yield

    def _come_to_rest(self) -> Iterator[None]:
        self._mode, self._reason = Mode.MOVING, "a requested motion"
        self.hold()
        self._arm.begin_stop()
        while self._arm.moving():
            yield

    def _take_over(self) -> None:
        """Hold where the arm stands, with an empty queue."""
        self._arm.start_tracking()
        self._state = self._arm.read()
        with self._lock:
            self._executor.clear(observed_after=self._clock())
            self._follower.reset(self._state.joint_positions)
        self._mode, self._reason, self._refusal = Mode.HOLDING, "no waypoint to follow", ""
