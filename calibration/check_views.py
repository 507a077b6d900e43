"""The views of a check: planned from the calibration itself, taken one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from calibration import poses, viewpoints
from calibration.board import Board
from calibration.detection import CaptureError, detect
from calibration.drift import DriftError, DriftView, known_board_pose
from calibration.live_arm import CALM_RAD_S
from calibration.live_link import Bump, open_live
from calibration.pinhole import Intrinsics
from calibration.source import ViewSource
from calibration.store import check_owner
from contracts.calibration import Calibration, CameraCalibration
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.robot import FR3

VIEWS: Final = 6
"""Poses a camera: what 20 seconds allow."""
CANDIDATES: Final = 40
"""Viewpoints to choose from: a check needs a good set, and soon."""
SPARE_VIEWS: Final = 6
PLAN_SEED: Final = 0
"""The same views at every check, so that checks can be compared."""


@dataclass(frozen=True)
class TakenView:
    """A picture (height, width, 3) uint8, the hand (7,), and the board in it or why it is not."""

    image: np.ndarray
    hand: Vector
    view: DriftView | None
    problem: str = ""


@contextmanager
def open_source(
    backend: str, camera: str, board: Board, address: str, serial: str, bump: Bump
) -> Iterator[ViewSource]:
    """The set-up to check: `fast` in process, `live` simulated, or the robot at `address`.

    Raises:
        MotionError, CaptureError: the robot or the camera does not answer.
    """
    if backend == "live":
        with open_live(camera, board, address, serial, bump) as live:
            yield live
        return
    # Imported here: a robot PC has no simulator installed.
    from calibration.fast_source import FastSource, board_world

    world = board_world(camera, board)
    try:
        source = FastSource(camera, None, board, world)
        change = np.array([*bump.shift, *bump.turn])
        moved = poses.moved(poses.to_matrix(world.truth.camera_pose), change)
        world.move(replace(world.truth, camera_pose=poses.to_pose(moved)))
        yield source
    finally:
        world.close()


def camera_of(calibration: Calibration, name: str) -> CameraCalibration:
    """The calibration of a camera. Raises DriftError: there is none of that name."""
    camera = calibration.cameras.get(name)
    if camera is None:
        known = ", ".join(sorted(calibration.cameras))
        raise DriftError(f"the calibration has no camera {name!r}, only {known}")
    return camera


def check_source(calibration: Calibration, source: ViewSource) -> None:
    """Raises DriftError: the calibration is of another robot, or of another camera."""
    try:
        check_owner(calibration, source.robot, source.camera, source.serial, None)
    except ValueError as error:
        raise DriftError(str(error)) from error


def plan_views(camera: CameraCalibration, board: Board, count: int) -> Sequence[Vector]:
    """End-effector poses (7,) from which the board is seen whole.

    Raises:
        DriftError: the calibration does not say where the board was, or no such poses.
    """
    on_hand = camera.frame == "hand"
    set_up = viewpoints.SetUp(
        on_hand, camera.pose, known_board_pose(camera), Intrinsics.of(camera), board
    )
    variety = replace(viewpoints.VARIETIES[on_hand], candidates=CANDIDATES)
    try:
        route = viewpoints.plan(set_up, count, PLAN_SEED, variety, spare=SPARE_VIEWS)
    except ValueError as error:
        raise DriftError(f"camera {camera.name}: {error}") from error
    calm = _calm_route(route)
    # Where there are too few, the arm slows down on the others (LiveArm.move_to).
    return (calm if len(calm) >= count else route)[:count]


def _calm_route(route: Sequence[Vector]) -> list[Vector]:
    """The poses that the arm can go to, one after the other, without a joint that hurries."""
    follower, kept = PoseFollower(FR3.home_joints, viewpoints.PERIOD), []
    for pose in route:
        before = follower.joints
        waypoints = viewpoints.way(follower.pose, pose)
        waypoints += [pose] * round(viewpoints.SETTLING / viewpoints.PERIOD)
        steps = [follower.step(waypoint) for waypoint in waypoints]
        if max(float(np.abs(step.velocity).max()) for step in steps) <= CALM_RAD_S:
            kept.append(pose)
        else:
            follower.reset(before)
    return kept


def take_views(
    source: ViewSource, board: Board, route: Sequence[Vector], tell: Callable[[int], None]
) -> list[TakenView]:
    """Visit the poses and look; `tell` hears how many are done.

    Raises:
        MotionError, CaptureError: the arm does not arrive, or the camera gives no picture.
    """
    views = []
    for number, pose in enumerate(route, 1):
        source.move_to(pose)
        shot = source.take()
        hand = poses.hand_of(shot.pose)
        try:
            found = detect(shot.image, board)
            views.append(TakenView(shot.image, hand, DriftView(hand, found)))
        except CaptureError as error:
            views.append(TakenView(shot.image, hand, None, str(error)))
        tell(number)
    return views
