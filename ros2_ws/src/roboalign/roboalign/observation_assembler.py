"""One observation out of streams that arrive apart: frames of each camera, pose, joints, gripper.

Pure: no ROS, no wall clock. Every time is in seconds on one clock, the caller's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from contracts import geometry
from contracts.geometry import Vector
from contracts.observation import CameraFrame, Observation, RobotState

T = TypeVar("T")

FRAMES_KEPT = 8
STATES_KEPT = 256


@dataclass(frozen=True)
class AssemblyLimits:
    """How old [s] an input may be, and how far apart [s] two cameras' frames may lie."""

    frame_age: float = 0.5
    state_age: float = 0.3
    camera_skew: float = 0.1


@dataclass(frozen=True)
class NotReady:
    """Why there is no observation now, for a person; names the input and its age."""

    reason: str


class _History(Generic[T]):
    """The newest values by time; a value that is not newer than the last one is ignored."""

    def __init__(self, length: int) -> None:
        self._entries: deque[tuple[float, T]] = deque(maxlen=length)

    def add(self, stamp: float, value: T) -> None:
        if not self._entries or stamp > self._entries[-1][0]:
            self._entries.append((stamp, value))

    @property
    def newest(self) -> float | None:
        return self._entries[-1][0] if self._entries else None

    def nearest(self, stamp: float) -> T:
        return min(self._entries, key=lambda entry: abs(entry[0] - stamp))[1]

    def around(self, stamp: float) -> tuple[T, T, float]:
        """The values before and after `stamp`, and how far it lies between them (0..1).

        Outside the history both are the value at its end: nothing is extrapolated.
        """
        before = self._entries[0]
        for after in self._entries:
            if after[0] >= stamp:
                span = after[0] - before[0]
                fraction = (stamp - before[0]) / span if span > 0.0 else 1.0
                return before[1], after[1], min(max(fraction, 0.0), 1.0)
            before = after
        return before[1], before[1], 1.0


class ObservationAssembler:
    """Keeps short histories and aligns them in time.

    Not thread safe: the caller holds a lock around each call, or uses one thread.
    """

    def __init__(self, cameras: Sequence[str], limits: AssemblyLimits | None = None) -> None:
        if not cameras:
            raise ValueError("an observation needs at least one camera")
        self.limits = limits or AssemblyLimits()
        self._frames: dict[str, _History[CameraFrame]] = {c: _History(FRAMES_KEPT) for c in cameras}
        self._poses: _History[Vector] = _History(STATES_KEPT)
        self._joints: _History[Vector] = _History(STATES_KEPT)
        self._gripper: _History[float] = _History(STATES_KEPT)

    def add_frame(self, camera: str, frame: CameraFrame) -> None:
        """Raises KeyError for a camera that was not announced."""
        self._frames[camera].add(frame.stamp, frame)

    def add_pose(self, stamp: float, pose: Vector) -> None:
        """`pose` (7,) in the base frame. Raises ValueError if it is not one."""
        self._poses.add(stamp, geometry.check_poses(pose, "measured pose"))

    def add_joints(
        self, stamp: float, positions: Sequence[float], velocities: Sequence[float]
    ) -> None:
        """Joint positions [rad] and velocities [rad/s], (7,) each. Raises ValueError if not."""
        joints = np.array([positions, velocities], dtype=np.float64)
        if joints.shape != (2, 7) or not np.isfinite(joints).all():
            raise ValueError(f"joint states: expected twice 7 finite values, got {joints.tolist()}")
        self._joints.add(stamp, joints)

    def add_gripper(self, stamp: float, opening: float) -> None:
        """`opening` 0 closed .. 1 open, clipped. Raises ValueError if it is not finite."""
        if not math.isfinite(opening):
            raise ValueError(f"gripper: opening {opening} is not finite")
        self._gripper.add(stamp, min(max(opening, 0.0), 1.0))

    def assemble(self, now: float, instruction: str) -> Observation | NotReady:
        """The newest moment that every input covers, or why there is none.

        The camera that lags most sets the time, the others give their nearest frame, and the
        robot's state is interpolated at that time.
        """
        problem = self._missing_frame(now) or self._missing_state(now)
        if problem:
            return NotReady(problem)
        stamp = min(h.newest for h in self._frames.values() if h.newest is not None)
        frames = {name: history.nearest(stamp) for name, history in self._frames.items()}
        for name, frame in frames.items():
            skew = abs(frame.stamp - stamp)
            if skew > self.limits.camera_skew:
                return NotReady(f"camera {name}: its nearest frame is {skew:.3f} s off the others")
        return Observation(instruction, frames, self._state_at(stamp), stamp)

    def _missing_frame(self, now: float) -> str:
        for name, history in self._frames.items():
            if history.newest is None:
                return f"camera {name}: no frame yet"
            if now - history.newest > self.limits.frame_age:
                return f"camera {name}: its newest frame is {now - history.newest:.2f} s old"
        return ""

    def _missing_state(self, now: float) -> str:
        inputs: dict[str, _History[Any]] = {
            "pose": self._poses,
            "joint states": self._joints,
            "gripper": self._gripper,
        }
        for name, history in inputs.items():
            if history.newest is None:
                return f"arm: no {name} yet"
            if now - history.newest > self.limits.state_age:
                return f"arm: its newest {name} is {now - history.newest:.2f} s old"
        return ""

    def _state_at(self, stamp: float) -> RobotState:
        joints_before, joints_after, part = self._joints.around(stamp)
        joints = joints_before + part * (joints_after - joints_before)
        open_before, open_after, part = self._gripper.around(stamp)
        opening = open_before + part * (open_after - open_before)
        pose = geometry.interpolate(*self._poses.around(stamp))
        return RobotState(pose, joints[0], joints[1], opening, stamp)
