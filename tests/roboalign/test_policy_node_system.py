"""policy_node as a real process, between topics that the test publishes and a server of its own."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from roboalign_msgs.msg import ActionChunk, GripperState, PolicyStatus, StageTimes
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from contracts import action, kinematics, wire
from contracts.robot import FR3
from roboalign import ros_messages
from roboalign.policy_node import INSTRUCTION_TOPIC, LATCHED
from tests.roboalign.program import Program

STEP, EXECUTE = 0.1, 4
METADATA = {
    "protocol_version": wire.PROTOCOL_VERSION,
    "policy": "still",
    "cameras": [{"name": "front", "size": 128}],
    "time_step": STEP,
    "execute_steps": EXECUTE,
}


class StillPolicy:
    """A server whose chunks stay at the observed pose; `refusal` is answered instead if set."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []
        self.refusal = ""
        self._numbers = itertools.count()
        self._server = serve(self._answer, "127.0.0.1", 0, compression=None)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def close(self) -> None:
        self._server.shutdown()

    def _answer(self, connection: ServerConnection) -> None:
        connection.send(wire.pack(METADATA))
        try:
            for request in connection:
                connection.send(self._reply(request))
        except ConnectionClosed:
            return

    def _reply(self, request: str | bytes) -> str | bytes:
        if self.refusal:
            return self.refusal
        observation, _ = wire.observation_from_message(wire.unpack(request))
        self.seen.append((observation.instruction, observation.stamp))
        poses = np.tile(observation.state.pose, (8, 1))
        name = f"chunk-{next(self._numbers)}"
        chunk = action.ActionChunk(name, observation.stamp, STEP, poses, np.ones(8))
        return wire.pack(wire.chunk_to_message(chunk) | {"server_timing": {"head": 1.5}})


class World(Node):
    """Publishes what arm and camera would, at 20 Hz, and keeps what the policy node says."""

    def __init__(self) -> None:
        super().__init__("world")
        self.chunks: list[ActionChunk] = []
        self.stages: list[StageTimes] = []
        self.status = PolicyStatus()
        self.with_camera = True
        self._image = self.create_publisher(Image, "camera/front/color/image_raw", 1)
        pose_topic = "franka_robot_state_broadcaster/current_pose"
        self._pose = self.create_publisher(PoseStamped, pose_topic, 5)
        self._joints = self.create_publisher(JointState, "joint_states", 5)
        self._gripper = self.create_publisher(GripperState, "arm_node/gripper", 5)
        self.instruction = self.create_publisher(String, INSTRUCTION_TOPIC, LATCHED)
        self.create_subscription(ActionChunk, "arm_node/action_chunk", self.chunks.append, 5)
        self.create_subscription(StageTimes, "policy_node/stage_times", self.stages.append, 5)
        self.create_subscription(
            PolicyStatus, "policy_node/status", lambda m: setattr(self, "status", m), 5
        )
        self.create_timer(0.05, self._publish)

    def _publish(self) -> None:
        now = self.get_clock().now().to_msg()
        pose = PoseStamped(pose=ros_messages.to_pose(kinematics.forward(FR3.home_joints)))
        joints = JointState(position=FR3.home_joints.tolist(), velocity=[0.0] * 7)
        gripper = GripperState(opening=1.0)
        image = ros_messages.image_to_message(np.zeros((48, 64, 3), np.uint8))
        for message in (pose, joints, gripper, image):
            message.header.stamp = now
        self._pose.publish(pose)
        self._joints.publish(joints)
        self._gripper.publish(gripper)
        if self.with_camera:
            self._image.publish(image)

    def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not in time; {self.status}"
            rclpy.spin_once(self, timeout_sec=0.05)

    def say(self, text: str) -> None:
        self.instruction.publish(String(data=text))


@pytest.fixture
def server() -> Iterator[StillPolicy]:
    policy = StillPolicy()
    yield policy
    policy.close()


@pytest.fixture
def world() -> Iterator[World]:
    rclpy.init()
    yield World()
    rclpy.try_shutdown()


def test_streams_on_the_grid_while_there_is_an_instruction(
    server: StillPolicy, world: World, start: Callable[..., Program]
) -> None:
    words = ("--ros-args", "-p", f"policy_url:={server.url}", "-p", "cameras:=[front]")
    node = start("-m", "roboalign.policy_node", *words)
    world.until(lambda: world.status.connected)
    assert world.status.bundle == "still"
    assert not world.chunks

    world.say("wave")
    world.until(lambda: len(world.chunks) >= 4 and len(world.stages) >= 4)
    assert {instruction for instruction, _ in server.seen} == {"wave"}
    gaps = np.diff([stamp for _, stamp in server.seen])
    assert gaps.min() >= EXECUTE * STEP - 0.25 * STEP - 1e-6
    assert {"picture_to_observation", "head", "round_trip"} <= set(world.stages[-1].stages)
    ros_messages.chunk_from_message(world.chunks[-1])

    world.with_camera = False
    world.until(lambda: "camera front" in world.status.reason)
    world.with_camera = True

    server.refusal = "QUEUE_FULL: ask again"
    world.until(lambda: "QUEUE_FULL" in world.status.reason)
    assert world.status.connected and world.status.failures > 0
    server.refusal = ""
    count = len(world.chunks)
    world.until(lambda: len(world.chunks) > count)

    world.say("")
    world.until(lambda: "off" in node.output().splitlines()[-1])
    count, end = len(server.seen), time.monotonic() + 1.0
    world.until(lambda: time.monotonic() > end)
    assert len(server.seen) <= count + 1
    assert node.end() == 0, node.output()
