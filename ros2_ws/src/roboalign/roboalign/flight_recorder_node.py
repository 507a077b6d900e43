"""The ROS node of the flight recorder: every topic in, a file around each hold or fault out.

It listens to whatever is published, so that no list of topics can be forgotten. Pictures are
thinned out and kept as JPEG on `<topic>/compressed`.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import cv2
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.subscription import Subscription
from roboalign_msgs.msg import ArmStatus
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from roboalign import ros_messages
from roboalign.autostart_node import AutostartNode, StartError, run_node
from roboalign.flight_recorder import (
    Excerpt,
    FlightRecorder,
    Message,
    ModeWatch,
    RateLimit,
    RecorderLimits,
    Topic,
)
from roboalign.flight_recorder_file import DiskLimits, RecordingFailed, write_excerpt
from roboalign.flight_recorder_schema import UnknownMessage, installed_definition

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
STATUS_TYPE = "roboalign_msgs/msg/ArmStatus"
DISCOVERY_PERIOD_S = 0.5
CHECK_PERIOD_S = 0.25
WRITE_TIMEOUT_S = 30.0
JPEG_QUALITY = 80


class FlightRecorderNode(AutostartNode):
    """Wires topics to FlightRecorder and its excerpts to files; see docs/operation for its use."""

    def __init__(self) -> None:
        super().__init__("flight_recorder")
        parameter = self.declare_parameter
        self._directory = Path(parameter("directory", "runs/flight_recordings").value)
        self._settings = {
            "before_s": parameter("before_s", 55.0).value,
            "after_s": parameter("after_s", 5.0).value,
            "quiet_s": parameter("quiet_s", 60.0).value,
            "memory_bytes": parameter("memory_mib", 256).value * 2**20,
        }
        self._disk = DiskLimits(
            keep_bytes=parameter("keep_mib", 5120).value * 2**20,
            reserve_bytes=parameter("reserve_mib", 1024).value * 2**20,
        )
        self._picture_rate = parameter("picture_rate", 5.0).value
        self._recorder = FlightRecorder()
        self._mode = ModeWatch()
        self._pictures = RateLimit(0.0)
        self._heard: dict[str, Subscription | None] = {}
        self._excerpts: queue.SimpleQueue[tuple[Excerpt, _Result] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._error, self._last, self._written = "", "", 0
        self.create_timer(DISCOVERY_PERIOD_S, self._listen)
        self.create_timer(CHECK_PERIOD_S, self._check)
        # Of its own: while it waits for the file, messages still arrive.
        waiting = MutuallyExclusiveCallbackGroup()
        self.create_service(Trigger, "~/record", self._serve_record, callback_group=waiting)

    # -- life cycle ----------------------------------------------------------------------------

    def start(self) -> None:
        try:
            self._recorder = FlightRecorder(RecorderLimits(**self._settings))
            self._directory.mkdir(parents=True, exist_ok=True)
        except (ValueError, OSError) as error:
            raise StartError(f"flight recorder: {error}") from error
        self._pictures = RateLimit(1.0 / max(self._picture_rate, 1e-6))
        self._writer = threading.Thread(target=self._write_all, name="writer", daemon=True)
        self._writer.start()

    def stop(self) -> None:
        if self._recorder.waiting:
            self._excerpts.put((self._recorder.take_now("the node ends"), _Result()))
        self._excerpts.put(None)
        if self._writer is not None:
            self._writer.join(timeout=WRITE_TIMEOUT_S)
        self._writer = None
        for subscription in filter(None, self._heard.values()):
            self.destroy_subscription(subscription)
        self._heard = {}

    # -- topics --------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Subscribe to what is new."""
        if self._writer is None:
            return
        with self.until_shutdown():
            for name, types in self.get_topic_names_and_types():
                wanted = name not in self._heard and "/msg/" in types[0]
                if wanted and not name.endswith("/compressed"):
                    self._subscribe(name, types[0])

    def _subscribe(self, name: str, kind: str) -> None:
        publishers = self.get_publishers_info_by_topic(name)
        if not publishers:
            return
        latched = all(
            p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers
        )
        picture = kind == IMAGE_TYPE
        if picture and self._picture_rate <= 0.0:
            return
        try:
            package, _, message = kind.split("/")
            message_class = getattr(import_module(f"{package}.msg"), message)
        except (ImportError, AttributeError):
            self.get_logger().warning(f"{name} is not recorded: {kind} is not installed here")
            self._heard[name] = None
            return
        topic = Topic(f"{name}/compressed" if picture else name, kind, latched)
        if picture:
            topic = Topic(topic.name, COMPRESSED_TYPE)
        keep = self._keep_picture if picture else self._keep

        def receive(data: bytes, info: dict[str, int]) -> None:
            keep(topic, data, info)

        self._heard[name] = self.create_subscription(
            message_class, name, receive, _qos(picture, latched), raw=True
        )

    def _keep(self, topic: Topic, data: bytes, info: dict[str, int]) -> None:
        now = time.monotonic()
        self._recorder.add(
            Message(topic, data, now, info["received_timestamp"], info["source_timestamp"])
        )
        if topic.type == STATUS_TYPE:
            status = deserialize_message(data, ArmStatus)
            alarm = self._mode.update(status.mode, status.reason)
            if alarm is not None:
                self._recorder.trigger(alarm, now)

    def _keep_picture(self, topic: Topic, data: bytes, info: dict[str, int]) -> None:
        if not self._pictures.admit(topic.name, time.monotonic()):
            return
        message = deserialize_message(data, Image)
        try:
            image = ros_messages.frame_from_message(message).image
        except ValueError as error:
            # Depth, for one: JPEG is for what people look at.
            self.get_logger().info(f"{topic.name} is not recorded: {error}", once=True)
            return
        done, jpeg = cv2.imencode(
            ".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )
        if done:
            small = CompressedImage(header=message.header, format="jpeg", data=jpeg.tobytes())
            self._keep(topic, serialize_message(small), info)

    # -- files ---------------------------------------------------------------------------------

    def _check(self) -> None:
        excerpt = self._recorder.due(time.monotonic())
        if excerpt is not None and self._writer is not None:
            self._excerpts.put((excerpt, _Result()))

    def _serve_record(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        if self._writer is None:
            answer.success, answer.message = False, "the node is not active"
            return answer
        result = _Result()
        self._excerpts.put((self._recorder.take_now("asked for"), result))
        if not result.done.wait(WRITE_TIMEOUT_S):
            result.text = f"not written within {WRITE_TIMEOUT_S:g} s"
        answer.success, answer.message = result.success, result.text
        return answer

    def _write_all(self) -> None:
        while (item := self._excerpts.get()) is not None:
            self._write(*item)

    def _write(self, excerpt: Excerpt, result: _Result) -> None:
        try:
            when = datetime.now(UTC)
            path = write_excerpt(excerpt, self._directory, when, installed_definition, self._disk)
        except (RecordingFailed, UnknownMessage) as error:
            self._error = result.text = str(error)
            if self.context.ok():
                self.get_logger().error(str(error))
        else:
            self._error, self._last = "", str(path)
            self._written += 1
            result.success, result.text = True, str(path)
            if self.context.ok():
                self.get_logger().info(f"{path}: {'; '.join(excerpt.reasons)}")
        result.done.set()

    def diagnose(self) -> list[DiagnosticStatus]:
        values = {
            "topics": str(len(self._heard)),
            "buffer_mib": f"{self._recorder.bytes / 2**20:.1f}",
            "files": str(self._written),
            "last_file": self._last,
        }
        return [ros_messages.diagnostic("flight recorder", self._error, values)]


def _qos(picture: bool, latched: bool) -> QoSProfile:
    """Best effort: no publisher waits for the recorder. What is latched has to be asked for."""
    if latched:
        return QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return QoSProfile(depth=1 if picture else 50, reliability=ReliabilityPolicy.BEST_EFFORT)


class _Result:
    """How the writing of one excerpt ended."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.success, self.text = False, ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_node(FlightRecorderNode, arguments, threads=2)


if __name__ == "__main__":
    sys.exit(main())
