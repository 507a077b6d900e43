"""What went wrong in a trial: one kind for every failure, the same whoever judged it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from evaluation.trial_log import TrialRecord

KINDS: Final = {
    "missed": "never came close to the object",
    "no grasp": "reached the object, never held it",
    "slipped": "closed on the object, did not lift it",
    "dropped": "lifted the object, did not bring it to the target",
    "not released": "at the target, but not left there at rest",
    "unstable": "placed too late, or it did not stay",
    "wrong object": "went for another object",
    "collision": "ran into something",
    "stopped": "stopped by a person for safety",
    "no chunk": "the policy gave no usable answer",
    "system": "a part of the robot or its graph failed",
}
"""Kinds of failure, from early to late and then from outside, with what each means."""
OF_STAGE: Final = {
    "none": "missed",
    "reached": "no grasp",
    "grasped": "slipped",
    "lifted": "dropped",
    "moved": "not released",
    "placed": "unstable",
}
"""By furthest stage, of a trial that simply ran out of time."""
OF_REASON: Final = {
    "policy_error": "no chunk",
    "wrong_object": "wrong object",
    "collision": "collision",
    "operator_stop": "stopped",
}
"""By the record's reason, which tells more than the stage."""
BY_STAGE: Final = ("timeout", "operator")
"""Reasons that leave it to the stage."""


def kind_of(record: TrialRecord) -> str | None:
    """Kind of failure (one of KINDS), or None for a success."""
    if record.success:
        return None
    if record.reason in BY_STAGE:
        return OF_STAGE.get(record.stage, "missed")
    return OF_REASON.get(record.reason, "system")


def count_kinds(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Failures of each kind that occurred, in the order of KINDS."""
    found = [kind_of(record) for record in records]
    return {kind: found.count(kind) for kind in KINDS if kind in found}
