"""One observation out of streams that arrive apart: frames of each camera, pose, joints, gripper.

Pure: no ROS, no wall clock. Every time is in seconds on one clock, the caller's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from zlib import crc32

import numpy as np

from contracts import geometry
from contracts.geometry import Vector
from contracts.observation import CameraFrame, Observation, RobotState

T = TypeVar("T")

FRAMES_KEPT = 8
STATES_KEPT = 256
FROZEN_FRAMES = 3
"""Equal pictures in a row that tell of more than one that was sent twice."""


@dataclass(frozen=True)
class AssemblyLimits:
    """How old [s] an input may be, and how far apart [s] two cameras' frames may lie.

    frozen_motion: distance [m] that the arm may move while a camera shows the very same picture.
    """

    frame_age: float = 0.5
    state_age: float = 0.3
    camera_skew: float = 0.1
    frozen_motion: float = 0.01


@dataclass(frozen=True)
class NotReady:
    """Why there is no observation now, for a person; names the input and its age.

    input: `camera NAME` or `arm`.
    """

    input: str
    problem: str

    @property
    def reason(self) -> str:
        return f"{self.input}: {self.problem}"


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


class _Standstill:
    """Since when, and for how many frames, a camera has shown the very same picture."""

    def __init__(self) -> None:
        self._digest = -1
        self.since = 0.0
        self.frames = 0

    def update(self, frame: CameraFrame) -> None:
        digest = crc32(np.ascontiguousarray(frame.image).data)
        if digest != self._digest:
            self._digest, self.since, self.frames = digest, frame.stamp, 0
        self.frames += 1


class ObservationAssembler:
    """Keeps short histories and aligns them in time.

    Not thread safe: the caller holds a lock around each call, or uses one thread.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        limits: AssemblyLimits | None = None,
    ) -> None:
        if not cameras:
            raise ValueError("an observation needs at least one camera")
        self.limits = limits or AssemblyLimits()
        self.state_latency = 0.0
        """A state shows what was that long [s] before its stamp. Frames come with the moment that
        they show: the camera node takes the camera's latency off."""
        self._standstill = {camera: _Standstill() for camera in cameras}
        self._frames: dict[str, _History[CameraFrame]] = {c: _History(FRAMES_KEPT) for c in cameras}
        self._poses: _History[Vector] = _History(STATES_KEPT)
        self._joints: _History[Vector] = _History(STATES_KEPT)
        self._gripper: _History[float] = _History(STATES_KEPT)

    def add_frame(self, camera: str, frame: CameraFrame) -> None:
        """Raises KeyError for a camera that was not announced."""
        self._frames[camera].add(frame.stamp, frame)
        self._standstill[camera].update(frame)

    def add_pose(self, stamp: float, pose: Vector) -> None:
        """`pose` (7,) in the base frame. Raises ValueError if it is not one."""
        self._poses.add(stamp - self.state_latency, geometry.check_poses(pose, "measured pose"))

    def add_joints(
        self, stamp: float, positions: Sequence[float], velocities: Sequence[float]
    ) -> None:
        """Joint positions [rad] and velocities [rad/s], (7,) each. Raises ValueError if not."""
        joints = np.array([positions, velocities], dtype=np.float64)
        if joints.shape != (2, 7) or not np.isfinite(joints).all():
            raise ValueError(f"joint states: expected twice 7 finite values, got {joints.tolist()}")
        self._joints.add(stamp - self.state_latency, joints)

    def add_gripper(self, stamp: float, opening: float) -> None:
        """`opening` 0 closed .. 1 open, clipped. Raises ValueError if it is not finite."""
        if not math.isfinite(opening):
            raise ValueError(f"gripper: opening {opening} is not finite")
        self._gripper.add(stamp - self.state_latency, min(max(opening, 0.0), 1.0))

    def assemble(self, now: float, instruction: str) -> Observation | NotReady:
        """The newest moment that every input covers, or why there is none.

        The camera that lags most sets the time, the others give their nearest frame, and the
        robot's state is interpolated at that time.
        """
        missing = self._missing_frame(now) or self._missing_state(now) or self._frozen()
        if missing is not None:
            return missing
        stamp = min(h.newest for h in self._frames.values() if h.newest is not None)
        frames = {name: history.nearest(stamp) for name, history in self._frames.items()}
        for name, frame in frames.items():
            skew = abs(frame.stamp - stamp)
            if skew > self.limits.camera_skew:
                what = f"its nearest frame is {skew:.3f} s off the others"
                return NotReady(f"camera {name}", what)
        return Observation(instruction, frames, self._state_at(stamp), stamp)

    def _missing_frame(self, now: float) -> NotReady | None:
        for name, history in self._frames.items():
            if history.newest is None:
                return NotReady(f"camera {name}", "no frame yet")
            if now - history.newest > self.limits.frame_age:
                age = now - history.newest
                return NotReady(f"camera {name}", f"its newest frame is {age:.2f} s old")
        return None

    def _missing_state(self, now: float) -> NotReady | None:
        inputs: dict[str, _History[Any]] = {
            "pose": self._poses,
            "joint states": self._joints,
            "gripper": self._gripper,
        }
        for name, history in inputs.items():
            if history.newest is None:
                return NotReady("arm", f"no {name} yet")
            age = now - history.newest
            if age > self.limits.state_age + self.state_latency:
                return NotReady("arm", f"its newest {name} is {age:.2f} s old")
        return None

    def _frozen(self) -> NotReady | None:
        """Both cameras see the arm or move with it: a picture that stays is no picture of now."""
        for name, history in self._frames.items():
            newest, still = history.newest, self._standstill[name]
            if newest is None or still.frames <= FROZEN_FRAMES:
                continue
            since = still.since
            moved = self._poses.nearest(newest)[:3] - self._poses.nearest(since)[:3]
            if math.sqrt(float(moved @ moved)) > self.limits.frozen_motion:
                what = f"the same picture for {newest - since:.2f} s while the arm moves"
                return NotReady(f"camera {name}", what)
        return None

    def _state_at(self, stamp: float) -> RobotState:
        joints_before, joints_after, part = self._joints.around(stamp)
        joints = joints_before + part * (joints_after - joints_before)
        open_before, open_after, part = self._gripper.around(stamp)
        opening = open_before + part * (open_after - open_before)
        pose = geometry.interpolate(*self._poses.around(stamp))
        return RobotState(pose, joints[0], joints[1], opening, stamp)
