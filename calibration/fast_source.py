"""Views from the simulated world in process: rendered pictures, sensor noise, known truth."""

from __future__ import annotations

from typing import Final

import numpy as np

from calibration.board import Board
from calibration.pinhole import Intrinsics
from calibration.source import MotionError, Shot
from calibration.viewpoints import PERIOD, travel
from contracts import kinematics
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.robot import FR3
from simulation.calibration_board import HEIGHT, WIDTH, BoardTruth, BoardWorld
from simulation.cameras import CAMERAS

ROBOT: Final = "simulated-fr3"
JOINT_NOISE: Final = 5e-5
"""Standard deviation [rad] of a measured joint: it makes the 0.1 mm at the hand that the FR3's
datasheet gives as pose repeatability."""
DRAWING_PIXELS: Final = 168
"""A square of the drawing: the cells of its markers are then whole pixels."""


class FastSource:
    """A `ViewSource` of which the truth is known; `world` may be shared by sources in turn."""

    def __init__(self, camera: str, seed: int | None, board: Board, world: BoardWorld) -> None:
        """`seed` draws the truth and the noise; None leaves camera and board where drawn."""
        self.camera, self.robot, self.serial = camera, ROBOT, CAMERAS[camera].serial
        self.world = world
        world.arrange(seed)
        self._rng = np.random.default_rng([0 if seed is None else seed, 17])
        self._follower = PoseFollower(FR3.home_joints, PERIOD)
        self._time = 0.0
        self.factory: Intrinsics | None = true_intrinsics(world.truth)

    def move_to(self, pose: Vector) -> None:
        seconds = travel(self._follower, pose)
        if seconds is None:
            raise MotionError("the simulated arm does not reach the viewpoint within its limits")
        self._time += seconds
        self.world.set_joints(self._follower.joints)

    def take(self) -> Shot:
        self._time += 0.1
        measured = self._follower.joints + self._rng.normal(0.0, JOINT_NOISE, 7)
        pose = kinematics.forward(measured)
        return Shot(self.world.render(), self._time, pose, self._time)

    def close(self) -> None:
        """The world belongs to who made it."""


def board_world(camera: str, board: Board) -> BoardWorld:
    """The simulated world with this board printed true."""
    return BoardWorld(camera, board.drawing(DRAWING_PIXELS), (board.width, board.height))


def true_intrinsics(truth: BoardTruth) -> Intrinsics:
    return Intrinsics(WIDTH, HEIGHT, truth.fx, truth.fy, truth.cx, truth.cy)
