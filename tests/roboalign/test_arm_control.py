"""Every mode of the control loop, on an arm that is only a record of what it was told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from contracts import kinematics
from contracts.action import ActionChunk
from contracts.robot import FR3
from roboalign.arm_control import ArmControl
from roboalign.arm_driver import USER_STOP, ArmError, ArmState
from roboalign.arm_report import Mode, Report
from roboalign.chunk_executor import ChunkExecutor, ChunkRefused
from roboalign.supervision import Deadlines, SourceRefused

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
        self.connected = True
        self.busy = False
        self.problem = ""
        self.wrench = np.zeros(6)
        self._looks = 0

    def read(self) -> ArmState:
        self._check()
        pose = kinematics.forward(self.joints)
        self.time += 0.0 if self.clock_stands else PERIOD
        return ArmState(self.time, pose, self.joints, self.velocity, 1.0, self.error, self.wrench)

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

    def moving(self) -> bool:
        self._check()
        self._looks -= 1
        return self._looks > 0

    def begin_connect(self) -> None:
        self.failure, self.connected = "", True
        self.told.append("connect")

    def begin_clear(self) -> None:
        self.error = ""
        self.velocity = np.zeros(7)
        self.told.append("clear")

    def _check(self) -> None:
        if self.failure:
            self.connected = False
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

    def __init__(self, deadlines: Deadlines | None = None) -> None:
        self.now = 100.0
        self.arm, self.hand = FakeArm(), FakeHand()
        self.control = ArmControl(
            self.arm,
            self.hand,
            ChunkExecutor(),
            PERIOD,
            clock=lambda: self.now,
            steady=lambda: self.now,
            deadlines=deadlines,
        )
        self.control.start()
        self.run(0.05)

    def run(self, seconds: float) -> Report:
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            report = self.control.tick()
        return report

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> Report:
        for _ in range(round(seconds / PERIOD)):
            report = self.run(PERIOD)
            if condition():
                return report
        raise AssertionError(f"not within {seconds} s: {report}")

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
    bench.control.commands.offer(chunk)
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
    bench.control.commands.offer(bench.chunk())
    uses = [bench.run(PERIOD).first_use for _ in range(10)]
    assert uses == ["a"] + [""] * 9


def test_hold_drops_the_queue_and_refuses_older_observations(bench: Bench) -> None:
    late = bench.chunk(name="late")
    bench.control.commands.offer(bench.chunk())
    bench.run(0.1)
    bench.control.commands.hold()
    bench.run(0.2)
    still = bench.arm.joints.copy()
    report = bench.run(0.2)
    assert report.mode == Mode.HOLDING
    np.testing.assert_allclose(bench.arm.joints, still, atol=1e-9)
    with pytest.raises(ChunkRefused):
        bench.control.commands.offer(late)
    assert bench.run(PERIOD).refused_chunks == 1
    assert "late" in bench.run(PERIOD).reason


def test_home_comes_to_rest_opens_and_holds_at_home(bench: Bench) -> None:
    bench.control.commands.offer(bench.chunk(dx=0.12))
    bench.run(0.4)
    homing = bench.control.home()
    report = bench.run(0.03)
    assert report.mode == Mode.MOVING
    with pytest.raises(ChunkRefused, match="moving"):
        bench.control.commands.offer(bench.chunk())
    report = bench.until(lambda: homing.wait(0.0))
    assert not homing.error
    assert bench.hand.commands[-1] is False
    np.testing.assert_allclose(bench.arm.joints, FR3.home_joints, atol=1e-3)
    assert report.mode == Mode.HOLDING


def test_home_says_what_keeps_it_away(bench: Bench) -> None:
    bench.control.commands.offer(bench.chunk(dx=0.12))
    bench.run(0.4)
    bench.arm.blocked = True
    homing = bench.control.home()
    bench.until(lambda: homing.wait(0.0))
    assert "home is not reached" in homing.error


def test_an_error_drops_everything_until_recovery(bench: Bench) -> None:
    bench.control.commands.offer(bench.chunk())
    bench.run(0.05)
    bench.arm.error = "reflex: joint_reflex"
    report = bench.run(0.05)
    assert (report.mode, report.reason) == (Mode.ERROR, "reflex: joint_reflex")
    with pytest.raises(ChunkRefused, match="error"):
        bench.control.commands.offer(bench.chunk())
    refused = bench.control.home()
    bench.run(0.05)
    assert refused.wait(0.0) and "recover first" in refused.error
    recovering = bench.control.recover()
    report = bench.until(lambda: recovering.wait(0.0))
    assert not recovering.error
    assert report.mode == Mode.HOLDING
    bench.control.commands.offer(bench.chunk(name="b"))
    assert bench.run(0.1).mode == Mode.TRACKING


def test_the_setpoint_waits_for_an_arm_that_is_blocked(bench: Bench) -> None:
    bench.arm.blocked = True
    bench.control.commands.offer(bench.chunk(dx=0.15))
    report = bench.run(0.45)
    assert "waits for the arm" in report.reason and report.limited_setpoints > 0
    assert 0.1 < np.abs(bench.arm.commanded - bench.arm.joints).max() < 0.2
    bench.arm.blocked = False
    assert bench.run(0.02).reason == ""


def test_the_setpoint_stands_while_the_arms_clock_does(bench: Bench) -> None:
    bench.control.commands.offer(bench.chunk(dx=0.05))
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
    bench.control.commands.offer(bench.chunk())
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
    recovering = bench.control.recover()
    assert bench.run(0.05).recovery != ""
    assert bench.until(lambda: recovering.wait(0.0)).mode == Mode.HOLDING
    assert bench.arm.told[-3:] == ["connect", "clear", "track"]


def test_a_motion_that_never_ends_is_an_error(bench: Bench) -> None:
    bench.arm.moving = lambda: True  # type: ignore[method-assign]
    stopping = bench.control.stop()
    report = bench.run(35.0)
    assert report.mode == Mode.ERROR
    assert stopping.wait(0.0) and "in time" in stopping.error


def test_a_newer_request_replaces_the_one_under_way(bench: Bench) -> None:
    bench.control.commands.offer(bench.chunk(dx=0.12))
    bench.run(0.4)
    homing = bench.control.home()
    bench.run(0.02)
    stopping = bench.control.stop()
    report = bench.run(0.1)
    assert "replaced" in homing.error
    assert stopping.wait(0.0) and not stopping.error
    assert report.mode == Mode.IDLE


def test_a_chunk_that_jumps_is_refused(bench: Bench) -> None:
    far = bench.chunk(dx=2.0, name="far")
    with pytest.raises(ChunkRefused, match="jumps by"):
        bench.control.commands.offer(far)
    assert bench.run(PERIOD).mode == Mode.HOLDING


def test_only_the_selected_source_commands(bench: Bench) -> None:
    here = kinematics.forward(bench.arm.joints)
    with pytest.raises(ChunkRefused, match="policy commands the arm"):
        bench.control.commands.teleoperate(here, 1.0, True, bench.now)
    bench.control.commands.offer(bench.chunk())
    bench.run(0.1)
    bench.control.commands.select("teleop")
    assert bench.run(0.3).mode == Mode.HOLDING
    with pytest.raises(ChunkRefused, match="teleop commands the arm"):
        bench.control.commands.offer(bench.chunk(name="b"))
    with pytest.raises(SourceRefused, match="no command source"):
        bench.control.commands.select("chef")


def operate(bench: Bench, seconds: float, *, engaged: bool = True) -> Report:
    """The operator draws the arm sideways at 0.1 m/s."""
    for _ in range(round(seconds / PERIOD)):
        pose = kinematics.forward(bench.arm.joints)
        pose[1] += 0.1 * PERIOD
        bench.control.commands.teleoperate(pose, 0.0, engaged, bench.now)
        report = bench.run(PERIOD)
    return report


def test_the_deadman_and_the_operators_silence_hold_the_arm(bench: Bench) -> None:
    bench.control.commands.select("teleop")
    report = operate(bench, 0.3)
    assert (report.mode, report.source) == (Mode.TRACKING, "teleop")
    assert operate(bench, 0.2, engaged=False).reason == "the deadman is not held"
    operate(bench, 0.2)
    report = bench.run(0.5)  # the browser is gone
    assert report.mode == Mode.HOLDING and "operator silent" in report.reason
    np.testing.assert_allclose(bench.arm.velocity, 0.0)
    assert operate(bench, 0.2).mode == Mode.TRACKING


def test_a_silent_camera_holds_and_after_long_stops() -> None:
    bench = Bench(Deadlines(camera=0.3, stop_after=0.5))
    bench.control.commands.beat("camera front")
    bench.control.commands.offer(bench.chunk())
    assert bench.run(0.2).mode == Mode.TRACKING
    report = bench.run(0.2)
    assert report.mode == Mode.HOLDING and "camera front silent" in report.reason
    with pytest.raises(ChunkRefused, match="camera front"):
        bench.control.commands.offer(bench.chunk(name="b"))
    report = bench.run(0.6)
    assert report.mode == Mode.IDLE and "camera front" in report.reason
    assert bench.arm.told[-1] == "stop"


def test_motion_goes_on_when_the_camera_is_back(bench: Bench) -> None:
    bench.control.commands.beat("camera front")
    bench.control.commands.offer(bench.chunk())
    bench.run(1.2)
    bench.control.commands.beat("camera front")
    bench.run(PERIOD)
    bench.control.commands.offer(bench.chunk(name="b"))
    assert bench.run(0.1).mode == Mode.TRACKING


def test_what_the_policy_cannot_see_holds_the_arm(bench: Bench) -> None:
    bench.control.commands.offer(bench.chunk())
    bench.run(0.1)
    bench.control.commands.complain("observation", "camera wrist is frozen")
    report = bench.run(PERIOD)
    assert report.mode == Mode.HOLDING and "frozen" in report.reason


def test_the_emergency_stop_stays_until_it_is_reset(bench: Bench) -> None:
    bench.control.commands.offer(bench.chunk())
    bench.run(0.1)
    bench.control.commands.emergency_stop("pressed")
    report = bench.run(PERIOD)
    assert (report.mode, report.emergency) == (Mode.ERROR, True)
    assert bench.arm.told[-1] == "stop"
    for ask in (bench.control.home, bench.control.recover, bench.control.start):
        refused = ask()
        bench.run(PERIOD)
        assert "reset it first" in refused.error
    with pytest.raises(ChunkRefused):
        bench.control.commands.offer(bench.chunk())
    bench.control.commands.reset_emergency_stop()
    assert bench.run(PERIOD).mode == Mode.ERROR
    recovering = bench.control.recover()
    assert bench.until(lambda: recovering.wait(0.0)).mode == Mode.HOLDING


def test_contact_holds_and_lets_go(bench: Bench) -> None:
    bench.control.commands.offer(bench.chunk())
    bench.run(0.1)
    bench.arm.wrench = np.array([0.0, 0.0, 31.0, 0.0, 0.0, 0.0])
    report = bench.run(0.1)
    assert report.mode == Mode.HOLDING and "contact: 31 N" in report.reason
    bench.arm.wrench = np.zeros(6)
    bench.run(2 * PERIOD)
    bench.control.commands.offer(bench.chunk(name="b"))
    assert bench.run(0.1).mode == Mode.TRACKING


def test_the_user_stop_is_waited_for(bench: Bench) -> None:
    bench.arm.error = USER_STOP
    bench.run(PERIOD)
    recovering = bench.control.recover()
    report = bench.run(1.0)
    assert report.recovery == "waiting for the user stop"
    bench.arm.error = ""
    assert bench.until(lambda: recovering.wait(0.0)).mode == Mode.HOLDING
    assert not recovering.error
