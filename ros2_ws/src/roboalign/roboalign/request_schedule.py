"""When the policy is asked again, and what it is told of the chunk under execution. Pure.

Every time is in seconds on the observations' clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from contracts.action import ActionChunk
from roboalign.chunk_join import join
from roboalign.execution_mode import ExecutionMode
from roboalign.latency_estimate import LatencyEstimate

TRANSPORT_S = 0.02
"""From the answer to the arm's first setpoint of it: a topic and a period of the control loop."""
TAKE_OVER_S = 0.4
"""From a chunk's departure until the arm says that it follows it: the way there, a waypoint of the
chunk before that is still under way, and the period of the arm's status."""
SENT_KEPT = 8


@dataclass(frozen=True)
class ChunkTiming:
    """Of the bundle that is served: `horizon` waypoints a chunk, one each `time_step` [s], of which
    `execute_steps` are meant to be executed. continues: it can go on from a chunk (real-time
    chunking).
    """

    horizon: int
    execute_steps: int
    time_step: float
    continues: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.execute_steps <= self.horizon or not self.time_step > 0.0:
            raise ValueError(
                f"execute_steps {self.execute_steps} must be 1..horizon {self.horizon}, and "
                f"time_step {self.time_step} positive"
            )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ChunkTiming:
        """Of the server's metadata. Raises KeyError, TypeError or ValueError."""
        return cls(
            horizon=int(metadata["horizon"]),
            execute_steps=int(metadata["execute_steps"]),
            time_step=float(metadata["time_step"]),
            continues=bool(metadata.get("continues", False)),
        )


class RequestSchedule:
    """Decides about one task's requests, of which one is under way at a time.

    SYNCHRONOUS: with an observation made after the executed waypoints have ended.
    ASYNCHRONOUS: a period after the observation before, on the observations' own clock, so that
        chunks join on one grid of waypoints whatever the latency is. The period is the time that a
        chunk's executed waypoints last, or less where the answer would else come after the last
        waypoint of all.
    REALTIME_CHUNKING: the same with half the period, or the answer's latency if that is longer (s
        >= d in the paper): what joins without a jump may be renewed more often.
    TEMPORAL_ENSEMBLING: each time step, as far as the answers come that quickly.
    """

    def __init__(
        self,
        timing: ChunkTiming,
        mode: ExecutionMode,
        latency: LatencyEstimate,
        robot_action: float = 0.0,
    ) -> None:
        """
        latency: of the server's answers as seen from here, request to answer.
        robot_action: how long before its time the executor commands a waypoint [s].
        """
        self.timing = timing
        self.mode = mode
        self.latency = latency
        self._way = TRANSPORT_S + robot_action
        # Cameras jitter by some ms; waiting for the frame after would cost a whole frame.
        self._tolerance = 0.25 * timing.time_step
        self._executed = timing.execute_steps * timing.time_step
        self._goes_on = mode == ExecutionMode.REALTIME_CHUNKING and timing.continues
        self._asked: float | None = None
        self._answered_at = float("-inf")
        self._followed: ActionChunk | None = None
        self._sent: deque[tuple[float, str]] = deque(maxlen=SENT_KEPT)

    @property
    def period(self) -> float:
        """Seconds between two observations that are sent, where motion does not wait."""
        timing = self.timing
        if self.mode == ExecutionMode.TEMPORAL_ENSEMBLING:
            return timing.time_step
        executed = self._executed
        if self._goes_on:
            answer = timing.time_step * self._steps(self.latency.seconds + self._way)
            executed = min(executed, max(0.5 * executed, answer))
        # A step is lost between the observation and the frame's arrival, another one is in use.
        spare = timing.horizon * timing.time_step - self.latency.seconds - self._way
        return max(timing.time_step, min(executed, spare - 2.0 * timing.time_step))

    def wants(self, stamp: float) -> bool:
        """Whether an observation of `stamp` is to be sent. A clock that went back starts anew."""
        if self._asked is None or stamp < self._asked:
            return True
        if self.mode == ExecutionMode.SYNCHRONOUS:
            return stamp >= self._answered_at + self._executed
        return stamp >= self._asked + self.period - self._tolerance

    def taken(self, stamp: float) -> None:
        """An observation of `stamp` is being sent."""
        self._asked = stamp

    def answered(self, chunk: ActionChunk, now: float, seconds: float) -> None:
        """`chunk`, as `executed` gave it, goes to the arm at `now`; the answer took `seconds`."""
        self.latency.add(seconds)
        self._followed = chunk
        self._answered_at = now
        self._sent.append((now, chunk.chunk_id))

    def failed(self) -> None:
        """No chunk came for what was asked: do not wait for the next period."""
        self._asked = None

    def arm_follows(self, chunk_id: str, stamp: float) -> None:
        """The arm said at `stamp` whose waypoints it follows; empty: nobody's.

        If that is none of the chunks that it can follow by now, they were refused or the arm was
        stopped, and there is nothing to go on from.
        """
        settled = [at for at, _ in self._sent if at + TAKE_OVER_S < stamp]
        if settled and chunk_id not in [name for at, name in self._sent if at >= settled[-1]]:
            self._followed = None
            self._sent.clear()

    def continuation(self, stamp: float, now: float) -> tuple[ActionChunk | None, int | None]:
        """The chunk that an answer to the observation of `stamp`, asked for at `now`, has to go on
        from, and how many of the answer's waypoints will be past or under way when it arrives.

        Nothing (None, None) in other modes, where the bundle cannot, and where the arm will have
        come to the chunk's end by then.
        """
        chunk, timing = self._followed, self.timing
        if not self._goes_on or chunk is None:
            return None, None
        arrival = now + self.latency.seconds + self._way
        if chunk.times[-1] <= arrival or chunk.observation_stamp > stamp:
            return None, None
        return chunk, min(max(self._steps(arrival - stamp), 0), timing.horizon)

    def executed(
        self, chunk: ActionChunk, previous: ActionChunk | None, delay: int | None
    ) -> ActionChunk:
        """What of an answer is to go to the arm; `previous` and `delay` as it was asked for.

        SYNCHRONOUS: the part that is meant to be executed. REALTIME_CHUNKING: joined to the chunk
        that it goes on from.
        """
        if self.mode == ExecutionMode.SYNCHRONOUS:
            count = self.timing.execute_steps
            return replace(chunk, poses=chunk.poses[:count], gripper=chunk.gripper[:count])
        return chunk if previous is None else join(previous, chunk, delay or 0)

    def _steps(self, seconds: float) -> int:
        """Time steps that `seconds` reach into."""
        return ceil(seconds / self.timing.time_step)
