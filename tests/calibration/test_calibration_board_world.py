"""The simulated board: it looks as its geometry says, and the world keeps its layout."""

from __future__ import annotations

import numpy as np
import pytest

from calibration import poses
from calibration.board import Board
from calibration.detection import detect
from calibration.fast_source import FastSource, board_world, true_intrinsics
from calibration.pinhole import project
from contracts import kinematics
from contracts.robot import FR3
from simulation import world
from simulation.calibration_board import board_model, drawn_truth, sample_truth

BOARD = Board()
SIZE = (BOARD.width, BOARD.height)
JOINTS = {
    "front": np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.4, -0.785]),
    "wrist": np.array([0.0, -0.035, 0.0, -1.923, 0.0, 1.888, 0.785]),
}


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_pictures_show_the_board_where_the_truth_says(camera: str) -> None:
    shown = board_world(camera, BOARD)
    try:
        shown.arrange(4)
        shown.set_joints(JOINTS[camera])
        image = shown.render()
        truth = shown.truth
    finally:
        shown.close()
    found = detect(image, BOARD)
    hand = poses.to_matrix(poses.hand_of(kinematics.forward(JOINTS[camera])))
    chain = poses.inverse(hand) if camera == "wrist" else hand
    c, b = poses.to_matrix(truth.camera_pose), poses.to_matrix(truth.board_pose)
    view = poses.inverse(c) @ chain @ b
    corners = BOARD.corners[found.ids] @ view[:3, :3].T + view[:3, 3]
    error = found.corners - project(corners, true_intrinsics(truth))
    assert len(found) >= 8
    assert np.abs(error.mean(axis=0)).max() < 0.12  # half a pixel off would show at once
    assert np.sqrt((error**2).mean()) < 0.25


def test_the_layout_is_that_of_the_world() -> None:
    plain, with_board = world.render_model(), board_model("front", BOARD.drawing(60), SIZE)
    assert (with_board.nq, with_board.nmocap) == (plain.nq, plain.nmocap)
    for joint in (*world.ARM_JOINTS, *world.FINGER_JOINTS):
        assert with_board.joint(joint).qposadr[0] == plain.joint(joint).qposadr[0]


def test_the_truth_belongs_to_the_seed() -> None:
    a, b, c = (sample_truth("wrist", SIZE, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.camera_pose, b.camera_pose)
    assert a.fx == b.fx != c.fx
    drawn = drawn_truth("wrist", SIZE)
    mm, degrees = poses.apart(a.camera_pose, drawn.camera_pose)
    assert 0.0 < mm < 10.0 and 0.0 < degrees < 5.0


def test_the_source_moves_measures_and_repeats_itself() -> None:
    shown = board_world("wrist", BOARD)
    try:
        shots = []
        for _ in range(2):
            source = FastSource("wrist", 6, BOARD, shown)
            source.move_to(kinematics.forward(FR3.home_joints))
            shots.append(source.take())
        np.testing.assert_array_equal(shots[0].image, shots[1].image)
        np.testing.assert_array_equal(shots[0].pose, shots[1].pose)
        mm, _ = poses.apart(shots[0].pose, kinematics.forward(FR3.home_joints))
        assert 0.0 < mm < 1.0
    finally:
        shown.close()


def test_an_unknown_camera_is_named() -> None:
    from simulation.calibration_board import BoardWorld

    with pytest.raises(ValueError, match="unknown camera 'left'"):
        BoardWorld("left", BOARD.drawing(60), SIZE)
