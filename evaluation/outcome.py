"""When a trial has succeeded, and what to say when it has not; the same on every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from evaluation.trial_log import TrialRecord

SUCCESS: Final = "the object is at its place"
STAGE_WORDS: Final = {
    "none": "on the way",
    "reached": "reached the object",
    "grasped": "grasped it",
    "lifted": "lifted it",
    "moved": "brought it to the target",
    "placed": "let go of it there",
    "success": "it stayed: success",
}
"""Stages as a person reads them; `success` is `placed` that lasted."""
FAILURES: Final = {
    "none": "never came close to the object",
    "reached": "reached the object but did not grasp it",
    "grasped": "closed on the object but did not lift it",
    "lifted": "lifted the object but did not bring it to the target",
    "moved": "brought the object to the target but did not leave it there at rest",
    "placed": "placed the object too late, or it did not stay",
}
"""What the furthest stage says about a trial that ran out of time."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; see evaluation.trial_log.TrialRecord for the fields' meaning."""

    success: bool
    stage: str
    reason: str
    message: str
    duration_s: float


class SuccessJudge:
    """Success counts once it has lasted for `hold_s` seconds without a break."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._since: float | None = None
        self.succeeded = False

    def update(self, success: bool, now: float) -> bool:
        """Whether the trial has succeeded, with the scorer's verdict at `now` [s]."""
        self._since = (now if self._since is None else self._since) if success else None
        held = self._since is not None and now - self._since >= self._hold_s - 1e-6
        self.succeeded = self.succeeded or held
        return self.succeeded


def keeps_film(film: str, record: TrialRecord) -> bool:
    """Whether the choice `film` (evaluation.plan.FILMS) keeps the film of this trial."""
    return film == "all" or (film == "failures" and (not record.success or record.trial == 0))
