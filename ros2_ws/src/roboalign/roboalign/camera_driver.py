"""Colour (and depth) frames from a RealSense camera, real or simulated, behind one interface."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyrealsense2 as rs
from numpy.typing import NDArray

RESET_TIMEOUT_S = 10.0
HARDWARE_CLOCK = "hardware_clock"


class CameraError(RuntimeError):
    """The camera is missing, lost or refuses the profile; the text says which and why."""


@dataclass(frozen=True)
class Profile:
    """Stream size [px] and rate [Hz]."""

    width: int
    height: int
    fps: int

    @classmethod
    def parse(cls, text: str) -> Profile:
        """From realsense-ros's form `640x480x30`. Raises ValueError."""
        parts = text.lower().replace(",", "x").split("x")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            raise ValueError(f"colour profile {text!r} is not of the form 640x480x30")
        return cls(*(int(part) for part in parts))


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera [px] with plumb-bob distortion (5,)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]


@dataclass(frozen=True)
class Frame:
    """RGB uint8 (height, width, 3); depth uint16 [mm] or None; `stamp` [s] in clock `domain`."""

    image: NDArray[np.uint8]
    depth: NDArray[np.uint16] | None
    stamp: float
    domain: str
    number: int


class CameraSource(Protocol):
    """A camera. Every method may raise CameraError; `start` may be called again after `stop`."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def read(self, timeout_s: float) -> Frame: ...
    def intrinsics(self) -> Intrinsics: ...
    def serial(self) -> str: ...


class FrameClock:
    """Turns stamps of the camera's own clock into ROS time [s].

    Stamps in the computer's time pass through. For the hardware clock the offset is the smallest
    seen between arrival and stamp: the quickest frame counts as taken at its arrival. What is left
    is the camera's latency, which calibration measures (realsense-ros#796).
    """

    def __init__(self) -> None:
        self._offset = float("inf")

    def to_ros(self, stamp: float, domain: str, arrival: float) -> float:
        if domain != HARDWARE_CLOCK:
            return stamp
        self._offset = min(self._offset, arrival - stamp)
        return stamp + self._offset


class PipelineCamera:
    """A RealSense on USB. `serial` may be empty where only one is plugged in."""

    def __init__(
        self,
        serial: str,
        profile: Profile,
        *,
        enable_depth: bool = False,
        align_depth: bool = False,
        enable_sync: bool = False,
        initial_reset: bool = False,
    ) -> None:
        """`enable_sync` drops frame sets without depth; the others as in realsense-ros."""
        if (align_depth or enable_sync) and not enable_depth:
            raise ValueError("align_depth.enable and enable_sync need enable_depth")
        self._serial = serial
        self._profile = profile
        self._enable_depth = enable_depth
        self._align = rs.align(rs.stream.color) if align_depth else None
        self._enable_sync = enable_sync
        self._reset_first = initial_reset
        self._pipeline: rs.pipeline | None = None
        self._active: rs.pipeline_profile | None = None

    def start(self) -> None:
        if self._reset_first:
            self._reset_first = False
            self._reset()
        config, p = rs.config(), self._profile
        if self._serial:
            config.enable_device(self._serial)
        config.enable_stream(rs.stream.color, p.width, p.height, rs.format.rgb8, p.fps)
        if self._enable_depth:
            config.enable_stream(rs.stream.depth, p.width, p.height, rs.format.z16, p.fps)
        pipeline = rs.pipeline()
        try:
            self._active = pipeline.start(config)
        except RuntimeError as error:
            raise CameraError(f"cannot start camera {self._serial or '(any)'}: {error}") from error
        self._pipeline = pipeline

    def stop(self) -> None:
        pipeline, self._pipeline, self._active = self._pipeline, None, None
        if pipeline is not None:
            try:
                pipeline.stop()
            except RuntimeError as error:
                raise CameraError(f"camera {self._serial}: {error}") from error

    def read(self, timeout_s: float) -> Frame:
        if self._pipeline is None:
            raise CameraError(f"camera {self._serial} is not started")
        deadline = time.monotonic() + timeout_s
        while True:
            remaining = max(1, int(1e3 * (deadline - time.monotonic())))
            try:
                frames = self._pipeline.wait_for_frames(remaining)
            except RuntimeError as error:
                raise CameraError(f"camera {self._serial}: {error}") from error
            colour, depth = self._split(frames)
            if colour and (depth or not self._enable_sync):
                return _to_frame(colour, depth)

    def _split(self, frames: rs.composite_frame) -> tuple[rs.video_frame, rs.depth_frame | None]:
        if self._align is not None:
            frames = self._align.process(frames)
        return frames.get_color_frame(), frames.get_depth_frame() if self._enable_depth else None

    def intrinsics(self) -> Intrinsics:
        if self._active is None:
            raise CameraError(f"camera {self._serial} is not started")
        stream = self._active.get_stream(rs.stream.color).as_video_stream_profile()
        return _from_realsense(stream.get_intrinsics())

    def serial(self) -> str:
        """Serial number of the camera that was started."""
        if self._active is None:
            raise CameraError(f"camera {self._serial} is not started")
        return str(self._active.get_device().get_info(rs.camera_info.serial_number))

    def _reset(self) -> None:
        deadline = time.monotonic() + RESET_TIMEOUT_S
        device = _find_device(self._serial)
        if device is None:
            raise CameraError(f"no camera {self._serial or '(any)'} to reset")
        device.hardware_reset()
        # It leaves the bus first; looking at once would find the old entry.
        time.sleep(2.0)
        while _find_device(self._serial) is None:
            if time.monotonic() > deadline:
                raise CameraError(f"camera {self._serial} did not come back after a reset")
            time.sleep(0.1)


class SimulatedCamera:
    """The simulator's camera `name`, through a pyrealsense2 software device."""

    def __init__(self, name: str, shared_memory: str, profile: Profile) -> None:
        """Raises ValueError: no such camera; ImportError: no simulator on this machine."""
        # Imported here: a robot PC has no simulator installed.
        from simulation.realsense_device import SimulatedRealSense

        p = profile
        self._device = SimulatedRealSense(name, shared_memory, p.width, p.height, p.fps)

    def start(self) -> None:
        with _simulator_errors():
            self._device.start()

    def stop(self) -> None:
        self._device.stop()

    def read(self, timeout_s: float) -> Frame:
        with _simulator_errors():
            image, stamp, domain, number = self._device.wait_for_frame(timeout_s)
        return Frame(image, None, stamp, domain, number)

    def intrinsics(self) -> Intrinsics:
        i = self._device.intrinsics()
        return Intrinsics(i.width, i.height, i.fx, i.fy, i.cx, i.cy, tuple(i.coeffs))

    def serial(self) -> str:
        return self._device.camera.serial


@contextmanager
def _simulator_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise CameraError(str(error)) from error


def _from_realsense(intrinsics: rs.intrinsics) -> Intrinsics:
    i = intrinsics
    distortion = tuple(float(c) for c in i.coeffs)
    return Intrinsics(i.width, i.height, i.fx, i.fy, i.ppx, i.ppy, distortion)


def _find_device(serial: str) -> rs.device | None:
    for device in rs.context().devices:
        if not serial or device.get_info(rs.camera_info.serial_number) == serial:
            return device
    return None


def _to_frame(colour: rs.video_frame, depth: rs.depth_frame | None) -> Frame:
    return Frame(
        image=np.asanyarray(colour.get_data()),
        depth=np.asanyarray(depth.get_data()) if depth else None,
        stamp=1e-3 * colour.get_timestamp(),
        domain=colour.get_frame_timestamp_domain().name,
        number=colour.get_frame_number(),
    )
