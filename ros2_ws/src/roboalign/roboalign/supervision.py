"""Who may move the arm now, and why it may not. Pure.

Every part that the motion depends on gives heartbeats; one that is late is a reason to hold. The
deadlines run on a monotonic clock [s], so that a step of the wall clock neither hides a silence nor
makes one up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CAMERA = "camera "
POLICY = "policy"
OPERATOR = "operator"


class Source(StrEnum):
    """Whose commands the arm follows; as in roboalign_msgs/ArmStatus."""

    NOBODY = ""
    POLICY = "policy"
    TELEOP = "teleop"


@dataclass(frozen=True)
class Deadlines:
    """Longest silence [s] of each part before the arm holds.

    stop_after: a hold for a fault that lasts this long becomes a stop: the arm's own controller
    takes over, and nothing goes on by itself.
    """

    camera: float = 1.0
    policy: float = 1.5
    operator: float = 0.2
    stop_after: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0.0:
                raise ValueError(f"deadline {name} must be positive, got {value}")

    def of(self, part: str) -> float:
        if part.startswith(CAMERA):
            return self.camera
        return self.policy if part == POLICY else self.operator


class SourceRefused(ValueError):
    """A command from somebody who may not command now; the text says why."""


class Supervision:
    """Heartbeats, the one command source and the emergency stop.

    Not thread safe: the caller holds a lock around each call. A camera or the policy is watched
    from its first heartbeat on, and while something of the policy is executed: `engaged`. The
    operator is watched as soon as teleoperation is the source: nothing moves without the deadman.
    """

    def __init__(self, deadlines: Deadlines | None = None) -> None:
        self.deadlines = deadlines or Deadlines()
        self.source = Source.POLICY
        self.emergency = ""
        """Why the emergency stop was pressed; empty if it is not. Stays until `reset`."""
        self._beats: dict[str, float] = {}
        self._complaints: dict[str, str] = {}
        self._engaged = False
        self._held_since: float | None = None

    # -- what happens --------------------------------------------------------------------------

    def beat(self, part: str, now: float) -> None:
        """`part` was alive at `now`, which may lie in the past: a picture's own time."""
        self._beats[part] = max(now, self._beats.get(part, now))

    def complain(self, part: str, reason: str) -> None:
        """`part` says itself why it cannot go on; an empty reason takes it back."""
        if reason:
            self._complaints[part] = reason
        else:
            self._complaints.pop(part, None)

    def engage(self) -> None:
        """Something is executed from here on that needs cameras and policy."""
        self._engaged = True

    def disengage(self) -> None:
        """Nothing is executed: nobody needs to be alive for that."""
        self._engaged = False
        self._held_since = None

    def select(self, source: str) -> None:
        """Hand the arm over. Raises SourceRefused: there is no such source."""
        try:
            self.source = Source(source)
        except ValueError as error:
            known = ", ".join(repr(str(s)) for s in Source)
            raise SourceRefused(f"no command source {source!r}; known: {known}") from error
        self._beats.pop(OPERATOR, None)
        self._complaints.pop(OPERATOR, None)
        self.disengage()

    def check(self, source: Source) -> None:
        """Raises SourceRefused: `source` may not command now."""
        if self.emergency:
            raise SourceRefused(f"emergency stop: {self.emergency}")
        if source != self.source:
            who = f"{self.source} commands the arm" if self.source else "nobody may command the arm"
            raise SourceRefused(f"a command of {source}, but {who}: hand over first")

    def press(self, reason: str) -> None:
        """Emergency stop; the first reason is kept."""
        self.emergency = self.emergency or reason or "pressed"

    def reset(self) -> None:
        """Take the emergency stop back, which only a person may ask for."""
        self.emergency = ""
        self.disengage()

    # -- what follows --------------------------------------------------------------------------

    def fault(self, now: float) -> str:
        """Why the source may not move the arm at `now`; empty if it may."""
        reason = self._fault(now)
        if not reason:
            self._held_since = None
        elif self._held_since is None:
            self._held_since = now
        return reason

    def stop_is_due(self, now: float) -> bool:
        """Whether the fault has lasted so long that holding turns into stopping."""
        held = self._held_since
        return held is not None and now - held > self.deadlines.stop_after

    def _fault(self, now: float) -> str:
        if self.source == Source.TELEOP:
            return self._silence(OPERATOR, now) if OPERATOR in self._beats else ""
        if self.source == Source.NOBODY or not self._engaged:
            return ""
        for part, reason in self._complaints.items():
            return f"{part}: {reason}"
        for part in self._beats:
            if part != OPERATOR and (reason := self._silence(part, now)):
                return reason
        return ""

    def _silence(self, part: str, now: float) -> str:
        silent, deadline = now - self._beats[part], self.deadlines.of(part)
        return f"{part} silent for {silent:.2f} s" if silent > deadline else ""
