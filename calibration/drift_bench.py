"""How well a moved camera is caught, in rendered views with the sensor's noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from calibration import poses
from calibration.board import Board
from calibration.check_views import VIEWS, plan_views, take_views
from calibration.drift import Drift, measure_drift
from calibration.fast_source import FastSource
from contracts.calibration import CameraCalibration
from contracts.geometry import Vector
from simulation.calibration_board import BoardWorld

MOVED_M: Final = 0.004


def drift_trial(
    camera: CameraCalibration,
    board: Board,
    world: BoardWorld,
    seed: int,
    moved: float,
    route: Sequence[Vector],
) -> Drift:
    """Check a `camera` that was calibrated in the truth of `seed` and then moved by `moved` [m].

    `route` are the end-effector poses (7,) to look from.

    Raises:
        DriftError, MotionError: the check could not be made.
    """
    source = FastSource(camera.name, seed, board, world)
    direction = np.random.default_rng([seed, 29]).standard_normal(3)
    change = np.zeros(6)
    change[:3] = moved * direction / np.linalg.norm(direction)
    pose = poses.moved(poses.to_matrix(world.truth.camera_pose), change)
    world.move(replace(world.truth, camera_pose=poses.to_pose(pose)))
    views = take_views(source, board, route, lambda done: None)
    return measure_drift([view.view for view in views if view.view is not None], camera, board)


def drift_rates(
    found: Mapping[int, CameraCalibration], world: BoardWorld, board: Board
) -> tuple[int, int]:
    """How many moved cameras are caught, and how many unmoved ones refused.

    found: what calibration made of the camera in `world`, by the seed of the truth.
    """
    caught = refused = 0
    for seed, camera in found.items():
        route = plan_views(camera, board, VIEWS)
        caught += drift_trial(camera, board, world, seed, MOVED_M, route).refused
        refused += drift_trial(camera, board, world, seed, 0.0, route).refused
    return caught, refused
