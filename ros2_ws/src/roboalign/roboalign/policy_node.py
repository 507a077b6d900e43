"""The ROS node between the robot's topics and the policy server.

Callbacks only store; one worker thread assembles, asks and publishes, so that a slow server never
blocks the executor.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from roboalign_msgs.msg import ActionChunk, GripperState, PolicyStatus, StageTimes
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String

from contracts.observation import Observation
from policy_server.client import Answer, PolicyClient, PolicyRefused, PolicyUnavailable
from roboalign import ros_messages
from roboalign.autostart_node import AutostartNode, StartError, run_node
from roboalign.observation_assembler import AssemblyLimits, NotReady, ObservationAssembler
from roboalign.request_schedule import RequestSchedule

INSTRUCTION_TOPIC = "policy_node/instruction"
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""What the policy shall do; empty: nothing. Kept for a policy node that starts later."""
IDLE_WAIT_S = 0.05
PAUSE_AFTER_FAILURE_S = 0.2


@dataclass(frozen=True)
class Link:
    """State of the connection to the server, replaced as a whole."""

    connected: bool = False
    bundle: str = ""
    round_trip_ms: float = 0.0
    inference_ms: float = 0.0
    requests: int = 0
    failures: int = 0
    reason: str = "not connected yet"


class PolicyNode(AutostartNode):
    """Streams requests while there is an instruction."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        limits = AssemblyLimits()
        self._url = self.declare_parameter("policy_url", "ws://127.0.0.1:8000").value
        self._token_file = self.declare_parameter("token_file", "").value
        self._timeout_s = self.declare_parameter("request_timeout_s", 2.0).value
        self._cameras = list(self.declare_parameter("cameras", ["front", "wrist"]).value)
        limits = AssemblyLimits(
            frame_age=self.declare_parameter("max_frame_age_s", limits.frame_age).value,
            state_age=self.declare_parameter("max_state_age_s", limits.state_age).value,
            camera_skew=self.declare_parameter("max_camera_skew_s", limits.camera_skew).value,
        )
        self._assembler = ObservationAssembler(self._cameras, limits)
        self._news = threading.Condition()
        self._instruction = ""
        self._link = Link()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._chunks = self.create_publisher(ActionChunk, "arm_node/action_chunk", 1)
        self._status = self.create_publisher(PolicyStatus, "~/status", 10)
        self._stage_times = self.create_publisher(StageTimes, "~/stage_times", 10)
        self._subscribe()
        self.create_timer(0.5, self._check_commander)

    def _subscribe(self) -> None:
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        recent = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        for camera in self._cameras:
            topic = f"camera/{camera}/color/image_raw"
            self.create_subscription(Image, topic, partial(self._take_image, camera), newest)
        pose_topic = "franka_robot_state_broadcaster/current_pose"
        self.create_subscription(PoseStamped, pose_topic, self._take_pose, recent)
        self.create_subscription(JointState, "joint_states", self._take_joints, recent)
        self.create_subscription(GripperState, "arm_node/gripper", self._take_gripper, recent)
        self.create_subscription(String, INSTRUCTION_TOPIC, self._take_instruction, LATCHED)

    def start(self) -> None:
        try:
            token = None
            if self._token_file:
                with open(self._token_file) as file:
                    token = file.read().strip()
            client = PolicyClient(self._url, token, timeout_s=self._timeout_s)
        except (OSError, ValueError) as error:
            raise StartError(f"policy client: {error}") from error
        self._ended.clear()
        self._thread = threading.Thread(
            target=self._work, args=(client,), name="policy", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        with self._news:
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=self._timeout_s + 0.5)
        self._thread = None

    # -- callbacks: store, nothing else --------------------------------------------------------

    def _take_image(self, camera: str, message: Image) -> None:
        try:
            frame = ros_messages.frame_from_message(message)
        except ValueError as error:
            self.get_logger().warning(f"camera {camera}: {error}", throttle_duration_sec=5.0)
            return
        with self._news:
            self._assembler.add_frame(camera, frame)
            self._news.notify_all()

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
            with self._news:
                add(ros_messages.to_seconds(header.stamp))
        except ValueError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)

    def _take_instruction(self, message: String) -> None:
        with self._news:
            self._instruction = message.data.strip()
            self._news.notify_all()
        text = f"instruction: {self._instruction}" if self._instruction else "off"
        self.get_logger().info(text)

    def _check_commander(self) -> None:
        """Nobody is left who could switch the policy off: switch it off."""
        if self._instruction and self.count_publishers(INSTRUCTION_TOPIC) == 0:
            self.get_logger().warning("the task node is gone: off")
            with self._news:
                self._instruction = ""
        self._publish_status()

    # -- worker --------------------------------------------------------------------------------

    def _work(self, client: PolicyClient) -> None:
        try:
            while not self._ended.is_set():
                schedule = self._connect(client)
                if schedule is None:
                    self._ended.wait(PAUSE_AFTER_FAILURE_S)
                    continue
                self._stream(client, schedule)
        finally:
            client.close()

    def _connect(self, client: PolicyClient) -> RequestSchedule | None:
        try:
            metadata = client.metadata()
            needed = {camera["name"] for camera in metadata["cameras"]}
            missing = needed - set(self._cameras)
            if missing:
                raise ValueError(f"the policy needs cameras that are not here: {sorted(missing)}")
            schedule = RequestSchedule(metadata["execute_steps"], metadata["time_step"])
        except (PolicyUnavailable, PolicyRefused, ValueError, KeyError, TypeError) as error:
            self._note_failure(error, connected=False)
            return None
        if not self._link.connected:
            name = str(metadata.get("policy", ""))
            self._link = replace(self._link, connected=True, bundle=name, reason="")
            self.get_logger().info(f"policy server at {self._url} serves {name}")
        return schedule

    def _stream(self, client: PolicyClient, schedule: RequestSchedule) -> None:
        """Ask until the server is lost or the node ends."""
        while not self._ended.is_set():
            observation = self._next_observation(schedule)
            if observation is None:
                continue
            assembled = self.seconds_now()
            try:
                answer = client.infer(observation)
            except PolicyUnavailable as error:
                self._note_failure(error, connected=False)
                return
            except PolicyRefused as error:
                self._note_failure(error, connected=True)
                self._ended.wait(PAUSE_AFTER_FAILURE_S)
                continue
            self._link = replace(
                self._link,
                connected=True,
                requests=self._link.requests + 1,
                round_trip_ms=answer.round_trip_ms,
                inference_ms=float(sum(answer.server_timing.values())),
                reason="",
            )
            if self._instruction == observation.instruction and self.context.ok():
                with self.until_shutdown():
                    self._publish(answer, assembled - observation.stamp)

    def _next_observation(self, schedule: RequestSchedule) -> Observation | None:
        """The observation to send now; waits a moment and returns None if there is none."""
        with self._news:
            if self._instruction:
                seen = self._assembler.assemble(self.seconds_now(), self._instruction)
                if isinstance(seen, NotReady):
                    self._link = replace(self._link, reason=seen.reason)
                elif schedule.wants(seen.stamp):
                    schedule.taken(seen.stamp)
                    return seen
            self._news.wait(IDLE_WAIT_S)
        return None

    def _note_failure(self, error: Exception, connected: bool) -> None:
        link = self._link
        if str(error) != link.reason and self.context.ok():
            self.get_logger().warning(str(error))
        self._link = replace(
            link,
            connected=connected,
            requests=link.requests + 1,
            failures=link.failures + 1,
            reason=str(error),
        )

    def _publish(self, answer: Answer, picture_to_observation: float) -> None:
        started = time.perf_counter()
        message = ros_messages.chunk_to_message(answer.chunk)
        message.header = Header(stamp=self.get_clock().now().to_msg(), frame_id="base")
        self._chunks.publish(message)
        stages = {
            "picture_to_observation": 1e3 * picture_to_observation,
            **{name: float(value) for name, value in answer.server_timing.items()},
            "round_trip": answer.round_trip_ms,
            "publish": 1e3 * (time.perf_counter() - started),
        }
        header = Header(stamp=self.get_clock().now().to_msg())
        self._stage_times.publish(
            StageTimes(
                header=header,
                chunk_id=answer.chunk.chunk_id,
                stages=list(stages),
                milliseconds=list(stages.values()),
            )
        )
        self._publish_status()

    def _publish_status(self) -> None:
        link = self._link
        self._status.publish(
            PolicyStatus(
                header=Header(stamp=self.get_clock().now().to_msg()),
                connected=link.connected,
                bundle=link.bundle,
                round_trip_ms=link.round_trip_ms,
                inference_ms=link.inference_ms,
                requests=link.requests,
                failures=link.failures,
                reason=link.reason,
            )
        )

    def diagnose(self) -> list[DiagnosticStatus]:
        link = self._link
        values = {
            "url": self._url,
            "bundle": link.bundle,
            "instruction": self._instruction,
            "requests": str(link.requests),
            "failures": str(link.failures),
        }
        return [ros_messages.diagnostic("policy", link.reason, values)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_node(PolicyNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
