"""Which pose to command now, from the action chunks that have come so far.

Pure: no ROS, no wall clock. The arm node and the fast simulation use the same classes, so that the
same chunks move both alike. Every time is in seconds on one clock, the caller's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts import geometry
from contracts.action import ActionChunk
from contracts.calibration import Latencies
from contracts.geometry import Vector
from roboalign.execution_mode import ExecutionMode
from roboalign.temporal_ensemble import TemporalEnsemble

CLOCK_TOLERANCE_S = 0.1
"""Two threads read the clock in any order, and cameras stamp a little ahead; a larger disagreement
means that the clock jumped, and then no waypoint's time can be believed."""

SEAMLESS = (ExecutionMode.TEMPORAL_ENSEMBLING, ExecutionMode.REALTIME_CHUNKING)
"""Modes whose chunks join the one before so well that to begin at the pose last commanded, one
period of the control loop behind, would be the largest break in the motion."""
NO_LATENCIES = Latencies(camera=0.0, robot_observation=0.0, robot_action=0.0, gripper=0.0)


class ChunkRefused(ValueError):
    """A chunk that must not be executed; the text says why."""


@dataclass(frozen=True)
class Target:
    """What to command now: pose (7,) in the base frame, gripper opening 0..1, and whose it is."""

    pose: Vector
    gripper: float
    chunk_id: str


@dataclass(frozen=True)
class _Waypoint:
    due: float
    pose: Vector
    gripper: float
    chunk_id: str
    observed: float


class ChunkExecutor:
    """Stitches action chunks into one stream of targets.

    Not thread safe: the caller holds a lock around each call, or uses one thread.
    """

    def __init__(self, max_age_s: float = 2.5, latencies: Latencies = NO_LATENCIES) -> None:
        """
        max_age_s: how long after its observation a waypoint may still be executed.
        latencies: a waypoint is commanded `robot_action` before it is due, an opening `gripper`.
        """
        if not max_age_s > 0.0:
            raise ValueError(f"max_age_s must be positive, got {max_age_s}")
        self.max_age_s = max_age_s
        self.latencies = latencies
        self.discarded = 0
        """Waypoints that were never executed: late on arrival, replaced, or too old."""
        self._ensemble = TemporalEnsemble()
        self._queue: deque[_Waypoint] = deque()
        self._start: _Waypoint | None = None
        self._gripper: float | None = None
        self._clock = float("-inf")
        self._newest = 0.0
        self._end_reached = True

    def add(
        self,
        chunk: ActionChunk,
        now: float,
        *,
        current_pose: ArrayLike,
        mode: ExecutionMode = ExecutionMode.ASYNCHRONOUS,
    ) -> int:
        """Queue `chunk` from its first future waypoint on; return how many waypoints were past.

        `current_pose` (7,) is the pose last asked of the arm: the motion goes on from there, or, in
        a mode of SEAMLESS, from where the queue is now. What was queued before is kept up to the
        first new waypoint. A chunk whose every waypoint is past changes nothing. A SYNCHRONOUS
        chunk begins now, whenever it was observed.

        Raises:
            ChunkRefused: its observation is older than the one under execution, too old, or lies
                in the future.
        """
        pose = geometry.check_poses(current_pose, "current pose")
        self._advance(now)
        self._refuse_wrong_time(chunk, now)
        times = self._command_times(chunk, now, mode)
        poses, openings = self._wanted(chunk, now, mode)
        past = int((times <= now).sum())
        self.discarded += past
        if past == chunk.horizon:
            return past
        # A queued waypoint close before the first new one would turn a small disagreement between
        # the chunks into a fast move.
        begins = now if mode == ExecutionMode.SYNCHRONOUS else float(times[past])
        if self._queue and mode in SEAMLESS:
            pose = self._between(now, self._queue[0]).pose
        self._drop_queue(after=begins - 0.5 * chunk.time_step)
        if not self._queue:
            gripper = float(openings[past]) if self._gripper is None else self._gripper
            self._start = _Waypoint(now, pose, gripper, chunk.chunk_id, chunk.observation_stamp)
        self._queue.extend(
            _Waypoint(float(due), p, float(g), chunk.chunk_id, chunk.observation_stamp)
            for due, p, g in zip(times[past:], poses[past:], openings[past:], strict=True)
        )
        self._newest = chunk.observation_stamp
        self._end_reached = False
        return past

    def target(self, now: float) -> Target | None:
        """What to command at `now`; None says hold: the queue is empty or too old.

        The end of the queue is returned once, so that the last waypoint is reached at any rate.
        """
        self._advance(now)
        if not self._queue:
            return self._end(now)
        if now - self._queue[0].observed > self.max_age_s:
            self._drop_queue()
            return None
        return self._between(now, self._queue[0])

    def remaining(self, now: float) -> float:
        """Seconds of waypoints that are still to come at `now`."""
        return max(0.0, self._queue[-1].due - now) if self._queue else 0.0

    def clear(self, observed_after: float = 0.0) -> None:
        """Forget everything; from here on refuse chunks observed before `observed_after` [s]."""
        self._drop_queue()
        self._ensemble.clear()
        self._start = None
        self._gripper = None
        self._clock = float("-inf")
        self._newest = observed_after

    def _command_times(
        self, chunk: ActionChunk, now: float, mode: ExecutionMode
    ) -> NDArray[np.float64]:
        """When to command each waypoint (horizon,) [s]."""
        if mode == ExecutionMode.SYNCHRONOUS:
            return chunk.times - chunk.observation_stamp + now
        return chunk.times - self.latencies.robot_action

    def _wanted(
        self, chunk: ActionChunk, now: float, mode: ExecutionMode
    ) -> tuple[Vector, NDArray[np.float64]]:
        """Poses (horizon, 7) and openings (horizon,) to command at the command times."""
        if mode == ExecutionMode.TEMPORAL_ENSEMBLING:
            poses, openings = self._ensemble.blend(chunk, oldest=now - self.max_age_s)
        else:
            self._ensemble.clear()
            poses, openings = chunk.poses, chunk.gripper
        earlier = self.latencies.gripper - self.latencies.robot_action
        if earlier and mode != ExecutionMode.SYNCHRONOUS:
            openings = np.interp(chunk.times + earlier, chunk.times, openings)
        return poses, openings

    def _refuse_wrong_time(self, chunk: ActionChunk, now: float) -> None:
        age = now - chunk.observation_stamp
        what = f"chunk {chunk.chunk_id!r}"
        if age > self.max_age_s:
            raise ChunkRefused(
                f"{what}: its observation is {age:.2f} s old, limit {self.max_age_s} s"
            )
        if age < -CLOCK_TOLERANCE_S:
            raise ChunkRefused(f"{what}: its observation lies {-age:.2f} s in the future")
        if chunk.observation_stamp < self._newest:
            late = self._newest - chunk.observation_stamp
            raise ChunkRefused(f"{what}: its observation is {late:.2f} s older than the newest one")

    def _advance(self, now: float) -> None:
        """Make the last waypoint due by `now` the start of the current segment."""
        if now < self._clock - CLOCK_TOLERANCE_S:
            self.clear()
        self._clock = max(self._clock, now)
        while self._queue and self._queue[0].due <= now:
            self._start = self._queue.popleft()

    def _between(self, now: float, following: _Waypoint) -> Target:
        start = self._start or following
        span = following.due - start.due
        fraction = min(max((now - start.due) / span, 0.0), 1.0) if span > 0.0 else 1.0
        pose = geometry.interpolate(start.pose, following.pose, fraction)
        self._gripper = start.gripper + fraction * (following.gripper - start.gripper)
        return Target(pose, self._gripper, following.chunk_id)

    def _end(self, now: float) -> Target | None:
        if self._end_reached or self._start is None:
            return None
        self._end_reached = True
        if now - self._start.observed > self.max_age_s:
            return None
        self._gripper = self._start.gripper
        return Target(self._start.pose, self._gripper, self._start.chunk_id)

    def _drop_queue(self, after: float = float("-inf")) -> None:
        """Discard the queued waypoints due later than `after`."""
        while self._queue and self._queue[-1].due > after:
            self._queue.pop()
            self.discarded += 1
        if not self._queue:
            self._end_reached = True


class GripperHysteresis:
    """Turns wanted openings 0..1 into closed or open, without chatter around the middle."""

    def __init__(
        self, *, closed: bool = False, close_below: float = 0.4, open_above: float = 0.6
    ) -> None:
        if not 0.0 <= close_below < open_above <= 1.0:
            raise ValueError(
                f"close_below {close_below} must be below open_above {open_above}, in 0..1"
            )
        self.closed = closed
        self.close_below = close_below
        self.open_above = open_above

    def update(self, opening: float) -> bool:
        """Whether the hand shall be closed, now that `opening` is wanted."""
        if opening < self.close_below:
            self.closed = True
        elif opening > self.open_above:
            self.closed = False
        return self.closed
