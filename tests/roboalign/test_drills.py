"""The drills' own judgement: what counts as a hold in time, and as a broken limit."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from contracts import kinematics
from contracts.geometry import Vector
from contracts.observation import CameraFrame, Observation, RobotState
from contracts.robot import FR3
from roboalign import drills, drills_policy
from roboalign.drills import Outcome
from roboalign.drills_faults import DRILLS, Drill, Scene
from roboalign.drills_link import Seen


class FakeLink:
    """What the arm said, at once; `until` does not wait."""

    def __init__(self, statuses: list[tuple[float, str, str, float]]) -> None:
        now = time.monotonic()
        self.statuses = [
            Seen(now + at, SimpleNamespace(mode=mode, reason=reason, queue_remaining_s=queue))
            for at, mode, reason, queue in statuses
        ]
        self.poses = [Seen(now + at, pose_message(at)) for at in np.arange(-0.5, 1.0, 0.1)]
        self.now = now

    def until(self, condition, timeout_s: float) -> bool:
        return bool(condition())


def pose_message(x: float) -> SimpleNamespace:
    """A pose that moves by 1 m/s along x and stands from 0.3 s on."""
    position = SimpleNamespace(x=min(x, 0.3), y=0.0, z=0.0)
    return SimpleNamespace(pose=SimpleNamespace(position=position))


def drill(deadline: float, reason: str = "") -> Drill:
    return Drill("name", "fault", lambda _: None, "holds", deadline, "by itself", reason)


def watch(watched: Drill, link: FakeLink) -> tuple[float | None, float | None, str]:
    return drills._watch(watched, Scene(None, link), link.now)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drills, "AFTER_HOLD_S", 0.0)


def test_a_hold_is_measured_from_its_deadline() -> None:
    link = FakeLink([(0.1, "tracking", "", 0.0), (0.25, "holding", "camera front silent", 0.0)])
    hold_ms, motion_mm, problem = watch(drill(0.2, "camera"), link)
    assert hold_ms == pytest.approx(50.0) and not problem
    assert motion_mm == pytest.approx(100.0)  # from x = 0.2 m to 0.3 m


def test_a_hold_that_comes_late_or_for_another_reason_does_not_pass() -> None:
    link = FakeLink([(0.35, "holding", "contact", 0.0)])
    assert "350 ms after" in watch(drill(0.0), link)[2]
    assert "another reason: contact" in watch(drill(0.3, "reflex"), link)[2]
    assert "did not hold" in watch(drill(0.0), FakeLink([(0.1, "tracking", "", 1.0)]))[2]


def test_the_end_of_the_queue_is_a_deadline() -> None:
    link = FakeLink(
        [(0.1, "tracking", "", 0.4), (0.2, "tracking", "", 0.3), (0.55, "holding", "empty", 0.0)]
    )
    assert watch(drill(-1.0), link)[0] == pytest.approx(50.0)


def setpoint(joints: Vector, velocity: Vector) -> Seen:
    return Seen(0.0, SimpleNamespace(joints=joints, velocity=velocity))


def test_setpoints_outside_a_limit_are_counted() -> None:
    home = FR3.home_joints
    assert not drills._breaks_a_limit(setpoint(home, np.zeros(7)))
    assert drills._breaks_a_limit(setpoint(FR3.joint_upper, np.zeros(7)))
    assert drills._breaks_a_limit(setpoint(home, np.full(7, 2.0)))
    low = kinematics.forward(home)
    low[2] = -0.02
    assert drills._breaks_a_limit(setpoint(kinematics.inverse(low, home), np.zeros(7)))


def test_the_summary_has_the_agreed_names() -> None:
    outcomes = [
        Outcome("a", True, "", hold_ms=12.34),
        Outcome("b", False, "cannot run", limits_broken=2),
    ]
    line = drills.summary(outcomes)
    assert (line["drills"], line["passed"]) == (2, 1)
    assert (line["worst_hold_ms"], line["limits_broken"]) == (12.3, 2)


def test_every_drill_can_be_named_alone() -> None:
    names = [one.name for one in DRILLS]
    assert len(set(names)) == len(names) >= 19
    assert all(one.deadline is not None or one.check is not None for one in DRILLS)
    assert drills.main(["--only", "no_such_drill"]) == 2


@pytest.mark.parametrize("mode", drills_policy.MODES)
def test_the_drill_policy_answers_in_every_mode(mode: str) -> None:
    home = kinematics.forward(FR3.home_joints)
    state = RobotState(home, FR3.home_joints, np.zeros(7), 1.0, 100.0)
    frame = CameraFrame(np.zeros((4, 4, 3), np.uint8), 100.0)
    seen = Observation("follow", {"front": frame}, state, 100.0)
    chunk = drills_policy.chunk_for(seen, mode, 7)
    distance = np.linalg.norm(chunk.poses[0, :3] - home[:3])
    assert (distance > 0.3) == (mode == "jump")
    assert (chunk.observation_stamp < 98.0) == (mode == "stale")
    assert (chunk.gripper[0] == 0.0) == (mode == "close")
