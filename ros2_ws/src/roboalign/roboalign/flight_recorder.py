"""The last minute of every topic, kept in memory until something goes wrong. Pure.

`add` keeps, `trigger` marks a hold or a fault, and `due` gives the excerpt around it once the
seconds after it have passed. Every `now` is of one monotonic clock [s], so that a step of the wall
clock neither empties the buffer nor keeps it for ever.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

HOLDING, ERROR = "holding", "error"
"""Of ArmStatus.mode: what is worth a file."""


@dataclass(frozen=True)
class Topic:
    """A topic and its type, `sensor_msgs/msg/Image`. latched: its last message stays valid."""

    name: str
    type: str
    latched: bool = False


@dataclass(frozen=True)
class Message:
    """One message in CDR. arrived [s]: monotonic; log and publish time [ns]: ROS time."""

    topic: Topic
    data: bytes
    arrived: float
    log_time: int
    publish_time: int


@dataclass(frozen=True)
class RecorderLimits:
    """How much is kept.

    before_s, after_s: seconds around a trigger. memory_bytes: of all messages together; the oldest
    go first, so that a flood shortens the time and does not end the process. quiet_s: so long after
    a file a hold alone is no reason for another one, since some modes hold after every chunk; a
    fault always is.
    """

    before_s: float = 55.0
    after_s: float = 5.0
    quiet_s: float = 60.0
    memory_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        if self.before_s <= 0.0 or self.memory_bytes <= 0:
            raise ValueError("before_s and memory_bytes must be positive")
        if self.after_s < 0.0 or self.quiet_s < 0.0:
            raise ValueError("after_s and quiet_s must not be negative")


@dataclass(frozen=True)
class Alarm:
    """Why an excerpt is wanted. fault: more than a hold."""

    reason: str
    fault: bool = True


@dataclass(frozen=True)
class Excerpt:
    """What belongs into one file; messages in the order of their arrival.

    reasons: of every trigger within it. complete: the buffer reached back as far as it should.
    """

    reasons: tuple[str, ...]
    messages: tuple[Message, ...]
    complete: bool


class FlightRecorder:
    """Ring buffer over all topics. May be used from several threads.

    Excerpts do not overlap: a fault soon after another one continues where the last file ended.
    """

    def __init__(self, limits: RecorderLimits = RecorderLimits()) -> None:
        self.limits = limits
        self.bytes = 0
        self._ring: deque[Message] = deque()
        self._latched: dict[str, Message] = {}
        self._reasons: list[str] = []
        self._due_at = float("inf")
        self._taken_until = float("-inf")
        self._quiet_until = float("-inf")
        self._dropped_until = float("-inf")
        self._lock = threading.Lock()

    def add(self, message: Message) -> None:
        """Keep a message, and drop what is too old or too much."""
        limits = self.limits
        with self._lock:
            self._ring.append(message)
            self.bytes += len(message.data)
            horizon = message.arrived - limits.before_s - limits.after_s
            while self._ring[0].arrived < horizon:
                self._drop()
            while self.bytes > limits.memory_bytes and len(self._ring) > 1:
                self._dropped_until = self._drop().arrived

    def trigger(self, alarm: Alarm, now: float) -> None:
        """Something went wrong; a trigger before the last one's excerpt joins it."""
        with self._lock:
            if not self._reasons and not alarm.fault and now < self._quiet_until:
                return
            if alarm.reason not in self._reasons:
                self._reasons.append(alarm.reason)
            self._due_at = min(self._due_at, now + self.limits.after_s)

    @property
    def waiting(self) -> bool:
        """Whether there is a trigger whose excerpt nobody has taken yet."""
        return bool(self._reasons)

    def due(self, now: float) -> Excerpt | None:
        """The excerpt, once it is complete; None while there is nothing to write."""
        with self._lock:
            return self._take() if now >= self._due_at else None

    def take_now(self, reason: str) -> Excerpt:
        """What is there, without waiting for what comes after."""
        with self._lock:
            if reason not in self._reasons:
                self._reasons.append(reason)
            return self._take()

    def _take(self) -> Excerpt:
        fresh = [m for m in self._ring if m.arrived > self._taken_until]
        excerpt = Excerpt(
            reasons=tuple(self._reasons),
            messages=(*self._latched.values(), *fresh),
            complete=not fresh or self._dropped_until < fresh[-1].arrived - self.limits.before_s,
        )
        for message in fresh:
            self._note_latched(message)
            self._taken_until = message.arrived
            self._quiet_until = message.arrived + self.limits.quiet_s
        self._reasons, self._due_at = [], float("inf")
        return excerpt

    def _drop(self) -> Message:
        message = self._ring.popleft()
        self.bytes -= len(message.data)
        self._note_latched(message)
        return message

    def _note_latched(self, message: Message) -> None:
        """Keep what still holds when the excerpt after this message begins."""
        known = self._latched.get(message.topic.name)
        if message.topic.latched and (known is None or known.arrived <= message.arrived):
            self._latched[message.topic.name] = message


class ModeWatch:
    """Tells from ArmStatus when the arm has come to a hold or a fault."""

    def __init__(self) -> None:
        self._mode = ""

    def update(self, mode: str, reason: str) -> Alarm | None:
        """Alarm at a change for the worse. The first status is no change: nothing came before."""
        before, self._mode = self._mode, mode
        if not before or mode == before or mode not in (HOLDING, ERROR):
            return None
        text = f"{before} to {mode}: {reason}" if reason else f"{before} to {mode}"
        return Alarm(text, fault=mode == ERROR)


class RateLimit:
    """Lets through one of each topic's messages in every period."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last: dict[str, float] = {}

    def admit(self, topic: str, now: float) -> bool:
        if now - self._last.get(topic, float("-inf")) < self._period_s:
            return False
        self._last[topic] = now
        return True
