"""A live set-up as a source of views: clocks, fresh pictures, numbers that are none."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from calibration import live_link
from calibration.board import Board
from calibration.detection import CaptureError, detect
from calibration.live_arm import ArmReading
from calibration.live_camera import Frame
from calibration.live_link import Bump, LiveSource, bumped_model, open_live
from calibration.source import MotionError
from contracts.geometry import Vector
from simulation.cameras import CAMERAS

POSE = np.array([0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0])


class FakeArm:
    """Stands at POSE; its clock is `ahead` seconds ahead."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def read(self) -> ArmReading:
        return ArmReading(POSE, np.zeros(7), np.zeros(7), time.time() + self.ahead, 0.0)


class FakeCamera:
    """A picture at each call, numbered by its grey; stamped by `clock`."""

    serial, factory = "1", None

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.count = clock, 0

    def read(self) -> Frame:
        self.count += 1
        return Frame(np.full((2, 2, 3), self.count % 256, np.uint8), self.clock())

    def close(self) -> None:
        pass


def source(arm: FakeArm, camera: FakeCamera) -> LiveSource:
    return LiveSource("front", "fr3", arm, camera)  # type: ignore[arg-type]


def test_pictures_from_before_the_arm_stood_still_are_left_out() -> None:
    old = iter([time.time() - 0.2, time.time() - 0.1])
    camera = FakeCamera(lambda: next(old, time.time()))
    shot = source(FakeArm(), camera).take()
    assert camera.count == 3 and shot.image[0, 0, 0] == 3
    assert shot.stamp <= time.time()
    np.testing.assert_array_equal(shot.pose, POSE)


@pytest.mark.parametrize(
    ("robot_ahead", "camera_ahead"), [(-30.0, 0.0), (30.0, 0.0), (0.0, 30.0), (0.0, -30.0)]
)
def test_clocks_that_are_apart_are_named(
    robot_ahead: float, camera_ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_link, "FRESH_TIMEOUT", 0.01)
    camera = FakeCamera(lambda: time.time() + camera_ahead)
    with pytest.raises(CaptureError, match="clocks of robot and camera are apart"):
        source(FakeArm(robot_ahead), camera).take()


def camera_place(bump: Bump) -> Vector:
    model = bumped_model("front", Board(), bump)
    return np.asarray(model.cam_pos[model.camera("front").id])


def test_a_rehearsal_moves_the_camera_and_nothing_else() -> None:
    difference = camera_place(Bump(shift=(0.004, 0.0, 0.0))) - camera_place(Bump())
    np.testing.assert_allclose(difference, [0.004, 0.0, 0.0], atol=1e-9)


def test_nobody_at_the_address_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_link, "RealSenseCamera", lambda serial: FakeCamera(time.time))
    with (
        pytest.raises(MotionError, match=r"cannot connect to the arm at 127\.0\.91\.7"),
        open_live("front", Board(), address="127.0.91.7"),
    ):
        pass


@pytest.mark.slow
def test_the_simulated_set_up_shows_the_board_and_leaves_nothing() -> None:
    with open_live("wrist", Board()) as live:
        assert live.serial == CAMERAS["wrist"].serial
        process = live.simulation
        assert process is not None
        shot = live.take()
        live.arm.move_to(shot.pose + np.array([0.0, 0.0, 0.02, 0, 0, 0, 0]))
        later = live.take()
    assert later.pose[2] - shot.pose[2] == pytest.approx(0.02, abs=0.005)
    assert len(detect(later.image, Board())) >= 8
    assert process.process.poll() is not None
