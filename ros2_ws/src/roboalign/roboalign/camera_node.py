"""The ROS node of one camera, with realsense-ros's topic and parameter names.

Run it with the camera's name as node name in the namespace `camera`: its topics are then
`/camera/<name>/color/image_raw` and so on, as realsense-ros has them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from contracts.calibration import Calibration
from roboalign import calibration_messages, ros_messages
from roboalign.autostart_node import AutostartNode, StartError, run_node
from roboalign.camera_driver import (
    CameraError,
    CameraSource,
    Frame,
    FrameClock,
    PipelineCamera,
    Profile,
    SimulatedCamera,
)

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # on no package index; every ROS installation has it
    TFMessage = None

FRAME_TIMEOUT_S = 1.0
RESTART_PAUSE_S = 1.0
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


class CameraNode(AutostartNode):
    """Publishes frames of a CameraSource; starts it again when it is lost."""

    def __init__(self, source: CameraSource | None = None) -> None:
        """`source` replaces the one that the parameters describe."""
        super().__init__("camera")
        self._given = source
        self._parameters = {
            name: self.declare_parameter(name, default).value
            for name, default in (
                ("source", "realsense"),
                ("shared_memory", ""),
                ("serial_no", ""),
                ("rgb_camera.color_profile", "640x480x30"),
                ("enable_depth", False),
                ("enable_sync", False),
                ("align_depth.enable", False),
                ("initial_reset", False),
                ("calibration", ""),
                ("robot_type", "fr3"),
            )
        }
        self._frame_id = f"{self.get_name()}_color_optical_frame"
        self._calibration: Calibration | None = None
        self._latency = 0.0
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._error = "no frame yet"
        self._domain = ""
        self._frames = 0
        self._lost = 0
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self._images = self.create_publisher(Image, "~/color/image_raw", qos)
        self._infos = self.create_publisher(CameraInfo, "~/color/camera_info", qos)
        self._extrinsics = self.create_publisher(TransformStamped, "~/extrinsics", LATCHED)
        self._tf_static = (
            self.create_publisher(TFMessage, "/tf_static", LATCHED) if TFMessage else None
        )
        aligned = self._parameters["align_depth.enable"]
        topic = "aligned_depth_to_color/image_raw" if aligned else "depth/image_rect_raw"
        self._depths = None
        if self._parameters["enable_depth"]:
            self._depths = self.create_publisher(Image, f"~/{topic}", qos)

    def start(self) -> None:
        source = self._given or self._make_source()
        try:
            source.start()
            info = self._describe(source)
        except (CameraError, ValueError) as error:
            raise StartError(f"camera {self.get_name()}: {error}") from error
        self._ended.clear()
        self._thread = threading.Thread(
            target=self._loop, args=(source, info), name="camera", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=FRAME_TIMEOUT_S + 1.0)
        self._thread = None

    def _make_source(self) -> CameraSource:
        p = self._parameters
        try:
            profile = Profile.parse(p["rgb_camera.color_profile"])
            if p["source"] == "realsense":
                return PipelineCamera(
                    p["serial_no"],
                    profile,
                    enable_depth=p["enable_depth"],
                    align_depth=p["align_depth.enable"],
                    enable_sync=p["enable_sync"],
                    initial_reset=p["initial_reset"],
                )
            if p["source"] != "simulated":
                raise ValueError(f"source {p['source']!r} is neither realsense nor simulated")
            if p["enable_depth"]:
                raise ValueError("the simulated camera has no depth: leave enable_depth off")
            return SimulatedCamera(self.get_name(), p["shared_memory"], profile)
        except (ValueError, ImportError) as error:
            raise StartError(f"camera {self.get_name()}: {error}") from error

    def _describe(self, source: CameraSource) -> CameraInfo:
        """The calibration's intrinsics where there is one, and its pose to whom it concerns.

        Raises:
            ValueError: the calibration is not this camera's.
        """
        factory, path = source.intrinsics(), self._parameters["calibration"]
        if not path:
            return calibration_messages.camera_info(factory)
        calibration = calibration_messages.load_calibration(Path(path))
        camera = calibration_messages.camera_of(
            calibration, self.get_name(), source.serial(), factory.width, factory.height
        )
        if calibration.latencies is not None:
            self._latency = calibration.latencies.camera
        self._calibration = calibration
        transform = calibration_messages.camera_transform(
            camera, self._frame_id, self._parameters["robot_type"]
        )
        transform.header.stamp = self.get_clock().now().to_msg()
        self._extrinsics.publish(transform)
        if self._tf_static is not None:
            self._tf_static.publish(TFMessage(transforms=[transform]))
        return calibration_messages.camera_info(camera)

    def _loop(self, source: CameraSource, info: CameraInfo) -> None:
        while not self._ended.is_set():
            try:
                self._stream(source, info)
            except CameraError as error:
                self._note_loss(error)
                self._restart(source)
        self._close(source)

    def _restart(self, source: CameraSource) -> None:
        """Until it works or the node ends."""
        while not self._ended.wait(RESTART_PAUSE_S):
            self._close(source)
            try:
                source.start()
            except CameraError as error:
                self._note_loss(error)
            else:
                return

    def _close(self, source: CameraSource) -> None:
        try:
            source.stop()
        except CameraError as error:
            self._note_loss(error)

    def _note_loss(self, error: CameraError) -> None:
        self._lost += 1
        if str(error) != self._error and self.context.ok():
            self.get_logger().warning(str(error))
        self._error = str(error)

    def _stream(self, source: CameraSource, info: CameraInfo) -> None:
        clock = FrameClock()
        newest = float("-inf")
        while not self._ended.is_set():
            frame = source.read(FRAME_TIMEOUT_S)
            arrived = clock.to_ros(frame.stamp, frame.domain, self.seconds_now())
            # The stamp that leaves here is the moment that the picture shows.
            stamp = arrived - self._latency
            self._note(frame)
            if stamp > newest and self.context.ok():
                newest = stamp
                with self.until_shutdown():
                    self._publish(frame, stamp, info)

    def _note(self, frame: Frame) -> None:
        if frame.domain != self._domain:
            self.get_logger().info(f"stamps are in the clock domain {frame.domain}")
            self._domain = frame.domain
        self._frames += 1
        self._error = ""

    def _publish(self, frame: Frame, stamp: float, info: CameraInfo) -> None:
        header = Header(stamp=ros_messages.to_stamp(stamp), frame_id=self._frame_id)
        image = ros_messages.image_to_message(frame.image)
        image.header = info.header = header
        self._images.publish(image)
        self._infos.publish(info)
        if self._depths is not None and frame.depth is not None:
            depth = ros_messages.image_to_message(frame.depth)
            depth.header = header
            self._depths.publish(depth)

    def diagnose(self) -> list[DiagnosticStatus]:
        values = {
            "clock_domain": self._domain,
            "frames": str(self._frames),
            "times_lost": str(self._lost),
            "calibrated_on": str(self._calibration.made_on) if self._calibration else "never",
        }
        return [ros_messages.diagnostic(f"camera {self.get_name()}", self._error, values)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_node(CameraNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
