"""What the policy node hears of cameras and arm: callbacks that store, nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from roboalign_msgs.msg import GripperState
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from contracts.observation import Observation
from roboalign import ros_messages
from roboalign.observation_assembler import AssemblyLimits, NotReady, ObservationAssembler

WARNING_EVERY_S = 5.0


class PolicyInputs:
    """Subscribes for `node`; `news` is notified at each frame, and guards what is stored."""

    def __init__(self, node: Node, cameras: Sequence[str], limits: AssemblyLimits) -> None:
        self.news = threading.Condition()
        self._node = node
        self._assembler = ObservationAssembler(cameras, limits)
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        recent = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        for camera in cameras:
            topic = f"camera/{camera}/color/image_raw"
            node.create_subscription(Image, topic, partial(self._take_image, camera), newest)
        pose_topic = "franka_robot_state_broadcaster/current_pose"
        node.create_subscription(PoseStamped, pose_topic, self._take_pose, recent)
        node.create_subscription(JointState, "joint_states", self._take_joints, recent)
        node.create_subscription(GripperState, "arm_node/gripper", self._take_gripper, recent)

    def set_state_latency(self, seconds: float) -> None:
        """How long before its stamp a robot state was true."""
        with self.news:
            self._assembler.state_latency = seconds

    def assemble(self, now: float, instruction: str) -> Observation | NotReady:
        """As ObservationAssembler.assemble; call it with `news` held."""
        return self._assembler.assemble(now, instruction)

    def _take_image(self, camera: str, message: Image) -> None:
        try:
            frame = ros_messages.frame_from_message(message)
        except ValueError as error:
            self._warn(f"camera {camera}: {error}")
            return
        with self.news:
            self._assembler.add_frame(camera, frame)
            self.news.notify_all()

    def _take_pose(self, message: PoseStamped) -> None:
        pose = ros_messages.to_vector(message.pose)
        self._store(message.header, lambda stamp: self._assembler.add_pose(stamp, pose))

    def _take_joints(self, message: JointState) -> None:
        position, velocity = message.position[:7], message.velocity[:7]
        self._store(
            message.header, lambda stamp: self._assembler.add_joints(stamp, position, velocity)
        )

    def _take_gripper(self, message: GripperState) -> None:
        opening = message.opening
        self._store(message.header, lambda stamp: self._assembler.add_gripper(stamp, opening))

    def _store(self, header: Header, add: Callable[[float], None]) -> None:
        try:
            with self.news:
                add(ros_messages.to_seconds(header.stamp))
        except ValueError as error:
            self._warn(str(error))

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text, throttle_duration_sec=WARNING_EVERY_S)
