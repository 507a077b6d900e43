"""What a goal means and when a task is over."""

from __future__ import annotations

import pytest

from contracts.task import TASKS
from roboalign.task_watch import TaskLimits, TaskWatch, resolve_instruction

LIMITS = TaskLimits(policy_silence=5.0, camera_silence=1.5, arm_silence=1.0)


def test_the_instruction_is_the_tasks_own_or_the_given_text() -> None:
    own = TASKS["box_to_bowl"].instruction("cup")
    assert resolve_instruction("box_to_bowl", "cup", "", 30.0) == own
    assert resolve_instruction("box_to_bowl", "cup", " wave ", 30.0) == "wave"
    assert resolve_instruction("", "", "wave", 30.0) == "wave"


@pytest.mark.parametrize(
    ("task", "obj", "text", "timeout", "why"),
    [
        ("box_to_moon", "cup", "", 30.0, "unknown task"),
        ("box_to_bowl", "anvil", "", 30.0, "unknown object"),
        ("box_to_bowl", "", "", 30.0, "unknown object"),
        ("", "", "  ", 30.0, "neither"),
        ("", "", "x" * 600, 30.0, "longer"),
        ("box_to_bowl", "cup", "", 0.0, "timeout_s"),
        ("box_to_bowl", "cup", "", float("nan"), "timeout_s"),
    ],
)
def test_bad_goals_say_why(task: str, obj: str, text: str, timeout: float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        resolve_instruction(task, obj, text, timeout)


def alive(now: float, timeout_s: float = 30.0) -> TaskWatch:
    """A watch begun at 0 whose every source was heard at `now`."""
    watch = TaskWatch(0.0, timeout_s, ["front", "wrist"], LIMITS)
    watch.note_arm(now, "tracking", "")
    watch.note_chunk(now, now - 0.4)
    for camera in ("front", "wrist"):
        watch.note_camera(camera, now)
    return watch


def test_goes_on_while_all_are_heard() -> None:
    watch = alive(10.0)
    assert watch.outcome(10.5) is None
    assert watch.chunks == 1
    assert watch.chunk_age(10.5) == pytest.approx(0.9)


def test_reasons() -> None:
    watch = alive(10.0)
    watch.note_arm(10.1, "error", "reflex")
    assert watch.outcome(10.2).reason == "arm_error"
    assert alive(10.0).outcome(11.2).reason == "arm_error"

    watch = alive(10.0)
    watch.note_camera("front", 12.0)
    watch.note_arm(12.0, "holding", "")
    lost = watch.outcome(12.0)
    assert (lost.reason, "wrist" in lost.message) == ("camera_lost", True)

    watch = alive(10.0)
    for camera in ("front", "wrist"):
        watch.note_camera(camera, 16.0)
    watch.note_arm(16.0, "holding", "")
    watch.policy_reason = "no answer"
    lost = watch.outcome(16.0)
    assert (lost.reason, "no answer" in lost.message) == ("policy_lost", True)

    assert alive(10.0, timeout_s=10.0).outcome(10.1).reason == "timeout"


def test_an_arm_that_was_stopped_ends_the_task() -> None:
    watch = alive(10.0)
    watch.note_arm(10.1, "idle", "stopped: camera front silent")
    ended = watch.outcome(10.2)
    assert (ended.reason, "camera front" in ended.message) == ("arm_error", True)


def test_the_state_tells_of_holds_and_of_the_hand() -> None:
    watch = alive(10.0)
    assert watch.state() == "following the policy"
    watch.note_arm(10.1, "holding", "contact: 31 N")
    assert watch.state() == "holding: contact: 31 N"
    watch.note_gripper("missed")
    assert watch.state() == "the fingers closed on nothing"
    watch.note_gripper("")
    watch.note_arm(10.2, "tracking", "")
    assert watch.state() == "following the policy"
