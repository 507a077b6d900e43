"""The arm for calibration, on a stand-in for franky: it follows, waits, and gives up in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calibration import live_arm
from calibration.live_arm import LiveArm
from calibration.source import MotionError
from contracts import kinematics
from contracts.geometry import Vector
from contracts.robot import FR3

HOME = kinematics.forward(FR3.home_joints)


class StandIn:
    """An arm whose joints go `share` of the way to their target at each reading."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share
        self.joints = np.array(FR3.home_joints)
        self.velocities = np.zeros(7)
        self.target = self.joints
        self.targets: list[Vector] = []
        self.milliseconds, self.period_ms = 0, 10
        self.dead = self.spoilt = False
        self.refusals = 0
        self.connections = 0
        self.stopped = 0

    # -- franky.Robot
    @property
    def state(self) -> Any:
        step = self.share * (self.target - self.joints)
        self.joints, self.velocities = self.joints + step, step / 0.01
        pose = kinematics.forward(self.joints)
        if self.spoilt:
            pose = pose * np.nan
        frame = SimpleNamespace(translation=pose[:3], quaternion=pose[3:])
        self.milliseconds += 0 if self.dead else self.period_ms
        clock = SimpleNamespace(to_sec=lambda: 1e-3 * self.milliseconds)
        return SimpleNamespace(q=self.joints, dq=self.velocities, O_T_EE=frame, time=clock)

    is_in_control = True

    def move(self, motion: Any, asynchronous: bool) -> None:
        self.stopped += 1

    def join_motion(self, timeout: float) -> bool:
        return True

    # -- franky.JointImpedanceTracker
    is_running = True

    def set_target(self, joints: Vector, velocity: Vector) -> None:
        self.target = np.array(joints)
        self.targets.append(self.target)


class Refused(Exception):
    pass


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()

    def connect(address: str, realtime_config: Any) -> StandIn:
        stand_in.connections += 1
        return stand_in

    def track(robot: StandIn, **gains: Any) -> StandIn:
        if stand_in.refusals > 0:
            stand_in.refusals -= 1
            raise Refused("UDP receive: Timeout")
        return stand_in

    fake = SimpleNamespace(
        Robot=connect,
        JointImpedanceTracker=track,
        TorqueStopMotion=object,
        RealtimeConfig=live_arm.franky.RealtimeConfig,
    )
    monkeypatch.setattr(live_arm, "franky", fake)
    monkeypatch.setattr(live_arm, "FRANKY_ERRORS", (Refused,))
    # Setpoints count the time, so a test need not wait for it.
    monkeypatch.setattr(live_arm.time, "sleep", lambda seconds: None)
    return stand_in


def above_home() -> Vector:
    return HOME + np.array([0.05, 0.08, 0.05, 0.0, 0.0, 0.0, 0.0])


def test_it_arrives_and_comes_to_rest(arm: StandIn) -> None:
    with LiveArm("fr3") as live:
        live.move_to(above_home())
        reading = live.read()
    assert np.linalg.norm(reading.pose[:3] - above_home()[:3]) < 0.002
    assert np.abs(reading.velocities).max() < 0.01
    assert arm.stopped == 1
    steps = np.abs(np.diff(np.array(arm.targets), axis=0))
    assert (steps <= FR3.joint_velocity * live_arm.PERIOD + 1e-9).all()


def test_a_slow_arm_is_waited_for(arm: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in ("LONGEST_WAIT", "SETTLE_TIMEOUT"):
        monkeypatch.setattr(live_arm, patience, 100.0)  # of this machine, not of the arm
    arm.share = 0.01
    with LiveArm("fr3") as live:
        live.move_to(above_home())
        assert np.linalg.norm(live.read().pose[:3] - above_home()[:3]) < live_arm.ARRIVED_M
    lags = [np.abs(a - b).max() for a, b in zip(arm.targets, arm.targets[1:], strict=False)]
    assert max(lags) < live_arm.WAITING_LAG


def test_a_blocked_arm_is_stopped_and_named(arm: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_arm, "LONGEST_WAIT", 0.05)
    arm.share = 0.0
    with pytest.raises(MotionError, match="does not follow"), LiveArm("fr3") as live:
        live.move_to(above_home() + np.array([0.1, 0.1, 0, 0, 0, 0, 0]))
    assert arm.stopped == 1


def test_an_arm_whose_clock_stands_still_is_noticed(
    arm: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_arm, "LONGEST_WAIT", 0.05)
    with LiveArm("fr3") as live:
        arm.dead = True
        with pytest.raises(MotionError, match="clock stands still"):
            live.move_to(above_home())


def test_poses_that_are_no_numbers_are_refused(arm: StandIn) -> None:
    with LiveArm("fr3") as live:
        arm.spoilt = True
        with pytest.raises(MotionError, match=r"reports a pose that.*not finite"):
            live.read()


def test_a_pose_outside_the_workspace_is_refused_before_anything_moves(arm: StandIn) -> None:
    below_the_table = above_home()
    below_the_table[2] = -0.1
    with LiveArm("fr3") as live, pytest.raises(MotionError, match="outside the workspace"):
        live.move_to(below_the_table)
    assert arm.targets == []


def test_a_connection_that_was_dropped_before_the_motion_is_made_again(arm: StandIn) -> None:
    arm.refusals = 2
    with LiveArm("fr3") as live:
        live.move_to(above_home())
    assert arm.connections == 3


def test_an_arm_that_keeps_refusing_is_reported(arm: StandIn) -> None:
    arm.refusals = 99
    with (
        LiveArm("fr3") as live,
        pytest.raises(MotionError, match="cannot start tracking: UDP receive"),
    ):
        live.move_to(above_home())


def test_what_was_sent_and_read_is_kept_in_order(arm: StandIn) -> None:
    with LiveArm("fr3") as live:
        track = live.follow(lambda t: HOME + [0.0, 0.02 * t, 0.0, 0, 0, 0, 0], 1.0)
    assert len(track.sent_stamps) == len(track.sent_poses) == len(track.readings) == 100


def test_a_late_loop_leaves_setpoints_out(arm: StandIn) -> None:
    with LiveArm("fr3") as live:
        arm.period_ms = 20
        track = live.follow(lambda t: HOME + [0.0, 0.02 * t, 0.0, 0, 0, 0, 0], 1.0)
    assert 48 <= len(track.readings) <= 53
    assert track.sent_poses[-1][1] == pytest.approx(0.02, abs=0.002)


def test_readings_follow_what_was_sent(arm: StandIn) -> None:
    with LiveArm("fr3") as live:
        track = live.follow(lambda t: HOME + [0.0, 0.02 * t, 0.0, 0, 0, 0, 0], 1.0)
    for sent, reading in zip(track.sent_stamps, track.readings, strict=True):
        assert sent <= reading.stamp
    assert track.sent_poses[-1][1] == pytest.approx(0.02, abs=0.002)
