"""arm_node and task_node as real processes, on libfranka's protocol and franky-sim's physics."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.node import Node
from roboalign_msgs.action import ExecuteTask
from roboalign_msgs.msg import ActionChunk, ArmStatus, GripperState, StageTimes
from std_srvs.srv import Trigger

from contracts import action, geometry, kinematics
from contracts.robot import FR3
from roboalign import ros_messages
from tests.roboalign.program import Program

# An address of its own for each run: libfranka's ports are fixed.
ADDRESS = f"127.0.{30 + os.getpid() % 200}.7"


class Robot:
    """What a client sees of arm_node, and how it commands it."""

    def __init__(self, arm: Program) -> None:
        self.arm = arm
        self.node = Node("tester")
        self.poses: list[tuple[float, geometry.Vector]] = []
        self.status = ArmStatus()
        self.gripper = GripperState()
        self.stages: dict[str, dict[str, float]] = {}
        topics = (
            (PoseStamped, "franka_robot_state_broadcaster/current_pose", self._take_pose),
            (ArmStatus, "arm_node/status", lambda m: setattr(self, "status", m)),
            (GripperState, "arm_node/gripper", lambda m: setattr(self, "gripper", m)),
            (StageTimes, "arm_node/stage_times", self._take_stages),
        )
        for kind, topic, take in topics:
            self.node.create_subscription(kind, topic, take, 10)
        self.chunks = self.node.create_publisher(ActionChunk, "arm_node/action_chunk", 1)

    def _take_pose(self, message: PoseStamped) -> None:
        stamp = ros_messages.to_seconds(message.header.stamp)
        self.poses.append((stamp, ros_messages.to_vector(message.pose)))

    def _take_stages(self, message: StageTimes) -> None:
        times = zip(message.stages, message.milliseconds, strict=True)
        self.stages[message.chunk_id] = dict(times)

    @property
    def pose(self) -> geometry.Vector:
        return self.poses[-1][1]

    def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not in time; {self.status}\n{self.arm.output()}"
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def rest(self) -> geometry.Vector:
        """The pose once the arm stands still; a busy machine slows the simulated arm down."""
        first = len(self.poses)
        self.until(lambda: len(self.poses) > first + 25 and self._still(), timeout_s=60.0)
        return self.pose

    def _still(self) -> bool:
        recent = np.array([pose[:3] for _, pose in self.poses[-25:]])
        return float(np.ptp(recent, axis=0).max()) < 5e-4

    def call(self, service: str) -> Trigger.Response:
        client = self.node.create_client(Trigger, service)
        assert client.wait_for_service(10.0)
        future = client.call_async(Trigger.Request())
        self.until(future.done, timeout_s=25.0)
        return future.result()

    def send(self, offset: np.ndarray, gripper: float, name: str, steps: int = 12) -> None:
        """A chunk from here to `offset` metres away, over 0.1 s a step."""
        poses = np.tile(self.pose, (steps, 1))
        poses[:, :3] += np.linspace(0.0, 1.0, steps + 1)[1:, None] * offset
        now = self.node.get_clock().now().nanoseconds * 1e-9
        chunk = action.ActionChunk(name, now, 0.1, poses, np.full(steps, gripper))
        self.chunks.publish(ros_messages.chunk_to_message(chunk))


@pytest.fixture(scope="module")
def robot(start: Callable[..., Program]) -> Iterator[Robot]:
    start("tests/roboalign/franky_sim_server.py", ADDRESS).wait_for("ready")
    words = ("--ros-args", "-p", f"robot_ip:={ADDRESS}", "-p", "home_dynamics:=0.4")
    arm = start("-m", "roboalign.arm_node", *words)
    arm.wait_for("]: ready")
    rclpy.init()
    try:
        seen = Robot(arm)
        seen.until(lambda: bool(seen.poses) and seen.status.mode == ArmStatus.HOLDING)
        seen.until(lambda: seen.chunks.get_subscription_count() == 1)
        yield seen
    finally:
        rclpy.try_shutdown()


def test_homes_opens_the_hand_and_holds(robot: Robot) -> None:
    answer = robot.call("arm_node/home")
    assert answer.success, answer.message
    robot.until(lambda: robot.gripper.opening > 0.95)
    home = kinematics.forward(FR3.home_joints)
    np.testing.assert_allclose(robot.rest()[:3], home[:3], atol=3e-3)


def test_follows_a_chunk_and_closes_the_hand(robot: Robot) -> None:
    offset = np.array([0.05, 0.06, -0.04])
    wanted = robot.rest()[:3] + offset
    robot.send(offset, gripper=0.0, name="move", steps=20)
    robot.until(lambda: robot.status.last_chunk_id == "move")
    robot.until(lambda: robot.status.mode == ArmStatus.HOLDING)
    np.testing.assert_allclose(robot.rest()[:3], wanted, atol=5e-3)
    robot.until(lambda: robot.gripper.opening < 0.1)
    assert robot.status.limited_setpoints < 20  # a stalled machine makes the arm catch up
    assert set(robot.stages["move"]) == {"transport", "queue", "picture_to_setpoint"}
    assert robot.stages["move"]["picture_to_setpoint"] > 0.0


def test_a_chunk_with_nan_is_refused_and_the_arm_holds(robot: Robot) -> None:
    before = robot.rest()
    message = ActionChunk(chunk_id="broken", time_step=0.1, gripper=[1.0] * 3)
    message.observation_stamp = robot.node.get_clock().now().to_msg()
    poses = np.tile(before, (3, 1))
    poses[1, 1] = np.nan
    message.poses = [ros_messages.to_pose(pose) for pose in poses]
    robot.chunks.publish(message)
    robot.until(lambda: "finite" in robot.status.reason)
    np.testing.assert_allclose(robot.rest()[:3], before[:3], atol=1e-3)
    assert robot.status.mode == ArmStatus.HOLDING
    assert robot.status.last_chunk_id == "move"


def test_hold_stops_the_motion_within_its_way(robot: Robot) -> None:
    start_pose = robot.rest()
    offset = np.array([-0.1, 0.0, 0.1])
    robot.send(offset, gripper=0.0, name="long", steps=24)
    robot.until(lambda: robot.status.mode == ArmStatus.TRACKING)
    assert robot.call("arm_node/hold").success
    robot.until(lambda: robot.status.mode == ArmStatus.HOLDING)
    moved = np.linalg.norm(robot.rest()[:3] - start_pose[:3])
    assert moved < 0.8 * np.linalg.norm(offset)


def test_recovery_without_an_error_holds_where_it_is(robot: Robot) -> None:
    before = robot.rest()
    assert robot.call("action_server/error_recovery").success
    robot.until(lambda: robot.status.mode == ArmStatus.HOLDING)
    np.testing.assert_allclose(robot.rest()[:3], before[:3], atol=5e-3)


def test_an_unknown_task_is_rejected_with_a_message(
    robot: Robot, start: Callable[..., Program]
) -> None:
    task = start("-m", "roboalign.task_node")
    client = ActionClient(robot.node, ExecuteTask, "execute_task")
    assert client.wait_for_server(15.0), task.output()
    goal = ExecuteTask.Goal(task="box_to_moon", object="cup", timeout_s=5.0)
    sending = client.send_goal_async(goal)
    robot.until(sending.done)
    getting = sending.result().get_result_async()
    robot.until(getting.done)
    result = getting.result().result
    assert result.reason == ExecuteTask.Result.REJECTED
    assert "box_to_moon" in result.message and "box_to_bowl" in result.message
    assert task.end() == 0, task.output()


def test_sigterm_ends_the_node_cleanly(robot: Robot) -> None:
    assert robot.arm.end(signal.SIGTERM) == 0
    assert "Traceback" not in robot.arm.output()
    assert "not stop cleanly" not in robot.arm.output()
