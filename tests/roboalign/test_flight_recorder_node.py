"""The flight recorder as a real process beside an arm that this test plays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from roboalign_msgs.msg import ArmStatus
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from roboalign import ros_messages
from roboalign.flight_recorder_file import recordings
from tests.roboalign.program import Program

PICTURE = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 48, 3))


class Arm(Node):
    """Publishes a status and a picture at 20 Hz, and an instruction once."""

    def __init__(self) -> None:
        super().__init__("arm_node")
        self.mode = "tracking"
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._instruction = self.create_publisher(String, "policy_node/instruction", latched)
        self._instruction.publish(String(data="pick the cube"))
        self._status = self.create_publisher(ArmStatus, "~/status", 10)
        self._image = self.create_publisher(Image, "camera/front/color/image_raw", 1)
        self.record = self.create_client(Trigger, "flight_recorder/record")
        self.create_timer(0.05, self._publish)

    def _publish(self) -> None:
        self._status.publish(ArmStatus(mode=self.mode, reason="late chunk"))
        self._image.publish(ros_messages.image_to_message(PICTURE))

    def heard(self, topic: str) -> bool:
        return self.count_subscribers(topic) > 0

    def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "not in time"
            rclpy.spin_once(self, timeout_sec=0.05)

    def stop_and_go(self) -> bool:
        """A second of each mode, again and again: the first ones may not be heard yet."""
        self.mode = ("tracking", "holding")[int(time.monotonic()) % 2]
        return True


@pytest.fixture
def arm() -> Iterator[Arm]:
    rclpy.init()
    node = Arm()
    yield node
    node.destroy_node()
    rclpy.shutdown()


def messages(path: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for _, channel, _, decoded in reader.iter_decoded_messages():
            found.setdefault(channel.topic, []).append(decoded)
    return found


def test_a_hold_leaves_a_file_with_what_led_to_it(
    arm: Arm, start: Callable[..., Program], tmp_path: Path
) -> None:
    recorder = start(
        "-m", "roboalign.flight_recorder_node", "--ros-args",
        "-p", f"directory:={tmp_path}", "-p", "after_s:=0.5", "-p", "reserve_mib:=0",
    )  # fmt: skip
    recorder.wait_for("ready", timeout_s=120.0)
    topics = ("/arm_node/status", "/camera/front/color/image_raw", "/policy_node/instruction")
    arm.until(lambda: all(arm.heard(topic) for topic in topics))
    arm.until(lambda: arm.stop_and_go() and bool(recordings(tmp_path)))
    found = messages(recordings(tmp_path)[0])
    assert {"tracking", "holding"} == {m.mode for m in found["/arm_node/status"]}
    assert [m.data for m in found["/policy_node/instruction"]] == ["pick the cube"]
    pictures = found["/camera/front/color/image_raw/compressed"]
    assert bytes(pictures[0].data[:2]) == b"\xff\xd8"
    assert len(pictures) < len(found["/arm_node/status"])

    arm.until(arm.record.service_is_ready)
    answer = arm.record.call_async(Trigger.Request())
    arm.until(answer.done)
    assert answer.result().success, answer.result().message
    assert Path(answer.result().message) in recordings(tmp_path)
    assert recorder.end() == 0
