"""The solution: it finds the camera, knows how well, and names what is wrong with the views."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_views import BOARD, CAMERA, FRONT_BOARD, WRIST_BOARD, made_views, with_hand_moved

from calibration import poses, refinement
from calibration.detection import CaptureError
from calibration.refinement import Estimate
from calibration.solution import solve
from calibration.solvers import SOLVERS


@pytest.mark.parametrize("camera", ["front", "wrist"])
@pytest.mark.parametrize("intrinsics", [CAMERA, None])
def test_finds_the_camera(camera: str, intrinsics: object) -> None:
    views, truth = made_views(camera, seed=3)
    solution = solve(views, BOARD, intrinsics)
    mm, degrees = poses.apart(solution.camera_pose, truth)
    limit = (0.3, 0.03) if intrinsics else (1.5, 0.15)
    assert mm < limit[0] and degrees < limit[1]
    assert solution.intrinsics.fx == pytest.approx(CAMERA.fx, rel=0.003)
    assert set(solution.solver_px) == set(SOLVERS)
    assert solution.solver_px[solution.solver] == min(solution.solver_px.values())
    assert set(solution.hold_out.px) == {view.number for view in views.views}
    # Held-out views see the corners' noise and the arm's, and hardly more.
    assert 0.08 < solution.hold_out.rms_px < 0.4
    assert not solution.outliers


def test_given_intrinsics_are_not_touched() -> None:
    views, _ = made_views(seed=4)
    assert solve(views, BOARD, CAMERA).intrinsics == CAMERA


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(camera: str) -> None:
    held = []
    for seed in range(10):
        views, truth = made_views(camera, seed, robot_noise=2e-4)
        observations = views.observations(BOARD)
        board = poses.to_matrix(WRIST_BOARD if camera == "wrist" else FRONT_BOARD)
        start = Estimate(poses.to_matrix(truth), board[None], CAMERA)
        refined = refinement.refine(observations, start, free_intrinsics=False)
        error = poses.change_between(poses.to_pose(refined.estimate.camera), truth)
        held.append(np.abs(error) <= refined.half_widths)
    share = np.mean(held)
    assert share >= 0.88  # 95 % wanted; 60 numbers
    # Intervals that hold everything because they are huge would be no better.
    assert refined.half_widths[:3].max() < 2e-3


def test_more_noise_makes_wider_intervals() -> None:
    widths = []
    for noise in (1e-4, 8e-4):
        views, truth = made_views(seed=1, count=12, robot_noise=noise)
        start = Estimate(poses.to_matrix(truth), poses.to_matrix(FRONT_BOARD)[None], CAMERA)
        refined = refinement.refine(views.observations(BOARD), start, free_intrinsics=False)
        widths.append(refined.half_widths.max())
    assert widths[1] > 3 * widths[0]


def test_an_outlier_is_named_and_left_out() -> None:
    views, truth = made_views(seed=5)
    spoiled = with_hand_moved(views, 7, np.array([0.02, 0.0, -0.01, 0.0, 0.0, 0.0]))
    solution = solve(spoiled, BOARD, CAMERA)
    assert list(solution.outliers) == [7]
    assert solution.outliers[7] > 5.0
    assert len(solution.views) == len(views) - 1 and len(solution.all_views) == len(views)
    assert poses.apart(solution.camera_pose, truth)[0] < 0.5


@pytest.mark.parametrize("spoiled", [8, 14])
def test_views_that_contradict_each_other_are_refused(spoiled: int) -> None:
    views, _ = made_views(seed=6)
    rng = np.random.default_rng(0)
    for number in rng.permutation(20)[:spoiled] + 1:
        views = with_hand_moved(views, int(number), rng.normal(0, 0.03, 6))
    with pytest.raises(CaptureError, match="contradict each other"):
        solve(views, BOARD, CAMERA)


@pytest.mark.parametrize("camera", ["front", "wrist"])
@pytest.mark.parametrize("first", [5, 12])
def test_a_board_that_moved_is_noticed(camera: str, first: int) -> None:
    views, _ = made_views(
        camera, seed=7, board_moves=(first, np.array([0.003, -0.002, 0.001, 0.0, 0.0, 0.004]))
    )
    with pytest.raises(CaptureError, match=f"moved between view {first} and view {first + 1}, by"):
        solve(views, BOARD, CAMERA)


@pytest.mark.parametrize("scale", [0.97, 1.01])
def test_a_mis_sized_print_is_noticed(scale: float) -> None:
    views, _ = made_views(seed=8, scale=scale)
    with pytest.raises(CaptureError, match=rf"mis-sized print: the board is {100 * scale:.1f} %"):
        solve(views, BOARD, CAMERA)


def test_the_true_size_solves_a_mis_sized_print() -> None:
    views, truth = made_views(seed=8, count=12, scale=0.97)
    solution = solve(views, BOARD.scaled(0.97), CAMERA)
    assert poses.apart(solution.camera_pose, truth)[0] < 0.5


def test_too_few_views() -> None:
    views, _ = made_views(count=9)
    with pytest.raises(CaptureError, match="too few views: 9"):
        solve(views, BOARD, CAMERA)


def test_parallel_views() -> None:
    views, _ = made_views(tilt=0.0, roll=1.0)
    with pytest.raises(CaptureError, match="parallel views"):
        solve(views, BOARD, CAMERA)


def test_intrinsics_of_another_stream_or_camera() -> None:
    views, _ = made_views(seed=9)
    other_size = dataclasses.replace(CAMERA, width=1280, height=720)
    with pytest.raises(CaptureError, match="for pictures of 1280 x 720, these are 640 x 480"):
        solve(views, BOARD, other_size)
    distorted = dataclasses.replace(CAMERA, distortion=(-0.9, 0.5, 0.0, 0.0, 0.0))
    with pytest.raises(CaptureError, match="another camera's"):
        solve(views, BOARD, distorted)
