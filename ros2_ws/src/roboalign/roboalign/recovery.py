"""From a fault of the arm back to holding still: which step is next. Pure.

A reflex, the user stop, a power cycle and a lost network need different steps, and any of them may
never end (peers hang here); so every state has a timeout, and its end is a sentence for a person.
The caller does what `advance` says and tells what it sees; nothing here waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Where the recovery stands; as in roboalign_msgs/ArmStatus."""

    CONNECTING = "connecting"
    WAITING = "waiting for the user stop"
    CLEARING = "clearing errors"
    TAKING_OVER = "taking over"
    SETTLING = "settling"
    DONE = "done"
    FAILED = "failed"


class Step(StrEnum):
    """What the caller shall do now."""

    NONE = "none"
    CONNECT = "connect"
    CLEAR = "clear"
    TAKE_OVER = "take over"


@dataclass(frozen=True)
class Timeouts:
    """Seconds that each stage may take. Connecting includes the time an arm needs to boot."""

    connecting: float = 90.0
    waiting: float = 30.0
    clearing: float = 8.0
    taking_over: float = 5.0
    settling: float = 5.0

    def of(self, stage: Stage) -> float:
        return float(vars(self)[stage.name.lower()])

    @property
    def total(self) -> float:
        return float(sum(vars(self).values()))


@dataclass(frozen=True)
class View:
    """What the caller sees.

    busy: a step that was begun has not ended. problem: how the last step failed, or empty.
    error: what the arm itself reports, or empty.
    """

    connected: bool
    busy: bool
    problem: str
    error: str
    user_stopped: bool
    at_rest: bool


CONNECT_PAUSE_S = 1.0
"""Between two attempts to connect."""
CLEAR_ATTEMPTS = 3
SETTLED_S = 0.2
"""How long the arm must stand still and without error before it counts as recovered."""


class Recovery:
    """One recovery, from `begun` [s] on a monotonic clock; `reason` says how a failed one ended."""

    def __init__(self, begun: float, timeouts: Timeouts | None = None) -> None:
        self.timeouts = timeouts or Timeouts()
        self.stage = Stage.CONNECTING
        self.reason = ""
        self._begun = self._entered = begun
        self._asked_at: float | None = None
        self._attempts = 0
        self._renew = self._renewed = False
        self._settled_since: float | None = None

    @property
    def over(self) -> bool:
        return self.stage in (Stage.DONE, Stage.FAILED)

    def advance(self, now: float, view: View) -> Step:
        """What to do at `now`."""
        if self.over:
            return Step.NONE
        if now - self._entered > self.timeouts.of(self.stage):
            limit = self.timeouts.of(self.stage)
            why = view.problem or view.error or "no answer"
            return self._fail(f"{self.stage} did not end within {limit:g} s: {why}")
        if now - self._begun > self.timeouts.total:
            return self._fail(f"the arm comes and goes: {view.problem or view.error}")
        if view.busy:
            return Step.NONE
        return {
            Stage.CONNECTING: self._connecting,
            Stage.WAITING: self._waiting,
            Stage.CLEARING: self._clearing,
            Stage.TAKING_OVER: self._taking_over,
            Stage.SETTLING: self._settling,
        }[self.stage](now, view)

    def _connecting(self, now: float, view: View) -> Step:
        if view.connected and not self._renew:
            self._enter(Stage.WAITING, now)
            return self._waiting(now, view)
        if self._asked_at is not None and now - self._asked_at < CONNECT_PAUSE_S:
            return Step.NONE
        self._asked_at, self._renew = now, False
        return Step.CONNECT

    def _waiting(self, now: float, view: View) -> Step:
        if not view.connected:
            return self._again(now)
        if view.user_stopped:
            return Step.NONE
        self._enter(Stage.CLEARING, now)
        return self._clearing(now, view)

    def _clearing(self, now: float, view: View) -> Step:
        if not view.connected:
            return self._again(now)
        if view.user_stopped:
            self._enter(Stage.WAITING, now)
            return Step.NONE
        # Asked for even without an error: it also clears what the last motion left behind.
        cleared = self._asked_at is not None and not view.error and not view.problem
        if cleared:
            self._enter(Stage.TAKING_OVER, now)
            return self._taking_over(now, view)
        self._attempts += 1
        if self._attempts > CLEAR_ATTEMPTS:
            why = view.problem or view.error
            if self._renewed:
                return self._fail(f"{CLEAR_ATTEMPTS} attempts did not clear: {why}")
            self._renew, self._renewed, self._attempts = True, True, 0
            return self._again(now)
        self._asked_at = now
        return Step.CLEAR

    def _taking_over(self, now: float, view: View) -> Step:
        if self._asked_at is None:
            self._asked_at = now
            return Step.TAKE_OVER
        if view.problem or view.error:
            return self._fail(f"cannot take over: {view.problem or view.error}")
        self._enter(Stage.SETTLING, now)
        return Step.NONE

    def _settling(self, now: float, view: View) -> Step:
        if view.error or not view.connected:
            return self._fail(f"a new fault while settling: {view.error or view.problem}")
        if not view.at_rest:
            self._settled_since = None
        elif self._settled_since is None:
            self._settled_since = now
        elif now - self._settled_since >= SETTLED_S:
            self._enter(Stage.DONE, now)
        return Step.NONE

    def _again(self, now: float) -> Step:
        self._enter(Stage.CONNECTING, now)
        return Step.NONE

    def _enter(self, stage: Stage, now: float) -> None:
        self.stage, self._entered, self._asked_at = stage, now, None

    def _fail(self, reason: str) -> Step:
        self.stage, self.reason = Stage.FAILED, reason
        return Step.NONE
