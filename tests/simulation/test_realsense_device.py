"""The simulated camera: librealsense frames that move with the world and stop with it."""

from __future__ import annotations

import ctypes.util
import itertools
import time

import numpy as np
import pytest

from simulation.cameras import CAMERAS
from simulation.live_process import LiveProcess
from simulation.realsense_device import CameraError, SimulatedRealSense, check_rendering_library

WIDTH, HEIGHT, FPS = 320, 240, 15


def test_frames_come_at_their_rate_with_fresh_stamps(live: LiveProcess) -> None:
    camera = SimulatedRealSense("front", live.shared_memory, WIDTH, HEIGHT, FPS)
    camera.start()
    try:
        begin = time.time()
        frames = [camera.wait_for_frame(2.0) for _ in range(FPS)]
    finally:
        camera.stop()
    stamps, numbers = [frame[1] for frame in frames], [frame[3] for frame in frames]
    assert time.time() - begin > 0.6
    assert all(later > earlier for earlier, later in itertools.pairwise(stamps))
    assert numbers == list(range(numbers[0], numbers[0] + FPS))
    assert begin < stamps[-1] <= time.time()
    image, _, domain, _ = frames[-1]
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert domain == "system_time"
    assert image.std() > 15 and 40 < image.mean() < 220


def test_a_reset_shows_in_the_pictures(live: LiveProcess) -> None:
    camera = SimulatedRealSense("front", live.shared_memory, WIDTH, HEIGHT, FPS)
    camera.start()
    try:
        pictures = []
        for seed in (1, 2):
            live.control.reset("box_to_plate", "box", seed)
            asked = time.time()
            while (frame := camera.wait_for_frame(2.0))[1] < asked + 0.2:
                pass
            pictures.append(frame[0].astype(np.int16))
    finally:
        camera.stop()
    assert np.abs(pictures[0] - pictures[1]).mean() > 1.0


def test_frames_stop_when_the_simulator_dies_and_return_with_it() -> None:
    with LiveProcess() as mortal:
        camera = SimulatedRealSense("wrist", mortal.shared_memory, WIDTH, HEIGHT, FPS)
        camera.start()
        try:
            camera.wait_for_frame(2.0)
            mortal.process.kill()
            mortal.process.wait()
            with pytest.raises(CameraError, match="no new states"):
                for _ in range(10):
                    camera.wait_for_frame(0.5)
        finally:
            camera.stop()
        # A killed process cannot remove its block; the next one of that name takes it over.
        from simulation.shared_state import StateWriter

        StateWriter(mortal.shared_memory, 1, 1).close()


def test_without_a_simulation_it_does_not_start() -> None:
    camera = SimulatedRealSense("front", "roboalign_test_nobody", WIDTH, HEIGHT, FPS)
    with pytest.raises(CameraError, match="is the simulation running"):
        camera.start()


def test_a_missing_opengl_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(CameraError, match="apt-get install libosmesa6"):
        check_rendering_library()


@pytest.mark.parametrize(
    ("name", "profile"), [("rear", (320, 240, 15)), ("front", (0, 240, 15)), ("front", (1, 1, 0))]
)
def test_bad_profiles_and_names_are_refused(name: str, profile: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"unknown camera|must be positive"):
        SimulatedRealSense(name, "x", *profile)


@pytest.mark.parametrize("name", CAMERAS)
def test_intrinsics_match_the_field_of_view(name: str) -> None:
    intrinsics = SimulatedRealSense(name, "x", WIDTH, HEIGHT, FPS).intrinsics()
    fovy = 2 * np.arctan(HEIGHT / 2 / intrinsics.fy)
    assert np.rad2deg(fovy) == pytest.approx(CAMERAS[name].fovy)
    assert (intrinsics.cx, intrinsics.cy) == (159.5, 119.5)
