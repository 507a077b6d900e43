"""One RealSense camera for calibration: the real one on USB, or the live simulation's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import pyrealsense2 as rs

from calibration.detection import CaptureError
from calibration.pinhole import Intrinsics

if TYPE_CHECKING:
    import mujoco

FRAME_TIMEOUT: Final = 10.0
WIDTH: Final = 640
HEIGHT: Final = 480
FPS: Final = 30
SIMULATED_FPS: Final = 10
"""What can be drawn at this size beside the physics on two processor cores."""


@dataclass(frozen=True)
class Frame:
    """Picture (height, width, 3) uint8 RGB; `stamp` [s] is the computer's wall clock."""

    image: np.ndarray
    stamp: float


class LiveCamera(Protocol):
    """A started camera; `read` raises CaptureError where no picture comes."""

    serial: str
    factory: Intrinsics | None

    def read(self) -> Frame: ...
    def close(self) -> None: ...


class RealSenseCamera:
    """A RealSense with `serial`, or the only one that is plugged in."""

    def __init__(self, serial: str) -> None:
        """Raises CaptureError: not there, or in use."""
        config = rs.config()
        if serial:
            config.enable_device(serial)
        config.enable_stream(rs.stream.color, WIDTH, HEIGHT, rs.format.rgb8, FPS)
        self._pipeline = rs.pipeline()
        try:
            profile = self._pipeline.start(config)
        except RuntimeError as error:
            raise CaptureError(
                f"cannot start camera {serial or '(any)'}: {error}; is another program using it?"
            ) from error
        self.serial = profile.get_device().get_info(rs.camera_info.serial_number)
        i = profile.get_stream(rs.stream.color).as_video_stream_profile().get_intrinsics()
        self.factory: Intrinsics | None = Intrinsics(
            i.width, i.height, i.fx, i.fy, i.ppx, i.ppy, tuple(float(c) for c in i.coeffs)
        )
        # The quickest frame counts as taken at its arrival, as in the camera node: what is left is
        # the camera's latency.
        self._offset = float("inf")

    def read(self) -> Frame:
        """The next frame; the camera's own clock is set by its quickest frame so far."""
        try:
            frame = self._pipeline.wait_for_frames(int(1e3 * FRAME_TIMEOUT)).get_color_frame()
        except RuntimeError as error:
            raise CaptureError(f"camera {self.serial} gives no pictures: {error}") from error
        stamp = 1e-3 * frame.get_timestamp()
        if frame.get_frame_timestamp_domain() == rs.timestamp_domain.hardware_clock:
            self._offset = min(self._offset, time.time() - stamp)
            stamp += self._offset
        return Frame(np.asanyarray(frame.get_data()).copy(), stamp)

    def close(self) -> None:
        self._pipeline.stop()


class SimulatedCamera:
    """The live simulation's camera `name`; `build_model` gives the world with the board in it."""

    def __init__(
        self, name: str, shared_memory: str, build_model: Callable[[], mujoco.MjModel]
    ) -> None:
        """Raises CaptureError: there is no simulation to see."""
        # Imported here: a robot PC has no simulator installed.
        from simulation.realsense_device import CameraError, SimulatedRealSense

        self._error = CameraError
        self._device = SimulatedRealSense(
            name, shared_memory, WIDTH, HEIGHT, SIMULATED_FPS, build_model
        )
        self.serial = self._device.camera.serial
        i = self._device.intrinsics()
        self.factory: Intrinsics | None = Intrinsics(i.width, i.height, i.fx, i.fy, i.cx, i.cy)
        try:
            self._device.start()
        except CameraError as error:
            raise CaptureError(str(error)) from error
        except KeyboardInterrupt:
            self._device.stop()  # its thread must close OpenGL before the interpreter ends
            raise

    def read(self) -> Frame:
        try:
            image, stamp, _, _ = self._device.wait_for_frame(FRAME_TIMEOUT)
        except self._error as error:
            raise CaptureError(str(error)) from error
        return Frame(image, stamp)

    def close(self) -> None:
        self._device.stop()
