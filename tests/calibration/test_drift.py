"""Whether a camera moved: caught, passed, or "cannot tell", from corners projected with noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration import poses
from calibration.board import Board
from calibration.detection import Detection
from calibration.drift import (
    Drift,
    DriftError,
    DriftLimits,
    DriftView,
    Verdict,
    board_pixels,
    measure_drift,
)
from contracts import geometry
from contracts.calibration import CameraCalibration
from contracts.geometry import Vector

BOARD = Board()
DOWN = [1.0, 0.0, 0.0, 0.0]
NOISE_PX = 0.12
LIMITS = DriftLimits()


def camera(frame: str) -> CameraCalibration:
    """A camera before the table that sees a board in the hand, or one on the hand above a board."""
    pose = (
        [1.1, 0.0, 0.5, *look([-1.0, 0.0, -0.25])] if frame == "base" else [0.07, 0, 0, 0, 0, 0, 1]
    )
    board = (
        [-0.126, 0.05, 0.11, *look([0.0, 1.0, 0.0])] if frame == "base" else [0.37, 0.09, 0, *DOWN]
    )
    return CameraCalibration(
        name="front" if frame == "base" else "wrist",
        serial="1",
        width=640,
        height=480,
        fx=600.0,
        fy=600.0,
        cx=319.5,
        cy=239.5,
        distortion=(0.02, -0.01, 0.001, 0.0, 0.0),
        frame=frame,
        pose=np.array(pose),
        residual_px=0.2,
        standard_errors=(0.0003,) * 3 + (0.0004,) * 3,
        board_pose=np.array(board, dtype=float),
    )


def look(forward: list[float]) -> list[float]:
    """Quaternion of a frame whose z points `forward` and whose x is level."""
    z = np.array(forward) / np.linalg.norm(forward)
    x = np.cross([0.0, 0.0, -1.0], z)
    x /= np.linalg.norm(x)
    return list(geometry.from_matrix(np.stack([x, np.cross(z, x), z], axis=1)))


def hands(frame: str, count: int, seed: int) -> list[Vector]:
    """Poses of the hand from which the board is seen."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for _ in range(count):
        turn = geometry.from_rotation_vector(rng.uniform(-0.35, 0.35, 3))
        # For the front camera the board faces it: the hand points down and is turned towards it.
        upright = (
            geometry.multiply(geometry.from_rotation_vector([0.0, 0.0, np.pi / 2]), DOWN)
            if frame == "base"
            else DOWN
        )
        place = [0.45, 0.0, 0.45] if frame == "base" else [0.43, 0.0, 0.40]
        position = np.array(place) + rng.uniform(-0.06, 0.06, 3)
        found.append(np.concatenate([position, geometry.multiply(turn, upright)]))
    return found


def views(
    truth: CameraCalibration, seed: int, count: int = 6, noise: float = NOISE_PX
) -> list[DriftView]:
    """What a camera with the pose and board of `truth` sees."""
    rng = np.random.default_rng([seed, 2])
    ids = np.arange(len(BOARD.corners))
    taken = []
    for hand in hands(truth.frame, count, seed):
        pixels = board_pixels(hand, truth, BOARD.corners)
        assert np.isfinite(pixels).all()
        taken.append(
            DriftView(hand, Detection(ids, pixels + rng.normal(0, noise, pixels.shape), 1.0))
        )
    return taken


def moved(entry: CameraCalibration, shift: Vector, turn: Vector) -> CameraCalibration:
    matrix = poses.moved(poses.to_matrix(entry.pose), np.concatenate([shift, turn]))
    return replace(entry, pose=poses.to_pose(matrix))


def direction(seed: int) -> Vector:
    vector = np.random.default_rng([seed, 3]).standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector))


def check(frame: str, mm: float, deg: float, seed: int) -> Drift:
    """Check a camera that was calibrated with its usual errors and then moved."""
    truth = camera(frame)
    rng = np.random.default_rng([seed, 4])
    errors = rng.normal(0.0, truth.standard_errors or 0.0)
    calibrated = moved(truth, errors[:3], errors[3:])
    now = moved(truth, 1e-3 * mm * direction(seed), np.deg2rad(deg) * direction(seed + 1000))
    return measure_drift(views(now, seed), calibrated, BOARD)


@pytest.mark.parametrize("frame", ["base", "hand"])
def test_a_moved_camera_is_caught_and_an_unmoved_one_passes(frame: str) -> None:
    caught = sum(check(frame, 4.0, 0.0, seed).refused for seed in range(20))
    refused = sum(check(frame, 0.0, 0.0, seed).refused for seed in range(20))
    assert caught >= 19
    assert refused <= 1


@pytest.mark.parametrize("frame", ["base", "hand"])
def test_a_turned_camera_is_caught(frame: str) -> None:
    for seed in range(3):
        drift = check(frame, 0.0, 0.5, seed)
        assert drift.verdict == Verdict.MOVED
        assert drift.deg == pytest.approx(0.5, abs=0.12)


def test_the_new_pose_is_the_true_one() -> None:
    truth = camera("base")
    now = moved(truth, np.array([0.004, -0.002, 0.001]), np.array([0.0, 0.003, 0.0]))
    drift = measure_drift(views(now, 1), truth, BOARD)
    mm, deg = poses.apart(drift.pose, now.pose)
    assert mm < 0.4 and deg < 0.04
    assert drift.after_px < 2 * NOISE_PX < drift.before_px
    assert "has moved: 4." in drift.sentence and "Calibrate it again" in drift.sentence


def test_what_cannot_be_shown_is_refused() -> None:
    truth = replace(camera("base"), standard_errors=(0.002,) * 3 + (0.0005,) * 3)
    drift = measure_drift(views(truth, 1), truth, BOARD)
    assert drift.mm < 1.0
    assert drift.verdict == Verdict.UNCLEAR and drift.refused
    assert "cannot show" in drift.sentence


def test_more_noise_makes_a_wider_margin() -> None:
    truth = camera("base")
    quiet = measure_drift(views(truth, 1), truth, BOARD)
    noisy = measure_drift(views(truth, 1, noise=0.8), truth, BOARD)
    assert noisy.margin_mm > 1.5 * quiet.margin_mm


def test_a_board_that_slipped_in_its_mount_is_told_from_a_moved_camera() -> None:
    truth = camera("base")
    slipped = np.array(truth.board_pose) + [0.0008, 0, 0, 0, 0, 0, 0]
    drift = measure_drift(views(replace(truth, board_pose=slipped), 1), truth, BOARD)
    assert drift.verdict == Verdict.IN_PLACE
    assert drift.board_mm == pytest.approx(0.8, abs=0.4)


def nan_pose(taken: list[DriftView]) -> list[DriftView]:
    return [replace(taken[0], hand=np.full(7, np.nan)), *taken[1:]]


def few_corners(taken: list[DriftView]) -> list[DriftView]:
    return [
        replace(v, detection=Detection(v.detection.ids[:4], v.detection.corners[:4], 1.0))
        for v in taken
    ]


def scrambled(taken: list[DriftView]) -> list[DriftView]:
    """Corners of another board: their numbers do not fit."""
    return [
        replace(v, detection=Detection(v.detection.ids[::-1].copy(), v.detection.corners, 1.0))
        for v in taken
    ]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (nan_pose, r"view 1: hand pose.*not finite"),
        (lambda taken: taken[:3], "seen in 3 of 3 views, at least 4"),
        (few_corners, "seen in 0 of 6 views"),
        (scrambled, "no camera pose explains|behind the camera"),
        (lambda taken: [], "seen in 0 of 0 views"),
    ],
)
def test_views_that_tell_nothing_are_refused(spoil, why: str) -> None:  # type: ignore[no-untyped-def]
    truth = camera("base")
    with pytest.raises(DriftError, match=why):
        measure_drift(spoil(views(truth, 1)), truth, BOARD)


def test_a_calibration_without_its_board_cannot_be_checked() -> None:
    truth = camera("base")
    with pytest.raises(DriftError, match="does not say where the board was"):
        measure_drift(views(truth, 1), replace(truth, board_pose=None), BOARD)


def test_another_set_ups_calibration_is_noticed() -> None:
    truth = camera("base")
    turned = moved(truth, np.zeros(3), np.array([0.0, 0.0, np.pi]))
    with pytest.raises(DriftError, match="behind the camera"):
        measure_drift(views(truth, 1), turned, BOARD)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="mm must be positive"):
        DriftLimits(mm=0.0)
