"""What is no motion to follow, whatever the limits: a far jump, or a push against something."""

from __future__ import annotations

import numpy as np

from contracts import kinematics
from contracts.action import ActionChunk
from contracts.geometry import Vector
from contracts.robot import FR3, RobotSpec
from roboalign.chunk_executor import ChunkRefused

MAX_STEP_M, MAX_STEP_RAD = 0.15, 0.8
"""Distances between waypoints, or of a wanted pose from the commanded one, beyond which something
above has jumped."""
CONTACT_FORCE_N, CONTACT_ENDS_N = 25.0, 15.0
"""External force beyond which the arm holds, and below which it goes on. The arm's own reflex comes
at 40 N."""


def check_steps(chunk: ActionChunk, start: Vector, now: float, spec: RobotSpec = FR3) -> None:
    """Raises ChunkRefused: waypoints that are still to come after `now` [s] are no motion.

    The first of them may be as far from `start` (7,), where the arm is told to be, as the arm could
    have come since the observation; the others only a step from the one before.
    """
    before = start
    since = np.maximum(chunk.times - chunk.observation_stamp, 0.0)
    for pose, seconds in zip(chunk.poses[chunk.times > now], since[chunk.times > now], strict=True):
        ahead = float(seconds) if before is start else 0.0
        metres = MAX_STEP_M + ahead * spec.linear_speed
        radians = MAX_STEP_RAD + ahead * spec.angular_speed
        if far := jump(pose, before, metres, radians):
            raise ChunkRefused(f"chunk {chunk.chunk_id!r}: a waypoint jumps by {far}")
        before = pose


def jump(
    pose: Vector, before: Vector, metres: float = MAX_STEP_M, radians: float = MAX_STEP_RAD
) -> str:
    """The distance between two poses (7,), in words, if it is larger than allowed."""
    error = kinematics.pose_error(pose, before)
    way, turn = float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))
    return f"{way:.2f} m and {turn:.1f} rad" if way > metres or turn > radians else ""


class ContactGuard:
    """Says if something pushes against the arm, with hysteresis."""

    def __init__(self) -> None:
        self._touched = False

    def check(self, wrench: Vector) -> str:
        """Why to hold, from the external wrench (6,) [N, Nm]; empty if nothing pushes."""
        force = float(np.linalg.norm(wrench[:3]))
        self._touched = force > (CONTACT_ENDS_N if self._touched else CONTACT_FORCE_N)
        return f"contact: {force:.0f} N" if self._touched else ""
