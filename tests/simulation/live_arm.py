"""A real franky client that plays the expert against a live simulation."""

from __future__ import annotations

import threading
import time

import franky
import numpy as np

from contracts import geometry
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.robot import FR3
from simulation.expert import TIME_STEP, Expert, Waypoint
from simulation.live_process import LiveProcess
from simulation.placement import sample_placement
from simulation.shared_state import StateReader

PERIOD = 0.01
LONGEST_TRIAL = 20.0
GRASP_FORCE = 30.0


class FrankyArm:
    """Arm and hand of one live simulation; setpoints every PERIOD, as the arm node sends them."""

    def __init__(self, live: LiveProcess) -> None:
        self.robot = franky.Robot(live.hostname, realtime_config=franky.RealtimeConfig.Ignore)
        self._gripper = franky.Gripper(live.hostname)
        self._reader = StateReader(live.shared_memory)
        self._hand_thread: threading.Thread | None = None
        self._closed = False

    def home(self) -> None:
        """Open the hand and move to the home joints."""
        self._gripper.open(FR3.gripper_speed)
        self.robot.move(franky.JointMotion(np.array(FR3.home_joints), relative_dynamics_factor=0.3))

    @property
    def opening(self) -> float:
        """Measured opening 0..1, from the simulation's own state."""
        state = self._reader.read()
        assert state is not None
        return float(np.clip(state.qpos[7:9].sum() / FR3.gripper_width, 0.0, 1.0))

    def hand(self, closed: bool) -> None:
        """Close or open without waiting."""
        if closed == self._closed:
            return
        self._closed = closed
        if self._hand_thread is not None:
            self._hand_thread.join()
        self._hand_thread = threading.Thread(target=self._move_hand, args=(closed,))
        self._hand_thread.start()

    def finish(self) -> None:
        """Wait for the hand's last command."""
        if self._hand_thread is not None:
            self._hand_thread.join()

    def _move_hand(self, closed: bool) -> None:
        if closed:
            self._gripper.grasp(0.0, FR3.gripper_speed, GRASP_FORCE, epsilon_outer=0.08)
        else:
            self._gripper.open(FR3.gripper_speed)


def expert_trial(live: LiveProcess, arm: FrankyArm, task: str, obj: str, seed: int) -> list[str]:
    """Home, reset, and let the expert work; the stages that the scorer reported, in order."""
    arm.home()
    live.control.reset(task, obj, seed)
    time.sleep(0.3)
    expert = Expert(sample_placement(task, obj, seed))
    follower = PoseFollower(FR3.home_joints, PERIOD)
    stages: list[str] = []
    deadline = time.monotonic() + LONGEST_TRIAL
    tracker = franky.JointImpedanceTracker(
        arm.robot, stiffness=FR3.joint_stiffness, damping=FR3.joint_damping, period=PERIOD
    )
    with tracker:
        while not expert.done and time.monotonic() < deadline:
            waypoint = expert.act(live.control.truth(), follower.pose, arm.opening)
            _track(tracker, follower, waypoint)
            arm.hand(closed=waypoint.gripper < 0.5)
            stages.append(live.control.score().stage)
    arm.finish()
    time.sleep(0.5)
    score = live.control.score()
    return [*dict.fromkeys(stages), "success" if score.success else "failure"]


def worst_lag_after_a_jump(live: LiveProcess, goal: Vector) -> float:
    """Largest joint error [rad] while the target jumps from home to the pose `goal` (7,)."""
    robot = franky.Robot(live.hostname, realtime_config=franky.RealtimeConfig.Ignore)
    reader = StateReader(live.shared_memory)
    follower = PoseFollower(FR3.home_joints, PERIOD)
    worst = 0.0
    tracker = franky.JointImpedanceTracker(
        robot, stiffness=FR3.joint_stiffness, damping=FR3.joint_damping, period=PERIOD
    )
    with tracker:
        for _ in range(200):
            setpoint = follower.step(goal)
            tracker.set_target(setpoint.joints, setpoint.velocity)
            tracker.tick()
            state = reader.read()
            assert state is not None
            worst = max(worst, float(np.abs(state.qpos[:7] - setpoint.joints).max()))
    return worst


def _track(
    tracker: franky.JointImpedanceTracker, follower: PoseFollower, waypoint: Waypoint
) -> None:
    start: Vector = follower.pose
    steps = round(TIME_STEP / PERIOD)
    for i in range(1, steps + 1):
        setpoint = follower.step(geometry.interpolate(start, waypoint.pose, i / steps))
        tracker.set_target(setpoint.joints, setpoint.velocity)
        if tracker.tick() is None:
            raise AssertionError("the tracker ended by itself")
