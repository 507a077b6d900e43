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
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
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

STEP, EXECUTE, HORIZON = 0.1, 4, 40
# So long a chunk that no slow answer makes the node ask before its executed waypoints end.
METADATA = {
    "protocol_version": wire.PROTOCOL_VERSION,
    "policy": "still",
    "cameras": [{"name": "front", "size": 128}],
    "horizon": HORIZON,
    "time_step": STEP,
    "execute_steps": EXECUTE,
    "continues": True,
}


class StillPolicy:
    """A server whose chunks stay at the observed pose; `refusal` is answered instead if set."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []
        self.continued: list[tuple[str, int]] = []
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
        asked = wire.request_from_message(wire.unpack(request))
        observation = asked.observation
        self.seen.append((observation.instruction, observation.stamp))
        if asked.previous is not None:
            self.continued.append((asked.previous.chunk_id, asked.options["delay"]))
        poses = np.tile(observation.state.pose, (HORIZON, 1))
        name = f"chunk-{next(self._numbers)}"
        chunk = action.ActionChunk(name, observation.stamp, STEP, poses, np.ones(HORIZON))
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
        self.parameters = self.create_client(SetParameters, "policy_node/set_parameters")
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

    def until(self, condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not in time; {self.status}"
            rclpy.spin_once(self, timeout_sec=0.05)

    def set_mode(self, name: str) -> bool:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=name)
        request = SetParameters.Request(parameters=[Parameter(name="execution_mode", value=value)])
        answer = self.parameters.call_async(request)
        self.until(answer.done)
        return bool(answer.result().results[0].successful)

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
    words += ("-p", "execution_mode:=asynchronous")
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
    world.until(lambda: world.status.lost_input == "camera front")
    world.with_camera = True
    world.until(lambda: world.status.lost_input == "")

    server.refusal = "QUEUE_FULL: ask again"
    world.until(lambda: "QUEUE_FULL" in world.status.reason)
    assert world.status.connected and world.status.failures > 0
    server.refusal = ""
    count = len(world.chunks)
    world.until(lambda: len(world.chunks) > count)
    assert world.chunks[-1].task == "wave"
    assert not server.continued

    world.say("")
    world.until(lambda: "off" in node.output().splitlines()[-1])
    count, end = len(server.seen), time.monotonic() + 1.0
    world.until(lambda: time.monotonic() > end)
    assert len(server.seen) <= count + 1
    assert not world.set_mode("hasty")
    assert world.set_mode("realtime_chunking")
    sent = {chunk.chunk_id for chunk in world.chunks}
    world.say("wave again")
    world.until(lambda: len(server.continued) >= 2)
    known = {name for name, _ in server.continued}
    world.until(lambda: any(chunk.chunk_id in known for chunk in world.chunks))
    assert {name for name, _ in server.continued}.isdisjoint(sent)
    assert all(1 <= delay <= HORIZON for _, delay in server.continued)
    assert world.chunks[-1].execution_mode == ActionChunk.REALTIME_CHUNKING

    world.say("")
    assert world.set_mode("synchronous")
    world.say("wave at last")
    world.until(lambda: world.chunks[-1].task == "wave at last")
    assert world.chunks[-1].execution_mode == ActionChunk.SYNCHRONOUS
    assert len(world.chunks[-1].poses) == EXECUTE
    assert node.end() == 0, node.output()
