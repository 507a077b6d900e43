"""The camera node on an injected source: topics, stamps, loss and return."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from roboalign import camera_node, ros_messages
from roboalign.camera_driver import CameraError, Frame, FrameClock, Intrinsics, Profile

INTRINSICS = Intrinsics(6, 4, 5.0, 5.5, 2.5, 1.5, (0.1, 0.0, 0.0, 0.0, 0.0))


class FakeSource:
    """100 frames a second, until `lost`; counts its starts."""

    def __init__(self) -> None:
        self.lost = threading.Event()
        self.starts = 0
        self.number = 0

    def start(self) -> None:
        self.starts += 1

    def stop(self) -> None:
        self.lost.clear()

    def read(self, timeout_s: float) -> Frame:
        time.sleep(0.01)
        if self.lost.is_set():
            raise CameraError("unplugged")
        self.number += 1
        image = np.full((4, 6, 3), self.number % 256, np.uint8)
        return Frame(image, None, time.time(), "system_time", self.number)

    def intrinsics(self) -> Intrinsics:
        return INTRINSICS


@pytest.fixture
def spun() -> Iterator[Callable[..., None]]:
    """Runs nodes until a condition holds."""
    rclpy.init()
    executor = SingleThreadedExecutor()

    def until(condition: Callable[[], bool], *nodes: Node) -> None:
        for node in nodes:
            executor.add_node(node)
        deadline = time.monotonic() + 15.0
        while not condition():
            assert time.monotonic() < deadline
            executor.spin_once(timeout_sec=0.05)

    yield until
    rclpy.try_shutdown()


def test_publishes_and_comes_back_after_a_loss(
    spun: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera_node, "RESTART_PAUSE_S", 0.1)
    source = FakeSource()
    node = camera_node.CameraNode(source)
    listener = Node("listener")
    images: list[Image] = []
    infos: list[CameraInfo] = []
    qos = qos_profile_sensor_data
    listener.create_subscription(Image, "/camera/color/image_raw", images.append, qos)
    listener.create_subscription(CameraInfo, "/camera/color/camera_info", infos.append, qos)
    assert node.autostart()
    spun(lambda: len(images) > 3 and len(infos) > 3, node, listener)
    frame = ros_messages.frame_from_message(images[-1])
    assert frame.image.shape == (4, 6, 3) and np.ptp(frame.image) == 0
    assert abs(time.time() - frame.stamp) < 5.0
    assert infos[-1].k[0] == 5.0 and infos[-1].header.frame_id == "camera_color_optical_frame"
    source.lost.set()
    spun(lambda: source.starts == 2)
    count = len(images)
    spun(lambda: len(images) > count + 3)
    [status] = node.diagnose()
    values = {v.key: v.value for v in status.values}
    assert (values["times_lost"], values["clock_domain"]) == ("1", "system_time")
    node.stop_once()


def test_profile_is_realsense_ros_form() -> None:
    assert Profile.parse("640x480x30") == Profile(640, 480, 30)
    with pytest.raises(ValueError, match="640x480x30"):
        Profile.parse("640x480")


def test_hardware_stamps_follow_the_quickest_frame() -> None:
    clock = FrameClock()
    assert clock.to_ros(1.0, "hardware_clock", 101.05) == pytest.approx(101.05)
    assert clock.to_ros(2.0, "hardware_clock", 102.02) == pytest.approx(102.02)
    assert clock.to_ros(3.0, "hardware_clock", 103.09) == pytest.approx(103.02)
    assert clock.to_ros(5.0, "system_time", 7.0) == 5.0
