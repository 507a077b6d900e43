"""What the fingers' width tells about a grasp."""

from __future__ import annotations

from roboalign.gripper import GraspWatch

FULL = 0.08


class Fingers:
    """A watch that is looked at every 30 ms."""

    def __init__(self, width: float, closed: bool) -> None:
        self.watch = GraspWatch(FULL)
        self.now = 100.0
        self.watch.command(closed, self.now, width)

    def run(self, width: float, seconds: float, *, busy: bool = False) -> str:
        fault = ""
        for _ in range(round(seconds / 0.03)):
            self.now += 0.03
            fault = self.watch.look(self.now, width, busy)
        return fault


def test_without_a_command_nothing_is_wrong() -> None:
    assert GraspWatch(FULL).look(5.0, 0.0, False) == ""


def test_closing_on_nothing_is_a_missed_grasp() -> None:
    fingers = Fingers(FULL, closed=True)
    assert fingers.run(0.04, 0.5, busy=True) == ""
    assert fingers.run(0.001, 0.2, busy=False) == "missed"
    fingers.watch.command(False, fingers.now, 0.001)
    assert fingers.run(FULL, 0.3) == ""


def test_an_object_between_the_fingers_is_held_until_it_slips_away() -> None:
    fingers = Fingers(FULL, closed=True)
    fingers.run(0.05, 0.3, busy=True)
    assert fingers.run(0.05, 2.0) == "" and fingers.watch.holds
    assert fingers.run(0.048, 1.0) == "" and fingers.watch.holds
    assert fingers.run(0.02, 0.1) == "lost" and not fingers.watch.holds


def test_fingers_that_do_not_open_are_stuck() -> None:
    fingers = Fingers(0.05, closed=False)
    assert fingers.run(0.05, 1.0, busy=True) == ""
    assert fingers.run(0.05, 1.0, busy=True) == "stuck"
    assert fingers.run(FULL, 0.1) == ""


def test_fingers_that_do_not_close_are_stuck() -> None:
    fingers = Fingers(FULL, closed=True)
    assert fingers.run(FULL, 2.0, busy=True) == "stuck"
    assert not fingers.watch.holds
