"""Every mode of the control loop, on an arm that is only a record of what it was told."""

from __future__ import annotations

import numpy as np
import pytest

from contracts import kinematics
from contracts.action import ActionChunk
from contracts.robot import FR3
from roboalign.arm_control import ArmControl, Mode, Report
from roboalign.arm_driver import ArmError, ArmState
from roboalign.chunk_executor import ChunkExecutor, ChunkRefused

PERIOD = 0.01


class FakeArm:
    """Follows at once; `failure` makes every call fail; motions take three looks."""

    def __init__(self) -> None:
        self.joints = np.array(FR3.home_joints)
        self.velocity = np.zeros(7)
        self.failure = ""
        self.error = ""
        self.blocked = False
        self.commanded = self.joints
        self.told: list[str] = []
        self.time = 0.0
        self.clock_stands = False
        self._looks = 0

    def read(self) -> ArmState:
        self._check()
        pose = kinematics.forward(self.joints)
        self.time += 0.0 if self.clock_stands else PERIOD
        return ArmState(self.time, pose, self.joints, self.velocity, 1.0, self.error)

    def start_tracking(self) -> None:
        self._check()
        self.told.append("track")

    def track(self, joints: np.ndarray, velocity: np.ndarray) -> None:
        self._check()
        self.commanded = joints
        if not self.blocked:
            self.joints, self.velocity = joints, velocity

    def begin_stop(self) -> None:
        self._check()
        self.told.append("stop")
        self._looks = 3

    def begin_home(self) -> None:
        self._check()
        self.told.append("home")
        self._looks = 3

    def moving(self) -> bool:
        self._check()
        self._looks -= 1
        return self._looks > 0

    def recover(self) -> None:
        self.failure = self.error = ""
        self.told.append("recover")

    def _check(self) -> None:
        if self.failure:
            raise ArmError(self.failure)


class FakeHand:
    """Remembers the commands."""

    state = None
    error = ""

    def __init__(self) -> None:
        self.commands: list[bool] = []

    def command(self, closed: bool) -> None:
        self.commands.append(closed)


class Bench:
    """An ArmControl with its arm, hand and clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.arm, self.hand = FakeArm(), FakeHand()
        self.control = ArmControl(
            self.arm, self.hand, ChunkExecutor(), PERIOD, clock=lambda: self.now
        )
        self.control.start()
        self.run(0.05)

    def run(self, seconds: float) -> Report:
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            report = self.control.tick()
        return report

    def chunk(self, dx: float = 0.03, name: str = "a") -> ActionChunk:
        here = kinematics.forward(self.arm.joints)
        poses = np.tile(here, (5, 1))
        poses[:, 0] += np.linspace(0.0, dx, 6)[1:]
        return ActionChunk(name, self.now, 0.1, poses, np.linspace(1.0, 0.0, 5))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_follows_a_chunk_then_holds(bench: Bench) -> None:
    chunk = bench.chunk()
    bench.control.offer(chunk)
    report = bench.run(0.3)
    assert (report.mode, report.reason) == (Mode.TRACKING, "")
    report = bench.run(0.4)
    assert report.mode == Mode.HOLDING
    assert report.last_chunk_id == "a"
    np.testing.assert_allclose(bench.arm.velocity, 0.0)
    reached = kinematics.forward(bench.arm.joints)
    np.testing.assert_allclose(reached[:3], chunk.poses[-1, :3], atol=2e-3)
    assert bench.hand.commands[-1] is True


def test_first_use_is_told_once(bench: Bench) -> None:
    bench.control.offer(bench.chunk())
    uses = [bench.run(PERIOD).first_use for _ in range(10)]
    assert uses == ["a"] + [""] * 9


def test_hold_drops_the_queue_and_refuses_older_observations(bench: Bench) -> None:
    late = bench.chunk(name="late")
    bench.control.offer(bench.chunk())
    bench.run(0.1)
    bench.control.hold()
    bench.run(0.2)
    still = bench.arm.joints.copy()
    report = bench.run(0.2)
    assert report.mode == Mode.HOLDING
    np.testing.assert_allclose(bench.arm.joints, still, atol=1e-9)
    with pytest.raises(ChunkRefused):
        bench.control.offer(late)
    assert bench.run(PERIOD).refused_chunks == 1
    assert "late" in bench.run(PERIOD).reason


def test_home_stops_first_opens_and_holds(bench: Bench) -> None:
    homing = bench.control.home()
    report = bench.run(0.03)
    assert report.mode == Mode.MOVING
    with pytest.raises(ChunkRefused, match="moving"):
        bench.control.offer(bench.chunk())
    report = bench.run(0.2)
    assert homing.wait(0.0) and not homing.error
    assert bench.arm.told == ["track", "stop", "home", "track"]
    assert bench.hand.commands == [False]
    assert report.mode == Mode.HOLDING


def test_an_error_drops_everything_until_recovery(bench: Bench) -> None:
    bench.control.offer(bench.chunk())
    bench.run(0.05)
    bench.arm.error = "reflex: joint_reflex"
    report = bench.run(0.05)
    assert (report.mode, report.reason) == (Mode.ERROR, "reflex: joint_reflex")
    with pytest.raises(ChunkRefused, match="error"):
        bench.control.offer(bench.chunk())
    refused = bench.control.home()
    bench.run(0.05)
    assert refused.wait(0.0) and "recover first" in refused.error
    recovering = bench.control.recover()
    report = bench.run(0.1)
    assert recovering.wait(0.0) and not recovering.error
    assert report.mode == Mode.HOLDING
    bench.control.offer(bench.chunk(name="b"))
    assert bench.run(0.1).mode == Mode.TRACKING


def test_the_setpoint_waits_for_an_arm_that_is_blocked(bench: Bench) -> None:
    bench.arm.blocked = True
    bench.control.offer(bench.chunk(dx=0.15))
    report = bench.run(0.45)
    assert "waits for the arm" in report.reason and report.limited_setpoints > 0
    assert 0.1 < np.abs(bench.arm.commanded - bench.arm.joints).max() < 0.2
    bench.arm.blocked = False
    assert bench.run(0.02).reason == ""


def test_the_setpoint_stands_while_the_arms_clock_does(bench: Bench) -> None:
    bench.control.offer(bench.chunk(dx=0.05))
    bench.run(0.1)
    bench.arm.clock_stands = True
    bench.run(PERIOD)
    still = bench.arm.commanded.copy()
    bench.run(0.2)
    np.testing.assert_array_equal(bench.arm.commanded, still)
    bench.arm.clock_stands = False
    bench.run(0.1)
    assert np.abs(bench.arm.commanded - still).max() > 0.0


def test_an_arm_far_off_its_setpoint_is_stopped(bench: Bench) -> None:
    bench.control.offer(bench.chunk())
    bench.run(0.1)
    bench.arm.joints = bench.arm.joints + 0.6
    bench.arm.blocked = True
    report = bench.run(0.03)
    assert report.mode == Mode.ERROR and "does not follow" in report.reason
    assert bench.arm.told[-1] == "stop"


def test_a_lost_connection_is_an_error_with_no_state(bench: Bench) -> None:
    bench.arm.failure = "connection lost"
    report = bench.run(0.02)
    assert (report.mode, report.state) == (Mode.ERROR, None)
    bench.control.recover()
    assert bench.run(0.05).mode == Mode.HOLDING


def test_a_motion_that_never_ends_is_an_error(bench: Bench) -> None:
    bench.arm.moving = lambda: True  # type: ignore[method-assign]
    homing = bench.control.home()
    report = bench.run(25.0)
    assert report.mode == Mode.ERROR
    assert homing.wait(0.0) and "in time" in homing.error


def test_a_newer_request_replaces_the_one_under_way(bench: Bench) -> None:
    homing = bench.control.home()
    bench.run(0.02)
    stopping = bench.control.stop()
    report = bench.run(0.1)
    assert "replaced" in homing.error
    assert stopping.wait(0.0) and not stopping.error
    assert report.mode == Mode.IDLE
