"""The bench: its figures are what its runs say."""

from __future__ import annotations

import numpy as np
import pytest
from made_views import BOARD, CAMERA, made_views

from calibration import poses
from calibration.bench import Run, covered, summary
from calibration.solution import solve
from contracts.calibration import CameraCalibration


def run(camera: str, intrinsics: str, seed: int, mm: float, held: int) -> Run:
    found = CameraCalibration(
        camera, "1", 640, 480, 600.0, 600.0, 320.0, 240.0, (0.0,) * 5, "base",
        np.array([0, 0, 0, 0, 0, 0, 1.0]), 0.1,
    )  # fmt: skip
    flags = tuple(i < held for i in range(6))
    return Run(camera, intrinsics, seed, mm, mm / 10, flags, held == 6, found)


def test_figures_are_the_worse_camera_s_medians() -> None:
    runs = [
        run(camera, intrinsics, seed, mm, held)
        for camera, factor in (("front", 1.0), ("wrist", 2.0))
        for intrinsics, held in (("true_k", 6), ("estimated_k", 3))
        for seed, mm in enumerate((0.1 * factor, 0.2 * factor, 9.0))
    ]
    figures = summary(runs)
    assert figures["true_k_mm"] == pytest.approx(0.4)
    assert figures["true_k_deg"] == pytest.approx(0.04)
    assert figures["interval_coverage"] == pytest.approx(0.75)
    assert figures["region_coverage"] == pytest.approx(0.5)
    assert figures["details"]["true_k"]["front"]["worst_mm"] == 9.0


def test_intervals_are_judged_against_the_truth() -> None:
    views, truth = made_views(seed=3)
    solution = solve(views, BOARD, CAMERA)
    held, region = covered(solution, solution.camera_pose)
    assert all(held) and region
    far = poses.compose(truth, [0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    held, region = covered(solution, far)
    assert not all(held[:3]) and all(held[3:]) == all(covered(solution, truth)[0][3:])
    assert not region
