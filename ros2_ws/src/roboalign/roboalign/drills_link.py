"""The drills' own ROS node: it listens to the arm, and commands where a drill asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from roboalign_msgs.msg import ActionChunk, ArmStatus, GripperState, Setpoint, TeleopCommand
from roboalign_msgs.srv import SelectCommandSource
from std_msgs.msg import Empty, String
from std_srvs.srv import Trigger

from contracts.geometry import Vector
from roboalign import ros_messages
from roboalign.policy_node import INSTRUCTION_TOPIC, LATCHED

ANSWER_TIMEOUT_S = 60.0
LATEST_S = 2.0
"""Age of a message beyond which the two clocks disagree: one of them has jumped."""


@dataclass(frozen=True)
class Seen:
    """A message, and when it was sent, on this process's monotonic clock [s]."""

    at: float
    message: Any


class DrillLink:
    """A context manager. Callbacks run in a thread and only store."""

    def __init__(self, domain_id: int) -> None:
        self._context = rclpy.Context()
        rclpy.init(
            args=[],
            context=self._context,
            domain_id=domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = self._node = rclpy.create_node("drills", context=self._context)
        self.statuses: list[Seen] = []
        self.setpoints: list[Seen] = []
        self.poses: list[Seen] = []
        self.gripper: GripperState | None = None
        stream = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
        pose_topic = "franka_robot_state_broadcaster/current_pose"
        for kind, topic, store in (
            (ArmStatus, "arm_node/status", self.statuses),
            (Setpoint, "arm_node/setpoints", self.setpoints),
            (PoseStamped, pose_topic, self.poses),
        ):
            node.create_subscription(kind, topic, _storing(store), stream)
        node.create_subscription(GripperState, "arm_node/gripper", self._take_gripper, stream)
        self._instruction = node.create_publisher(String, INSTRUCTION_TOPIC, LATCHED)
        self._chunks = node.create_publisher(ActionChunk, "arm_node/action_chunk", 1)
        self._teleop = node.create_publisher(TeleopCommand, "arm_node/teleop_command", 1)
        self._stop = node.create_publisher(Empty, "arm_node/emergency_stop", 1)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)

    def __enter__(self) -> DrillLink:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        rclpy.try_shutdown(context=self._context)
        self._thread.join(timeout=2.0)

    def forget(self) -> None:
        """Start a new record."""
        for store in (self.statuses, self.setpoints, self.poses):
            del store[:-1]

    @property
    def status(self) -> ArmStatus:
        """The newest; an empty one before the first."""
        return self.statuses[-1].message if self.statuses else ArmStatus()

    def pose(self) -> Vector:
        """Measured pose (7,) of the end effector, as it was heard last."""
        return ros_messages.to_vector(self.poses[-1].message.pose)

    def instruct(self, text: str) -> None:
        self._instruction.publish(String(data=text))

    def send_chunk(self, offset: Vector, task: str) -> None:
        """A chunk of our own, which leads `offset` (3,) [m] away in a second."""
        poses = np.tile(self.pose(), (10, 1))
        poses[:, :3] += np.linspace(0.1, 1.0, 10)[:, None] * offset
        stamp = self._node.get_clock().now().to_msg()
        message = ActionChunk(chunk_id=f"intruder-{task}", task=task, time_step=0.1)
        message.header.stamp = message.observation_stamp = stamp
        message.poses = [ros_messages.to_pose(pose) for pose in poses]
        message.gripper = [1.0] * len(poses)
        self._chunks.publish(message)

    def teleoperate(self, pose: Vector, engaged: bool = True) -> None:
        message = TeleopCommand(pose=ros_messages.to_pose(pose), gripper=1.0, engaged=engaged)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._teleop.publish(message)

    def press_emergency_stop(self) -> None:
        self._stop.publish(Empty())

    def call(self, service: str) -> Trigger.Response:
        """Raises TimeoutError."""
        return self._call(Trigger, f"arm_node/{service}", Trigger.Request())

    def select(self, source: str) -> SelectCommandSource.Response:
        """Raises TimeoutError."""
        request = SelectCommandSource.Request(source=source)
        return self._call(SelectCommandSource, "arm_node/select_source", request)

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `condition` came true in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _call(self, kind: Any, name: str, request: Any) -> Any:
        client = self._node.create_client(kind, name)
        try:
            if not client.wait_for_service(ANSWER_TIMEOUT_S):
                raise TimeoutError(f"the service {name} is not there")
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _: done.set())
            if not done.wait(ANSWER_TIMEOUT_S):
                raise TimeoutError(f"no answer within {ANSWER_TIMEOUT_S:g} s: {name}")
            return future.result()
        finally:
            self._node.destroy_client(client)

    def _take_gripper(self, message: GripperState) -> None:
        self.gripper = message

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return


def _storing(store: list[Seen]) -> Callable[[Any], None]:
    def take(message: Any) -> None:
        # A machine that is busy delivers late; what counts is when the arm node said it.
        age = time.time() - ros_messages.to_seconds(message.header.stamp)
        store.append(Seen(time.monotonic() - (age if 0.0 <= age < LATEST_S else 0.0), message))

    return take
