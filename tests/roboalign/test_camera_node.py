"""The camera node on an injected source: topics, stamps, loss and return."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from geometry_msgs.msg import TransformStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from contracts.calibration import Calibration, CameraCalibration, Latencies
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

    def serial(self) -> str:
        return "1234"


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


def write_calibration(path: Path, serial: str) -> Path:
    camera = CameraCalibration(
        name="camera",
        serial=serial,
        width=12,
        height=8,
        fx=11.0,
        fy=11.5,
        cx=5.5,
        cy=3.5,
        distortion=(0.0,) * 5,
        frame="hand",
        pose=np.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0]),
        residual_px=0.3,
    )
    latencies = Latencies(camera=0.5, robot_observation=0.0, robot_action=0.0, gripper=0.0)
    calibration = Calibration("fr3", date(2026, 1, 2), {"camera": camera}, latencies)
    path.write_text(yaml.safe_dump(calibration.to_document()))
    return path


def with_calibration(path: Path) -> list[str]:
    return ["--ros-args", "-p", f"calibration:={path}"]


def test_a_calibration_is_published_and_its_latency_taken_off(tmp_path: Path) -> None:
    rclpy.init(args=with_calibration(write_calibration(tmp_path / "lab.yaml", "1234")))
    try:
        node, listener = camera_node.CameraNode(FakeSource()), Node("listener")
        infos: list[CameraInfo] = []
        transforms: list[TransformStamped] = []
        listener.create_subscription(
            CameraInfo, "/camera/color/camera_info", infos.append, qos_profile_sensor_data
        )
        assert node.autostart()
        # Latched: who comes later hears it too.
        listener.create_subscription(
            TransformStamped, "/camera/extrinsics", transforms.append, camera_node.LATCHED
        )
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.add_node(listener)
        deadline = time.monotonic() + 15.0
        while not (infos and transforms):
            assert time.monotonic() < deadline
            executor.spin_once(timeout_sec=0.05)
        received = time.time()
        # Half the calibrated size, so half the focal length.
        assert infos[-1].k[0] == pytest.approx(5.5) and infos[-1].k[2] == pytest.approx(2.5)
        assert received - ros_messages.to_seconds(infos[-1].header.stamp) > 0.5
        assert transforms[0].header.frame_id == "fr3_hand"
        assert transforms[0].child_frame_id == "camera_color_optical_frame"
        assert transforms[0].transform.translation.y == 0.2
        [status] = node.diagnose()
        assert {v.key: v.value for v in status.values}["calibrated_on"] == "2026-01-02"
        node.stop_once()
    finally:
        rclpy.try_shutdown()


def test_a_camera_with_another_serial_number_does_not_start(tmp_path: Path) -> None:
    rclpy.init(args=with_calibration(write_calibration(tmp_path / "lab.yaml", "999")))
    try:
        node = camera_node.CameraNode(FakeSource())
        assert not node.autostart()
    finally:
        rclpy.try_shutdown()


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
