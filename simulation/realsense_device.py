"""A RealSense camera that sees the live simulation: pyrealsense2's software device.

A thread of the camera's own process reads the shared state, draws it and hands the picture to
librealsense; what comes out has gone through librealsense's frames and syncer, as a real one's has.
"""

from __future__ import annotations

import atexit
import ctypes
import ctypes.util
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyrealsense2 as rs

from simulation.cameras import CAMERAS, SimulatedCamera
from simulation.shared_state import SharedStateError, StateReader, WorldState

if TYPE_CHECKING:
    import mujoco

    from simulation.fast import SceneRenderer

STALE_AFTER: Final = 1.0
"""Seconds without a new state after which the simulator is taken for dead."""
START_TIMEOUT: Final = 20.0
"""Seconds that compiling the world, opening OpenGL and the first picture may take."""
DOMAIN: Final = rs.timestamp_domain.system_time
"""The stamps are the wall clock of the drawn state, so this is their honest domain."""


class CameraError(RuntimeError):
    """The camera cannot start or gives no frames; the text says why."""


@dataclass(frozen=True)
class CameraIntrinsics:
    """Pinhole intrinsics in pixels (integers are pixel centres), and librealsense's distortion."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    model: str
    coeffs: tuple[float, float, float, float, float]


class SimulatedRealSense:
    """Colour stream of one of the world's cameras; same calls as a real camera's pipeline."""

    def __init__(
        self,
        camera_name: str,
        shared_memory_name: str,
        width: int,
        height: int,
        fps: int,
        build_model: Callable[[], mujoco.MjModel] | None = None,
    ) -> None:
        """`build_model` replaces `world.render_model`: the same world with more to see in it.

        Raises ValueError: no such camera, or a profile that is not positive.
        """
        if camera_name not in CAMERAS:
            raise ValueError(f"unknown camera {camera_name!r}; known: {', '.join(CAMERAS)}")
        if min(width, height, fps) <= 0:
            raise ValueError(f"colour profile {width}x{height}x{fps} must be positive")
        self.camera = CAMERAS[camera_name]
        self.width, self.height, self.fps = width, height, fps
        self._shared_memory_name = shared_memory_name
        self._build_model = build_model
        self._stream: _ColorStream | None = None
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._failure = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the stream. Raises CameraError: no OpenGL library, or no simulation."""
        if self._thread is not None:
            raise CameraError(f"camera {self.camera.name} is started already")
        check_rendering_library()
        self._stream = _ColorStream(self.camera, self.intrinsics(), self.fps)
        self._thread = threading.Thread(
            target=self._run, args=(self._stream,), name=f"camera {self.camera.name}", daemon=True
        )
        self._stopping.clear()
        self._started.clear()
        self._failure = ""
        self._thread.start()
        answered = self._started.wait(START_TIMEOUT)
        # OpenGL must be closed by the thread that opened it, and before the renderer's own exit
        # handler: those run latest first, so this one is registered after it.
        atexit.register(self.stop)
        if not answered:
            self._failure = f"not ready within {START_TIMEOUT:.0f} s"
        if self._failure:
            reason = self._failure
            self.stop()
            raise CameraError(f"camera {self.camera.name} cannot start: {reason}")

    def stop(self) -> None:
        """Close the stream; `start` may follow."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            atexit.unregister(self.stop)

    def wait_for_frame(self, timeout_s: float) -> tuple[np.ndarray, float, str, int]:
        """Next frame: RGB (height, width, 3) uint8, stamp [s], clock domain, frame number.

        Raises:
            CameraError: no frame within `timeout_s`; the text says why, if the camera knows.
        """
        if self._stream is None:
            raise CameraError(f"camera {self.camera.name} is not started")
        frame = self._stream.wait(timeout_s)
        if frame is None:
            reason = self._failure or "the simulation gives no new states"
            raise CameraError(
                f"camera {self.camera.name}: no frame within {timeout_s:.1f} s: {reason}"
            )
        image = np.asanyarray(frame.get_data()).copy()
        domain = frame.get_frame_timestamp_domain()
        return image, frame.get_timestamp() / 1000.0, domain.name, int(frame.get_frame_number())

    def intrinsics(self) -> CameraIntrinsics:
        """Exact intrinsics of the rendered picture."""
        focal = self.camera.focal_length(self.height)
        return CameraIntrinsics(
            focal, focal, (self.width - 1) / 2, (self.height - 1) / 2, self.width, self.height,
            rs.distortion.inverse_brown_conrady.name, (0.0,) * 5,
        )  # fmt: skip

    def _run(self, stream: _ColorStream) -> None:
        try:
            source = _PictureSource(
                self.camera.name,
                self._shared_memory_name,
                self.width,
                self.height,
                self._build_model,
            )
        except (SharedStateError, ImportError, RuntimeError) as error:
            self._failure = str(error)
            self._started.set()
            return
        try:
            self._started.set()
            self._deliver(source, stream)
        finally:
            source.close()

    def _deliver(self, source: _PictureSource, stream: _ColorStream) -> None:
        period = 1.0 / self.fps
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            # A camera that fell behind leaves frames out; it does not hurry after them.
            due = max(due + period, time.monotonic())
            picture = source.next_picture()
            if picture is not None:
                stream.push(*picture)


class _PictureSource:
    """Draws the newest shared state; belongs to the thread that made it, as OpenGL asks."""

    def __init__(
        self,
        camera: str,
        shared_memory_name: str,
        width: int,
        height: int,
        build_model: Callable[[], mujoco.MjModel] | None,
    ) -> None:
        # Imported here: MuJoCo opens the OpenGL library when it is imported.
        import mujoco

        from simulation import world
        from simulation.fast import SceneRenderer

        self._camera = camera
        self._name = shared_memory_name
        self._reader: StateReader | None = StateReader(shared_memory_name)
        self._drawn: tuple[int, float] = (-1, 0.0)
        self._model: mujoco.MjModel = (build_model or world.render_model)()
        self._data: mujoco.MjData = mujoco.MjData(self._model)
        self._renderer: SceneRenderer = SceneRenderer(self._model, width, height)
        self._kinematics, self._camlight = mujoco.mj_kinematics, mujoco.mj_camlight
        # The first picture takes far longer than the others; better here than in the stream.
        self._draw()

    def next_picture(self) -> tuple[np.ndarray, float] | None:
        """Picture and its stamp [s]; None if the state has been drawn before or is stale."""
        state = self._fresh_state()
        if state is None:
            return None
        self._drawn = (state.sequence, state.stamp)
        self._data.qpos[:] = state.qpos
        self._data.mocap_pos[:] = state.mocap_pos
        self._data.mocap_quat[:] = state.mocap_quat
        return self._draw(), state.stamp

    def close(self) -> None:
        self._renderer.close()

    def _draw(self) -> np.ndarray:
        self._kinematics(self._model, self._data)
        self._camlight(self._model, self._data)
        return self._renderer.render(self._data, self._camera)

    def _fresh_state(self) -> WorldState | None:
        try:
            state = self._reader.read() if self._reader is not None else None
        except SharedStateError:
            return None  # torn by a simulator's death; its successor mends it
        if state is not None and time.time() - state.stamp < STALE_AFTER:
            return state if (state.sequence, state.stamp) != self._drawn else None
        self._reattach()
        return None

    def _reattach(self) -> None:
        """Look for the block of a simulator that was started again."""
        try:
            self._reader = StateReader(self._name)
        except SharedStateError:
            self._reader = None  # not yet; asked again at the next frame


class _ColorStream:
    """librealsense's side: a software device with one colour sensor, and its syncer."""

    def __init__(self, camera: SimulatedCamera, intrinsics: CameraIntrinsics, fps: int) -> None:
        self._device = rs.software_device()
        self._device.register_info(rs.camera_info.name, camera.product)
        self._device.register_info(rs.camera_info.serial_number, camera.serial)
        self._sensor = self._device.add_sensor("RGB Camera")
        self._profile = self._sensor.add_video_stream(_video_stream(intrinsics, fps), True)
        self._device.create_matcher(rs.matchers.default)
        self._syncer = rs.syncer()
        self._number = 0
        self._stride = 3 * intrinsics.width
        self._sensor.open(self._profile)
        self._sensor.start(self._syncer)

    def push(self, image: np.ndarray, stamp: float) -> None:
        """Deliver one picture (height, width, 3) uint8, `stamp` in seconds."""
        frame = rs.software_video_frame()
        frame.pixels = image
        frame.stride, frame.bpp = self._stride, 3
        frame.timestamp, frame.domain = stamp * 1000.0, DOMAIN
        frame.frame_number = self._number
        frame.profile = self._profile.as_video_stream_profile()
        self._sensor.on_video_frame(frame)
        self._number += 1

    def close(self) -> None:
        """Stop the sensor, before librealsense's own threads outlive the interpreter."""
        self._sensor.stop()
        self._sensor.close()

    def wait(self, timeout: float) -> rs.video_frame | None:
        """Next colour frame, or None after `timeout` [s]."""
        arrived, frames = self._syncer.try_wait_for_frames(max(1, int(1000 * timeout)))
        frame = frames.get_color_frame() if arrived else None
        return frame if frame else None


def _video_stream(intrinsics: CameraIntrinsics, fps: int) -> rs.video_stream:
    pinhole = rs.intrinsics()
    pinhole.width, pinhole.height = intrinsics.width, intrinsics.height
    pinhole.fx, pinhole.fy = intrinsics.fx, intrinsics.fy
    pinhole.ppx, pinhole.ppy = intrinsics.cx, intrinsics.cy
    pinhole.model = rs.distortion.inverse_brown_conrady
    pinhole.coeffs = list(intrinsics.coeffs)
    stream = rs.video_stream()
    stream.type, stream.index, stream.uid = rs.stream.color, 0, 0
    stream.width, stream.height, stream.fps = intrinsics.width, intrinsics.height, fps
    stream.fmt, stream.bpp, stream.intrinsics = rs.format.rgb8, 3, pinhole
    return stream


def check_rendering_library() -> None:
    """Raises CameraError if the OpenGL library that MuJoCo will draw with is missing."""
    backend = os.environ.get("MUJOCO_GL", "")
    if backend != "osmesa" or ctypes.util.find_library("OSMesa"):
        return
    raise CameraError(
        "the OSMesa library is missing, which draws the simulated cameras: "
        "run `sudo apt-get install libosmesa6`"
    )
