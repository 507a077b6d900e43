"""A live set-up as a source of views: arm and camera of a real robot, or of a simulated one.

Without an address the simulated set-up is started, and ended with the block: a libfranka server at
1 kHz as a process of its own, and a RealSense software device in this one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from calibration.board import Board
from calibration.detection import CaptureError
from calibration.live_arm import LiveArm
from calibration.live_camera import LiveCamera, RealSenseCamera, SimulatedCamera
from calibration.pinhole import Intrinsics
from calibration.source import MotionError, Shot
from contracts.geometry import Vector

if TYPE_CHECKING:
    import mujoco

    from simulation.live_process import LiveProcess

SIMULATED_ROBOT: Final = "simulated-fr3"
DRAWING_PIXELS: Final = 112
"""Pixels a square of the board's drawing; more than any picture resolves."""
LARGEST_SKEW: Final = 1.0
"""Seconds that the stamps of a picture and of a robot state, asked for together, may differ."""
FRESH_TIMEOUT: Final = 15.0


@dataclass(frozen=True)
class Bump:
    """For a rehearsal of the check: the simulated camera moved along its axes [m], turned [rad]."""

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)


class LiveSource:
    """Arm and one camera; implements `ViewSource`. The caller owns both."""

    def __init__(
        self,
        camera_name: str,
        robot: str,
        arm: LiveArm,
        camera: LiveCamera,
        simulation: LiveProcess | None = None,
    ) -> None:
        """`simulation` is None on a real robot."""
        self.camera, self.robot, self.serial = camera_name, robot, camera.serial
        self.arm, self.live_camera, self.simulation = arm, camera, simulation

    @property
    def factory(self) -> Intrinsics | None:
        return self.live_camera.factory

    def move_to(self, pose: Vector) -> None:
        """Move the end effector to `pose` (7,) and stand still. Raises MotionError."""
        self.arm.move_to(pose)

    def take(self) -> Shot:
        """A picture of the arm as it stands now.

        Raises:
            CaptureError: no picture, or the clocks of camera and robot are apart.
            MotionError: no robot state, or one that is not finite.
        """
        asked = time.time()
        deadline = time.monotonic() + FRESH_TIMEOUT
        frame = self.live_camera.read()
        # Frames under way show the arm before it stood still.
        while frame.stamp < asked and time.monotonic() < deadline:
            frame = self.live_camera.read()
        reading = self.arm.read()
        skew = frame.stamp - reading.stamp
        if frame.stamp < asked or abs(skew) > LARGEST_SKEW:
            raise CaptureError(
                f"the clocks of robot and camera are apart: the picture's stamp is {skew:+.1f} s "
                "from the robot state's; set both by the same time server"
            )
        return Shot(frame.image, frame.stamp, reading.pose, reading.stamp)

    def close(self) -> None:
        """Arm and camera belong to who opened them."""


@contextmanager
def open_live(
    camera: str, board: Board, address: str = "", serial: str = "", bump: Bump | None = None
) -> Iterator[LiveSource]:
    """The set-up with the robot at `address`, or a simulated one where that is empty.

    The arm moves to its home pose.

    Raises:
        MotionError: the robot, or its simulation, does not answer.
        CaptureError: the camera does not start.
    """
    with ExitStack() as stack:
        if address:
            robot, hostname, simulation = address, address, None
            eye: LiveCamera = RealSenseCamera(serial)
        else:
            simulation, eye = _start_simulation(stack, camera, board, bump or Bump())
            robot, hostname = SIMULATED_ROBOT, simulation.hostname
        stack.callback(eye.close)
        arm = stack.enter_context(LiveArm(hostname))
        arm.home()  # the planned ways begin there
        yield LiveSource(camera, robot, arm, eye, simulation)


def _start_simulation(
    stack: ExitStack, camera: str, board: Board, bump: Bump
) -> tuple[LiveProcess, SimulatedCamera]:
    """A simulation that ends with `stack`, and a camera that sees it."""
    # Imported here: a robot PC has no simulator installed.
    from simulation.live_process import LiveProcess, LiveProcessError

    try:
        process = stack.enter_context(LiveProcess())
    except LiveProcessError as error:
        raise MotionError(str(error)) from error
    try:
        eye = SimulatedCamera(
            camera, process.shared_memory, lambda: bumped_model(camera, board, bump)
        )
    except ValueError as error:
        raise CaptureError(str(error)) from error
    return process, eye


def bumped_model(camera: str, board: Board, bump: Bump) -> mujoco.MjModel:
    """The simulated world with the board in its drawn place, and the camera bumped."""
    import dataclasses

    import numpy as np

    from calibration import poses
    from simulation.calibration_board import board_model, drawn_truth, place

    size = (board.width, board.height)
    model = board_model(camera, board.drawing(DRAWING_PIXELS), size)
    truth = drawn_truth(camera, size)
    change = np.array([*bump.shift, *bump.turn])
    moved = poses.to_pose(poses.moved(poses.to_matrix(truth.camera_pose), change))
    place(model, camera, dataclasses.replace(truth, camera_pose=moved))
    return model
