"""Detection: corners to a tenth of a pixel, and a reason for every picture without them."""

from __future__ import annotations

import numpy as np
import pytest
from made_views import BOARD, CAMERA, board_in_camera, picture

from calibration import poses
from calibration.board import Board
from calibration.detection import CaptureError, board_pose, detect
from calibration.pinhole import project

LARGER = Board(columns=9, rows=7, square=0.028, marker=0.021)


def view(seed: int = 1) -> np.ndarray:
    return board_in_camera(np.random.default_rng(seed), tilt=0.5)


@pytest.mark.parametrize("seed", range(3))
def test_corners_are_found_where_they_are(seed: int) -> None:
    seen = view(seed)
    found = detect(picture(seen), BOARD)
    points = BOARD.corners[found.ids]
    error = found.corners - project(points @ seen[:3, :3].T + seen[:3, 3], CAMERA)
    assert len(found) >= 20
    assert np.sqrt((error**2).mean()) < 0.15
    # A wrong convention for pixel centres would shift all of them by half a pixel.
    assert np.abs(error.mean(axis=0)).max() < 0.08


@pytest.mark.parametrize("seed", range(3))
def test_the_board_s_pose_is_found(seed: int) -> None:
    seen = view(seed)
    pose, rms = board_pose(detect(picture(seen), BOARD), BOARD, CAMERA)
    mm, degrees = poses.apart(pose, poses.to_pose(seen))
    assert mm < 3.0 and degrees < 0.6
    assert rms < 0.4


def test_half_a_board_will_do() -> None:
    seen = view()
    image = picture(seen)
    middle = project(seen[:3, :3] @ BOARD.centre + seen[:3, 3], CAMERA)
    image[:, int(middle[0]) :] = 110
    assert 8 <= len(detect(image, BOARD)) < 24


@pytest.mark.parametrize(
    ("image", "board", "message"),
    [
        (np.full((480, 640, 3), 90, np.uint8), BOARD, "no board in the picture"),
        (picture(view(), mirrored=True), BOARD, "mirrored"),
        (picture(view()), Board(dictionary="DICT_6X6_250"), "of DICT_5X5_100, this board's"),
        (picture(view(), LARGER), BOARD, "wrong board"),
        (picture(view()), Board(columns=5, rows=7), "wrong board"),
        (picture(view(), blur=1.6), BOARD, "the picture is blurred: edges are"),
        (picture(view(), blur=2.2), BOARD, "the picture is blurred: edges are"),
        (picture(view(), blur=5.0), BOARD, "the picture is blurred: edges are"),
    ],
    ids=[
        "nothing",
        "mirrored",
        "dictionary",
        "larger",
        "other layout",
        "soft",
        "softer",
        "fog",
    ],
)
def test_every_bad_picture_has_its_own_reason(
    image: np.ndarray, board: Board, message: str
) -> None:
    with pytest.raises(CaptureError, match=message):
        detect(image, board)


def test_a_corner_of_the_board_is_too_little() -> None:
    seen = view()
    image = picture(seen)
    centre = project(BOARD.corners[9] @ seen[:3, :3].T + seen[:3, 3], CAMERA)
    image[:, int(centre[0]) :] = 110
    image[int(centre[1]) :] = 110
    with pytest.raises(CaptureError, match=r"only \d corners of the board"):
        detect(image, BOARD)


def test_blur_is_measured_in_pixels() -> None:
    seen = view()
    near = np.array(seen)
    near[:3, 3] *= 0.6
    sharp, soft = (detect(picture(near, blur=blur), BOARD).blur for blur in (0.5, 1.3))
    assert soft - sharp == pytest.approx(0.7, abs=0.35)
