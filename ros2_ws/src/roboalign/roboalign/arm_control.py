"""What the arm does at each tick of the control loop: hold, track, home, recover, stop.

One thread calls `tick`; any thread may give `commands` and ask for a procedure. No ROS here: the
arm, the hand and the clocks are injected, so that every mode is tested without hardware.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from roboalign.arm_commands import NOTHING_TO_FOLLOW, ArmCommands
from roboalign.arm_driver import USER_STOP, Arm, ArmError, ArmState
from roboalign.arm_report import Mode, Procedure, Report
from roboalign.arm_setpoints import LAG_HOLD_RAD, SetpointStream
from roboalign.chunk_executor import ChunkExecutor, GripperHysteresis
from roboalign.gripper import Hand
from roboalign.recovery import Recovery, Stage, Step, Timeouts, View
from roboalign.supervision import Deadlines

HOME_DYNAMICS = 0.2
"""Share of the speed limits that homing uses, about; where somebody may stand beside the arm."""
REST_RAD_S = 0.02
"""Measured joint velocity below which the arm counts as standing still."""


class ArmControl:
    """Owns the arm, the hand and the commands that wait to be followed."""

    def __init__(
        self,
        arm: Arm,
        hand: Hand | None,
        executor: ChunkExecutor,
        period: float,
        clock: Callable[[], float],
        *,
        steady: Callable[[], float] = time.monotonic,
        deadlines: Deadlines | None = None,
        home_dynamics: float = HOME_DYNAMICS,
    ) -> None:
        """`period` [s] is that of `tick`; `clock` [s] is the one that commands are stamped with.

        `steady` [s] never jumps: deadlines run on it. Raises ArmError: the arm cannot be read.
        """
        if not 0.0 < home_dynamics <= 1.0:
            raise ValueError(f"home_dynamics must be in 0..1, got {home_dynamics}")
        self.commands = ArmCommands(executor, clock, steady, deadlines)
        """For whoever commands; any thread."""
        self._arm = arm
        self._hand = hand
        self._clock = clock
        self._steady = steady
        self._home_dynamics = home_dynamics
        self._lock = threading.Lock()
        self._stream = SetpointStream(arm, period)
        self._hysteresis = GripperHysteresis()
        self._mode = Mode.IDLE
        self._reason = "not started"
        self._limited = 0
        self._last_chunk_id = ""
        self._following = ""
        self._state: ArmState | None = self._stream.state
        self._unread = False
        self._recovery: Recovery | None = None
        self._wanted: Procedure | None = None
        self._running: tuple[Procedure, Iterator[None], float] | None = None

    # -- procedures, from any thread -----------------------------------------------------------

    def start(self) -> Procedure:
        """Take the arm under impedance control where it stands."""
        return self._ask(Procedure(self._start_steps))

    def home(self) -> Procedure:
        """Drop the queue, open the hand, move to the home joints, then hold there."""
        return self._ask(Procedure(self._home_steps))

    def recover(self) -> Procedure:
        """Clear a reflex or a lost connection, then hold where the arm is."""
        return self._ask(Procedure(self._recover_steps, Timeouts().total + 1.0, clears_errors=True))

    def stop(self) -> Procedure:
        """Ramp the torque down and let the arm's own controller hold."""
        return self._ask(Procedure(self._stop_steps, stops=True))

    # -- from the control thread ---------------------------------------------------------------

    def tick(self) -> Report:
        """One period: read, decide, command."""
        now, stream = self._clock(), self._stream
        stream.begin_tick()
        self._following, first_use = "", ""
        try:
            if self.commands.emergency and self._mode != Mode.ERROR:
                self._stop_for_emergency()
            self._begin_wanted()
            if self._running is not None:
                self._continue()
            elif self._mode in (Mode.TRACKING, Mode.HOLDING):
                first_use = self._follow(now)
            self._read()
        except ArmError as error:
            self._state = None
            self._fail(str(error))
        self._admit_commands()
        self._limited += bool(stream.limited_by) or (
            stream.sent is not None and stream.sent.limited
        )
        follows = self._mode in (Mode.TRACKING, Mode.HOLDING)
        shown = (self.commands.refusal if follows else "") or self._reason
        recovery = self._recovery
        return Report(
            stamp=self._clock(),
            mode=self._mode,
            reason=shown,
            state=self._state,
            queue_remaining=self.commands.remaining(now),
            limited_setpoints=self._limited,
            dropped_waypoints=self.commands.discarded,
            refused_chunks=self.commands.refused_chunks,
            last_chunk_id=self._last_chunk_id,
            first_use=first_use,
            commander=str(self.commands.source),
            recovery=str(recovery.stage) if recovery is not None else "",
            emergency=bool(self.commands.emergency),
            setpoint=stream.sent,
            source=self._following,
            limited_by=stream.limited_by,
            filter_us=stream.filter_us,
        )

    def _admit_commands(self) -> None:
        """Let commands in where they can be followed, and say from where they go on."""
        self.commands.wanted = self._stream.follower.wanted
        ready = self._mode in (Mode.TRACKING, Mode.HOLDING)
        self.commands.arm_mode = "" if ready else str(self._mode)

    def _read(self) -> None:
        recovering = self._running is not None and self._running[0].clears_errors
        self._unread = recovering and self._arm.busy
        self._state = None
        if self._unread:
            return  # another thread talks to the arm, and may for long
        try:
            self._state = self._stream.read()
        except ArmError:
            if not recovering:
                raise
            return
        if self._state.error and not recovering:
            self._fail(self._state.error)

    def _follow(self, now: float) -> str:
        """Send the setpoint for `now`; return the chunk's id if it is that chunk's first."""
        stream = self._stream
        if not stream.due():
            return ""
        stream.check_lag()
        commanded, wrench = stream.follower.pose, stream.state.wrench
        target, why_not = self.commands.target(now, commanded, wrench)
        if target is None:
            self._mode, self._reason = Mode.HOLDING, why_not
            stream.hold()
            if self.commands.stop_is_due():
                self._ask(Procedure(lambda: self._stop_steps(f"stopped: {why_not}"), stops=True))
            return ""
        if stream.lag > LAG_HOLD_RAD:
            self._mode, self._reason = (
                Mode.TRACKING,
                f"waits for the arm: {stream.lag:.2f} rad behind",
            )
            stream.hold("lag")
        else:
            self._mode, self._reason = Mode.TRACKING, ""
            stream.send(stream.follower.step(target.pose))
        self._following = str(self.commands.source)
        if self._hand is not None:
            self._hand.command(self._hysteresis.update(target.gripper))
        if not target.chunk_id or target.chunk_id == self._last_chunk_id:
            return ""
        self._last_chunk_id = target.chunk_id
        return target.chunk_id

    def _ask(self, procedure: Procedure) -> Procedure:
        with self._lock:
            replaced, self._wanted = self._wanted, procedure
        if replaced is not None:
            replaced.end("replaced by a newer request")
        return procedure

    def _begin_wanted(self) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        if self.commands.emergency and not wanted.stops:
            wanted.end(f"emergency stop: {self.commands.emergency}: reset it first")
            return
        if self._running is not None:
            self._running[0].end("replaced by a newer request")
        self._recovery = None
        self._running = (wanted, wanted.steps(), self._steady() + wanted.timeout_s)

    def _continue(self) -> None:
        assert self._running is not None
        procedure, steps, deadline = self._running
        if self._steady() > deadline:
            self._fail("a motion did not end in time")
            return
        try:
            next(steps)
        except StopIteration:
            self._running = None
            procedure.end()

    def _fail(self, error: str) -> None:
        self._mode, self._reason = Mode.ERROR, error
        self._stream.tracking = False
        self.commands.hold()
        if self._running is not None:
            self._running[0].end(error)
            self._running = None

    def _stop_for_emergency(self) -> None:
        if self._mode != Mode.IDLE:
            self._arm.begin_stop()
        self._fail(f"emergency stop: {self.commands.emergency}")

    # -- procedures: each yields once a tick while it waits ------------------------------------

    def _start_steps(self) -> Iterator[None]:
        self._take_over()
        yield

    def _stop_steps(self, reason: str = "stopped") -> Iterator[None]:
        self._mode, self._reason = Mode.MOVING, "comes to rest"
        self.commands.hold()
        self._stream.tracking = False
        self._arm.begin_stop()
        while self._arm.moving():
            yield
        self._mode, self._reason = Mode.IDLE, reason

    def _home_steps(self) -> Iterator[None]:
        if self._mode == Mode.ERROR:
            raise ArmError(f"recover first: {self._reason}")
        self._mode, self._reason = Mode.MOVING, "goes home"
        self.commands.hold()
        if self._stream.tracking:
            yield from self._stream.come_to_rest()
        else:
            self._stream.take_over()
        if self._hand is not None:
            self._hand.command(self._hysteresis.update(1.0))
        for _ in self._stream.go_home(self._home_dynamics):
            self._following = "home"
            yield
        self._stand_by()

    def _recover_steps(self) -> Iterator[None]:
        self._mode, self._reason = Mode.MOVING, "recovers"
        recovery = self._recovery = Recovery(self._steady())
        self._stream.tracking = False
        problem = ""
        while not recovery.over:
            step = recovery.advance(self._steady(), self._view(problem))
            if step != Step.NONE:
                problem = ""
            if step == Step.CONNECT:
                self._arm.begin_connect()
            elif step == Step.CLEAR:
                self._arm.begin_clear()
            elif step == Step.TAKE_OVER:
                try:
                    self._stream.take_over()
                except ArmError as error:
                    problem = str(error)
            yield
        if recovery.stage == Stage.FAILED:
            raise ArmError(f"recovery failed: {recovery.reason}")
        self._stand_by()

    def _view(self, problem: str) -> View:
        """What the last tick has seen of the arm."""
        state, arm = self._state, self._arm
        return View(
            connected=arm.connected and (state is not None or self._unread),
            busy=arm.busy or self._unread,
            problem=problem or arm.problem,
            error=state.error if state is not None else "",
            user_stopped=state is not None and state.error == USER_STOP,
            at_rest=state is not None and float(np.abs(state.joint_velocities).max()) < REST_RAD_S,
        )

    def _take_over(self) -> None:
        """Hold where the arm stands."""
        self._stream.take_over()
        self._stand_by()

    def _stand_by(self) -> None:
        """Ready for commands, with an empty queue."""
        self.commands.hold()
        self._recovery = None
        self._mode, self._reason = Mode.HOLDING, NOTHING_TO_FOLLOW
