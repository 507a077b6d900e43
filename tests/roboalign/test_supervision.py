"""Heartbeats, command sources, emergency stop and the recovery's stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboalign.recovery import Recovery, Stage, Step, Timeouts, View
from roboalign.supervision import Deadlines, Source, SourceRefused, Supervision


def test_a_camera_is_watched_from_its_first_picture_on_and_while_something_is_executed() -> None:
    watch = Supervision()
    watch.engage()
    assert watch.fault(100.0) == ""
    watch.beat("camera front", 100.0)
    assert watch.fault(100.9) == ""
    assert "camera front silent" in watch.fault(101.1)
    watch.beat("camera front", 101.2)
    assert watch.fault(101.3) == ""
    watch.disengage()
    assert watch.fault(200.0) == ""


def test_an_old_picture_is_no_sign_of_life() -> None:
    watch = Supervision()
    watch.engage()
    watch.beat("camera front", 100.0)
    watch.beat("camera front", 99.0)  # a frozen camera repeats its stamp
    assert "silent" in watch.fault(101.5)


def test_a_complaint_holds_until_it_is_taken_back() -> None:
    watch = Supervision()
    watch.engage()
    watch.complain("observation", "camera wrist is frozen")
    assert watch.fault(1.0) == "observation: camera wrist is frozen"
    watch.complain("observation", "")
    assert watch.fault(1.0) == ""


def test_a_long_hold_becomes_a_stop() -> None:
    watch = Supervision(Deadlines(stop_after=2.0))
    watch.engage()
    watch.beat("policy", 0.0)
    assert watch.fault(10.0) and not watch.stop_is_due(10.0)
    assert watch.fault(12.1) and watch.stop_is_due(12.1)
    watch.beat("policy", 12.2)
    assert not watch.fault(12.3) and not watch.stop_is_due(12.3)


def test_one_source_at_a_time() -> None:
    watch = Supervision()
    watch.check(Source.POLICY)
    watch.select("teleop")
    watch.check(Source.TELEOP)
    with pytest.raises(SourceRefused, match="teleop commands the arm"):
        watch.check(Source.POLICY)
    watch.select("")
    with pytest.raises(SourceRefused, match="nobody"):
        watch.check(Source.TELEOP)


def test_the_emergency_stop_refuses_every_source_until_reset() -> None:
    watch = Supervision()
    watch.press("the operator")
    watch.press("somebody else")
    with pytest.raises(SourceRefused, match="the operator"):
        watch.check(Source.POLICY)
    watch.reset()
    watch.check(Source.POLICY)


def test_deadlines_must_be_positive() -> None:
    with pytest.raises(ValueError, match="operator"):
        Deadlines(operator=0.0)


def view(**changes: bool | str) -> View:
    fine = {
        "connected": True,
        "busy": False,
        "problem": "",
        "error": "",
        "user_stopped": False,
        "at_rest": True,
    }
    return View(**{**fine, **changes})  # type: ignore[arg-type]


def walk(recovery: Recovery, seen: View, start: float, seconds: float) -> list[Step]:
    """What is asked for while the view stays the same."""
    ticks = range(1, round(seconds * 100) + 1)
    steps = [recovery.advance(start + 0.01 * tick, seen) for tick in ticks]
    return [step for step in steps if step != Step.NONE]


def test_a_reflex_is_cleared_then_taken_over() -> None:
    recovery = Recovery(0.0)
    assert recovery.advance(0.0, view(error="reflex")) == Step.CLEAR
    assert recovery.advance(0.1, view(busy=True)) == Step.NONE
    assert recovery.advance(0.2, view()) == Step.TAKE_OVER
    assert walk(recovery, view(), 0.2, 0.5) == []
    assert recovery.stage == Stage.DONE


def test_a_lost_connection_is_made_again_with_pauses() -> None:
    recovery = Recovery(0.0)
    asked = walk(recovery, view(connected=False, problem="no route"), 0.0, 5.0)
    assert asked == [Step.CONNECT] * 5
    assert walk(recovery, view(), 5.0, 1.0) == [Step.CLEAR, Step.TAKE_OVER]
    assert recovery.stage == Stage.DONE


def test_a_stop_button_that_stays_pressed_ends_the_recovery() -> None:
    recovery = Recovery(0.0)
    assert walk(recovery, view(error="user stop", user_stopped=True), 0.0, 31.0) == []
    assert recovery.stage == Stage.FAILED
    assert "user stop" in recovery.reason


def test_errors_that_do_not_clear_lead_to_a_new_connection_then_to_the_end() -> None:
    recovery = Recovery(0.0)
    steps = walk(recovery, view(error="reflex"), 0.0, 5.0)
    assert steps == [Step.CLEAR] * 3 + [Step.CONNECT] + [Step.CLEAR] * 3
    assert recovery.stage == Stage.FAILED and "reflex" in recovery.reason


def test_a_motion_while_settling_is_waited_for() -> None:
    recovery = Recovery(0.0)
    walk(recovery, view(at_rest=False), 0.0, 1.0)
    assert recovery.stage == Stage.SETTLING
    walk(recovery, view(), 1.0, 0.5)
    assert recovery.stage == Stage.DONE


views = st.builds(
    View,
    connected=st.booleans(),
    busy=st.booleans(),
    problem=st.sampled_from(["", "no route"]),
    error=st.sampled_from(["", "reflex"]),
    user_stopped=st.booleans(),
    at_rest=st.booleans(),
)


@given(st.lists(views, min_size=1, max_size=30))
def test_whatever_is_seen_a_recovery_ends(seen: list[View]) -> None:
    recovery = Recovery(0.0)
    limit = Timeouts().total + 100.0
    now, index = 0.0, 0
    while not recovery.over and now < limit:
        recovery.advance(now, seen[index % len(seen)])
        now, index = now + 0.5, index + 1
    assert recovery.over
    assert recovery.stage == Stage.DONE or recovery.reason
