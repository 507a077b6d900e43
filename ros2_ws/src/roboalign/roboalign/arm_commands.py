"""What the arm is asked to follow: chunks or the operator's poses, and whether it may. No ROS.

Any thread may call; one lock goes around all of it. The control loop asks for the `target` of each
tick.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from contracts import geometry
from contracts.action import ActionChunk
from contracts.geometry import Vector
from roboalign.chunk_executor import ChunkExecutor, ChunkRefused, Target
from roboalign.command_checks import ContactGuard, check_steps, jump
from roboalign.execution_mode import ExecutionMode
from roboalign.supervision import OPERATOR, Deadlines, Source, SourceRefused, Supervision

NOTHING_TO_FOLLOW = "no waypoint to follow"
REFUSAL_SHOWN_S = 1.0


class ArmCommands:
    """Commands of the one source that may command, held back while anything is wrong."""

    def __init__(
        self,
        executor: ChunkExecutor,
        clock: Callable[[], float],
        steady: Callable[[], float],
        deadlines: Deadlines | None = None,
    ) -> None:
        """`clock` [s] is the one that commands are stamped with; `steady` [s] never jumps."""
        self.arm_mode = "idle"
        """Why the arm takes no commands now; empty when it does. The control loop keeps it."""
        self.wanted: Vector | None = None
        """Pose (7,) last asked of the arm, which a new chunk goes on from; the loop's, too."""
        self.refused_chunks = 0
        self._refusal = ""
        self._refused_at = float("-inf")
        self._executor = executor
        self._clock = clock
        self._steady = steady
        self._lock = threading.Lock()
        self._supervision = Supervision(deadlines)
        self._contact = ContactGuard()
        self._operator: Target | None = None
        self._faulty = False

    # -- from whoever commands -----------------------------------------------------------------

    def offer(self, chunk: ActionChunk, mode: ExecutionMode = ExecutionMode.ASYNCHRONOUS) -> None:
        """Queue a chunk. Raises ChunkRefused; the reason stays in `refusal`."""
        try:
            with self._lock:
                self._check_may_command(Source.POLICY, f"chunk {chunk.chunk_id!r}")
                assert self.wanted is not None  # the loop sets it before it clears arm_mode
                now = self._clock()
                check_steps(chunk, self.wanted, now)
                self._executor.add(chunk, now, current_pose=self.wanted, mode=mode)
                self._supervision.engage()
        except ChunkRefused as refusal:
            self.refuse(str(refusal))
            raise

    def refuse(self, reason: str) -> None:
        """Count a command that could not even be read, and show why."""
        self.refused_chunks += 1
        self._refusal, self._refused_at = reason, self._steady()

    @property
    def refusal(self) -> str:
        """Why a command was refused just now; long enough for a person, or a status, to see it."""
        return self._refusal if self._steady() - self._refused_at < REFUSAL_SHOWN_S else ""

    def teleoperate(self, pose: ArrayLike, gripper: float, engaged: bool, stamp: float) -> None:
        """Follow the operator's wanted pose (7,) while the deadman is held (`engaged`).

        `stamp` [s] is when the device was read. Raises ChunkRefused: somebody else commands the
        arm, or this is no pose.
        """
        with self._lock:
            self._check_may_command(Source.TELEOP, "a command of the operator")
            self._operator = None
            self._supervision.beat(OPERATOR, self._steady() - max(0.0, self._clock() - stamp))
            if not engaged:
                return
            try:
                checked = geometry.check_poses(pose, "teleoperation")
            except ValueError as error:
                raise ChunkRefused(str(error)) from error
            if not np.isfinite(gripper):
                raise ChunkRefused("teleoperation: the gripper's opening is not finite")
            self._operator = Target(checked, float(np.clip(gripper, 0.0, 1.0)), "")

    def select(self, source: str) -> None:
        """Hand the arm to `source`; whoever commanded is stopped. Raises SourceRefused."""
        with self._lock:
            self._supervision.select(source)
            self._drop()

    def hold(self) -> None:
        """Drop what is queued; chunks observed before now are refused from here on."""
        with self._lock:
            self._supervision.disengage()
            self._drop()

    def beat(self, part: str, age: float = 0.0) -> None:
        """`part`, by supervision's names, showed `age` [s] ago that it lives."""
        with self._lock:
            self._supervision.beat(part, self._steady() - max(0.0, age))

    def complain(self, part: str, reason: str) -> None:
        """`part` says why it cannot go on; an empty `reason` takes it back."""
        with self._lock:
            self._supervision.complain(part, reason)

    def emergency_stop(self, reason: str) -> None:
        """Stop at the next tick, and refuse every motion until `reset_emergency_stop`."""
        with self._lock:
            self._supervision.press(reason)

    def reset_emergency_stop(self) -> None:
        """Allow motions again; none begins before the arm was asked to recover or to go home."""
        with self._lock:
            self._supervision.reset()

    # -- from the control loop -----------------------------------------------------------------

    @property
    def source(self) -> Source:
        """Who may command."""
        return self._supervision.source

    @property
    def emergency(self) -> str:
        """Why the emergency stop was pressed; empty if it is not."""
        return self._supervision.emergency

    @property
    def discarded(self) -> int:
        """Waypoints that were never followed."""
        return self._executor.discarded

    def remaining(self, now: float) -> float:
        """Seconds of waypoints that are still to come at `now` [s]."""
        with self._lock:
            return self._executor.remaining(now)

    def stop_is_due(self) -> bool:
        """Whether a fault has lasted so long that holding turns into stopping."""
        with self._lock:
            return self._supervision.stop_is_due(self._steady())

    def target(self, now: float, commanded: Vector, wrench: Vector) -> tuple[Target | None, str]:
        """What to follow at `now` [s], or None and why nothing.

        `commanded` (7,) is where the arm is told to be; `wrench` (6,) [N, Nm] pushes against it.
        """
        with self._lock:
            fault = self._supervision.fault(self._steady()) or self._contact.check(wrench)
            if fault and not self._faulty:
                self._drop()
            self._faulty = bool(fault)
            if fault:
                return None, fault
            if self.source != Source.TELEOP:
                target = self._executor.target(now)
                return target, "" if target is not None else NOTHING_TO_FOLLOW
            if self._operator is None:
                return None, "the deadman is not held"
            if far := jump(self._operator.pose, commanded):
                return None, f"the operator's pose is {far} from the commanded one"
            return self._operator, ""

    def _check_may_command(self, source: Source, what: str) -> None:
        if self.arm_mode:
            raise ChunkRefused(f"{what}: the arm is {self.arm_mode}")
        try:
            self._supervision.check(source)
        except SourceRefused as refusal:
            raise ChunkRefused(f"{what}: {refusal}") from refusal
        fault = self._supervision.fault(self._steady()) if source == Source.POLICY else ""
        if self._faulty and fault:
            raise ChunkRefused(f"{what}: {fault}")

    def _drop(self) -> None:
        self._executor.clear(observed_after=self._clock())
        self._operator = None
