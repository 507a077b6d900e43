"""What a task's goal means, and when the task is over. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.observation import MAX_INSTRUCTION_LENGTH
from contracts.task import check_object, get_task

GRASP_FAULTS = {
    "missed": "the fingers closed on nothing",
    "lost": "the object slipped out of the fingers",
    "stuck": "the fingers do not move",
}


@dataclass(frozen=True)
class TaskLimits:
    """How long [s] each part may be silent before the task ends."""

    policy_silence: float = 5.0
    camera_silence: float = 1.5
    arm_silence: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """`reason` is one of ExecuteTask's constants; `message` one sentence for a person."""

    reason: str
    message: str


def resolve_instruction(task: str, obj: str, instruction: str, timeout_s: float) -> str:
    """The text for the policy.

    Raises:
        ValueError: unknown task or object, neither task nor text, a timeout that is not positive.
    """
    if not math.isfinite(timeout_s) or timeout_s <= 0.0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s}")
    text = instruction.strip()
    if len(text) > MAX_INSTRUCTION_LENGTH:
        raise ValueError(f"the instruction is longer than {MAX_INSTRUCTION_LENGTH} characters")
    if obj:
        check_object(obj)
    if task:
        known = get_task(task)
        return text or known.instruction(obj)
    if not text:
        raise ValueError("the goal names neither a task nor an instruction")
    return text


class TaskWatch:
    """Follows one task; every time is in seconds on one clock, the caller's.

    Not thread safe by itself: each note is one assignment, which Python makes atomic.
    """

    def __init__(
        self,
        started: float,
        timeout_s: float,
        cameras: Sequence[str],
        limits: TaskLimits | None = None,
    ) -> None:
        self.started = started
        self.timeout_s = timeout_s
        self.limits = limits or TaskLimits()
        self.chunks = 0
        self.policy_reason = ""
        self._observed = started
        self._chunk_used = started
        self._arm_seen = started
        self._arm_error = ""
        self._arm_mode = self._arm_reason = ""
        self._grasp_fault = ""
        self._cameras = dict.fromkeys(cameras, started)

    def note_chunk(self, now: float, observed: float) -> None:
        """The arm began to follow a chunk that answers an observation of time `observed`."""
        self.chunks += 1
        self._chunk_used, self._observed = now, observed

    def note_arm(self, now: float, mode: str, reason: str) -> None:
        self._arm_seen = now
        self._arm_mode, self._arm_reason = mode, reason
        self._arm_error = (reason or "the arm reports an error") if mode == "error" else ""
        if mode == "idle":
            self._arm_error = f"the arm does not take commands: {reason}"

    def note_gripper(self, fault: str) -> None:
        """The hand's own finding, as in roboalign_msgs/GripperState; empty if all is well."""
        self._grasp_fault = fault

    def note_camera(self, camera: str, now: float) -> None:
        self._cameras[camera] = now

    def chunk_age(self, now: float) -> float:
        """Seconds since the observation behind the newest chunk, or since the start."""
        return max(0.0, now - self._observed)

    def state(self) -> str:
        if self._grasp_fault:
            return GRASP_FAULTS.get(self._grasp_fault, self._grasp_fault)
        if self._arm_mode == "holding" and self.chunks and self._arm_reason:
            return f"holding: {self._arm_reason}"
        if self.chunks == 0:
            return self.policy_reason or "waiting for the first action chunk"
        return self.policy_reason or "following the policy"

    def outcome(self, now: float) -> Outcome | None:
        """Why the task is over at `now`; None while it goes on."""
        if self._arm_error:
            return Outcome("arm_error", self._arm_error)
        if now - self._arm_seen > self.limits.arm_silence:
            return Outcome("arm_error", f"no word from the arm for {now - self._arm_seen:.1f} s")
        for camera, seen in self._cameras.items():
            if now - seen > self.limits.camera_silence:
                return Outcome("camera_lost", f"no frame of camera {camera} for {now - seen:.1f} s")
        if now - self._chunk_used > self.limits.policy_silence:
            silence = f"no action chunk for {now - self._chunk_used:.1f} s"
            return Outcome("policy_lost", f"{silence}: {self.policy_reason or 'no reason given'}")
        if now - self.started > self.timeout_s:
            return Outcome("timeout", f"{self.timeout_s:g} s are over")
        return None
