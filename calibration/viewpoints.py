"""Where the arm should stand: many-sided views of the board, all reachable and seen whole.

Candidates are drawn in the camera's view; the arm's kinematics, its workspace and the table rule
most of them out. Of the rest those are taken that tell most about the unknown poses (D-optimal
design: the determinant of the information matrix, greedily), and the way from each to the next is
run through the same filter that limits the arm (`contracts.motion.PoseFollower`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibration import poses
from calibration.board import Board
from calibration.pinhole import Intrinsics, project
from contracts import geometry, kinematics
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.robot import FR3

PERIOD: Final = 0.01
"""Seconds between the waypoints of a way, as in the arm node: the filter also moves the elbow a bit
towards its home at each step, so another period would end in other joints."""
SPEED: Final = (0.20, 0.70)
"""Mean speed [m/s, rad/s] between viewpoints; the greatest is half as much again."""
JOINT_SPEED: Final = 1.5
"""Greatest speed [rad/s] of a joint on a way. Near a singular posture joints turn against each
other much faster, and impedance control then swings."""
ARRIVED: Final = (1e-3, 4e-3)
"""Metres and radians from a viewpoint within which the arm has arrived; views use where it is."""
SETTLING: Final = 0.5
"""Seconds that the filter may still need after the last waypoint."""
PIXEL_MARGIN: Final = 25.0
MOST_TRIES: Final = 2
MOST_DRAWS: Final = 3
"""Sets of candidates that are tried until the arm reaches enough of one."""
WORKSPACE_MARGIN: Final = 0.005
CLEARANCE: Final = 0.03
"""Height [m] over the table that board and hand keep."""
HAND_OUTLINE: Final = np.array(
    [[0.0, 0.105, 0.0], [0.0, -0.105, 0.0], [0.0, 0.105, 0.066], [0.0, -0.105, 0.066],
     [0.06, 0.0, 0.11], [-0.03, 0.0, 0.11], [0.12, 0.0, 0.03]]
)  # fmt: skip
"""Points [m] of the hand, its fingers and the wrist camera, in the hand's frame."""
SEED_JOINTS: Final = (
    FR3.home_joints - np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.pi / 2]),
    FR3.home_joints,
)
"""Where the inverse kinematics starts from: the hand turned either way."""
LARGEST_HAND_TURN: Final = 1.5
"""Greatest angle [rad] of the last joint: the shorter turn between any two views then leads through
the middle of its range, never into its stops."""


@dataclass(frozen=True)
class SetUp:
    """What is roughly known beforehand: a few centimetres and degrees are good enough.

    on_hand: whether the camera moves with the hand. camera_pose (7,): its optical frame in the
    hand or in the base; board_pose (7,): the board in the other one.
    """

    on_hand: bool
    camera_pose: Vector
    board_pose: Vector
    intrinsics: Intrinsics
    board: Board

    def board_in_camera(self, hand: Vector) -> Vector:
        """The board (4, 4) in the optical frame for a pose (4, 4) of the hand."""
        chain = poses.inverse(hand) if self.on_hand else hand
        camera, board = poses.to_matrix(self.camera_pose), poses.to_matrix(self.board_pose)
        return np.asarray(poses.inverse(camera) @ chain @ board)

    def hand_for(self, board_in_camera: Vector) -> Vector:
        """Inverse of `board_in_camera`."""
        camera, board = poses.to_matrix(self.camera_pose), poses.to_matrix(self.board_pose)
        chain = camera @ board_in_camera @ poses.inverse(board)
        return poses.inverse(chain) if self.on_hand else np.asarray(chain)


@dataclass(frozen=True)
class Variety:
    """What a view may be like: distance of the board [m], its greatest tilt [rad]."""

    distance: tuple[float, float]
    tilt: float = 0.85
    candidates: int = 90
    """Candidates to choose from."""
    most_draws: int = 20_000


VARIETIES: Final = {
    False: Variety(distance=(0.40, 1.1)),
    True: Variety(distance=(0.20, 0.60)),
}
"""By `on_hand`."""


def plan(
    set_up: SetUp, count: int, seed: int, variety: Variety | None = None, *, spare: int = 0
) -> list[Vector]:
    """End-effector poses (7,) of `count` views, in an order with short ways, from the home pose.

    Up to `spare` more, where they can be reached, for views that turn out useless.

    Raises:
        ValueError: the arm reaches too few views of the board.
    """
    route: list[Vector] = []
    for draw in range(MOST_DRAWS):
        rng = np.random.default_rng([seed, 23 + draw])
        candidates = _candidates(set_up, variety or VARIETIES[set_up.on_hand], rng)
        ranked = [
            poses.end_effector_of(poses.to_pose(hand)) for hand in _most_telling(set_up, candidates)
        ]
        route = max(route, _safe_route(ranked, count + spare), key=len)
        if len(route) >= count:
            break
    if len(route) < count:
        raise ValueError(
            f"only {len(route)} of {count} views of the board can be reached safely: bring the "
            "board nearer to the middle of the picture, or guide the arm by hand"
        )
    return route


def way(start: Vector, goal: Vector) -> list[Vector]:
    """End-effector waypoints (7,), one a PERIOD, straight from `start` to `goal` (7,), softly."""
    change = kinematics.pose_error(goal, start)
    metres, radians = np.linalg.norm(change[:3]), np.linalg.norm(change[3:])
    seconds = max(float(metres) / SPEED[0], float(radians) / SPEED[1], PERIOD)
    shares = np.linspace(0.0, 1.0, 1 + int(np.ceil(seconds / PERIOD)))[1:]
    return [geometry.interpolate(start, goal, s * s * (3.0 - 2.0 * s)) for s in shares.tolist()]


def travel(follower: PoseFollower, goal: Vector) -> float | None:
    """Seconds until `follower` stands still at the end-effector pose (7,).

    None if the filter changes a waypoint, a joint goes faster than JOINT_SPEED, or it does not
    arrive.
    """
    waypoints = way(follower.pose, goal)
    waypoints += [goal] * round(SETTLING / PERIOD)
    for waypoint in waypoints:
        setpoint = follower.step(waypoint)
        if setpoint.limited or float(np.abs(setpoint.velocity).max()) > JOINT_SPEED:
            return None
    steps = len(waypoints)
    while np.any(follower.hold().velocity):
        steps += 1
    error = kinematics.pose_error(goal, follower.pose)
    if np.linalg.norm(error[:3]) > ARRIVED[0] or np.linalg.norm(error[3:]) > ARRIVED[1]:
        return None
    return steps * PERIOD


def _candidates(set_up: SetUp, variety: Variety, rng: np.random.Generator) -> list[Vector]:
    """Poses (4, 4) of the hand from which the camera sees the whole board."""
    found: list[Vector] = []
    for _ in range(variety.most_draws):
        if len(found) == variety.candidates:
            break
        view = _drawn_view(set_up, variety, rng)
        if not _seen_well(set_up, view, variety):
            continue
        hand = set_up.hand_for(view)
        if _clear(set_up, hand) and _reachable(hand):
            found.append(hand)
    return found


def _drawn_view(set_up: SetUp, variety: Variety, rng: np.random.Generator) -> Vector:
    """A board (4, 4) in the optical frame: place in the picture, distance, tilt and turn."""
    camera = set_up.intrinsics
    column, row = rng.uniform((0.0, 0.0), (camera.width, camera.height))
    ray = np.array([(column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy, 1.0])
    place = rng.uniform(*variety.distance) * ray / np.linalg.norm(ray)
    direction, tilt, roll = rng.uniform(-np.pi, np.pi), rng.uniform(0, variety.tilt), rng.random()
    lean = tilt * np.array([np.cos(direction), np.sin(direction), 0.0])
    turn = np.array([0.0, 0.0, 2.0 * np.pi * roll])
    view = np.eye(4)
    view[:3, :3] = geometry.to_matrix(
        geometry.multiply(geometry.from_rotation_vector(lean), geometry.from_rotation_vector(turn))
    )
    view[:3, 3] = place - view[:3, :3] @ set_up.board.centre
    return view


def _seen_well(set_up: SetUp, view: Vector, variety: Variety) -> bool:
    """Whether the board (4, 4) in the optical frame faces the camera, whole and not too far."""
    centre = view[:3, :3] @ set_up.board.centre + view[:3, 3]
    distance = float(np.linalg.norm(centre))
    if not variety.distance[0] < distance < variety.distance[1] or centre[2] <= 0.0:
        return False
    if view[:3, 2] @ centre < np.cos(variety.tilt) * distance:
        return False
    pixels = project(set_up.board.outline @ view[:3, :3].T + view[:3, 3], set_up.intrinsics)
    size = (set_up.intrinsics.width, set_up.intrinsics.height)
    return bool(np.all(pixels > PIXEL_MARGIN) and np.all(pixels < np.subtract(size, PIXEL_MARGIN)))


def _clear(set_up: SetUp, hand: Vector) -> bool:
    """Whether the hand and the board in it keep above the table."""
    points = HAND_OUTLINE @ hand[:3, :3].T + hand[:3, 3]
    lowest = float(points[:, 2].min())
    if not set_up.on_hand:
        board = hand @ poses.to_matrix(set_up.board_pose)
        lowest = min(
            lowest, float((set_up.board.outline @ board[:3, :3].T + board[:3, 3])[:, 2].min())
        )
    return lowest > CLEARANCE


def _reachable(hand: Vector) -> bool:
    """Whether the workspace and the joints' limits allow the hand's pose (4, 4)."""
    goal = poses.end_effector_of(poses.to_pose(hand))
    if np.any(goal[:3] < FR3.workspace_lower + WORKSPACE_MARGIN) or np.any(
        goal[:3] > FR3.workspace_upper - WORKSPACE_MARGIN
    ):
        return False
    for seed in SEED_JOINTS:
        with contextlib.suppress(ValueError):  # the other seed may still lead there
            joints = kinematics.inverse(goal, seed, iterations=40)
            if FR3.joints_within_limits(joints) and abs(joints[6]) < LARGEST_HAND_TURN:
                return True
    return False


def _most_telling(set_up: SetUp, candidates: list[Vector]) -> list[Vector]:
    """The candidates in the order in which they add most to what is known, greedily."""
    blocks = [_information(set_up, hand) for hand in candidates]
    total = 1e-3 * np.eye(16)
    left = list(range(len(candidates)))
    chosen: list[Vector] = []
    while left:
        gains = [np.linalg.slogdet(total + blocks[i])[1] for i in left]
        best = left.pop(int(np.argmax(gains)))
        total = total + blocks[best]
        chosen.append(candidates[best])
    return chosen


def _information(set_up: SetUp, hand: Vector) -> Vector:
    """Information (16, 16) of one view on camera and board pose, and focal lengths and centre.

    Units are pixels, decimetres, and tenths of a radian, so that no unknown drowns the others.
    """
    view = set_up.board_in_camera(hand)
    points = set_up.board.corners @ view[:3, :3].T + view[:3, 3]
    chain = poses.inverse(hand) if set_up.on_hand else hand
    turn = poses.inverse(poses.to_matrix(set_up.camera_pose))[:3, :3]
    board_turn = turn @ chain[:3, :3] @ poses.to_matrix(set_up.board_pose)[:3, :3]
    camera = set_up.intrinsics
    rows = []
    for place, point in zip(points, set_up.board.corners, strict=True):
        x, y, z = place
        by_place = np.array(
            [
                [camera.fx / z, 0.0, -camera.fx * x / z**2],
                [0.0, camera.fy / z, -camera.fy * y / z**2],
            ]
        )
        camera_part = np.hstack([-np.eye(3), _cross(place)])
        board_part = np.hstack([board_turn, -board_turn @ _cross(point)])
        inner = np.array([[x / z, 0.0, 1.0, 0.0], [0.0, y / z, 0.0, 1.0]])
        rows.append(np.hstack([0.1 * by_place @ camera_part, 0.1 * by_place @ board_part, inner]))
    jacobian = np.vstack(rows)
    return np.asarray(jacobian.T @ jacobian)


def _cross(v: Vector) -> Vector:
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def _safe_route(ranked: list[Vector], count: int) -> list[Vector]:
    """The best `count` goals to which the filter finds ways, from near to near.

    A goal that MOST_TRIES others do not lead to gives its place to the next in rank, and so does
    one from which no way leads on.
    """
    follower = PoseFollower(FR3.home_joints, PERIOD)
    left, spare = list(range(len(ranked)))[:count], list(range(len(ranked)))[count:]
    tries: Counter[int] = Counter()
    route: list[tuple[Vector, Vector]] = []
    """Each goal, and the joints from which the arm went there."""
    failed: set[int] = set()
    """Goals to which no way leads from where the arm stands."""
    while left:
        open_goals = [i for i in left if i not in failed]
        if not open_goals and not route:
            break
        if not open_goals:
            _, joints = route.pop()
            follower.reset(joints)
            tries.subtract(failed)
            failed.clear()
            left, spare = left + spare[:1], spare[1:]
            continue
        # Those that failed before come last.
        nearest = min(open_goals, key=lambda i: (tries[i], _distance(follower.pose, ranked[i])))
        joints = follower.joints
        if travel(follower, ranked[nearest]) is not None:
            route.append((ranked[nearest], joints))
            left.remove(nearest)
            failed.clear()
            continue
        follower.reset(joints)
        failed.add(nearest)
        tries[nearest] += 1
        if tries[nearest] == MOST_TRIES:
            left.remove(nearest)
            failed.discard(nearest)
            left, spare = left + spare[:1], spare[1:]
    return [goal for goal, _ in route]


def _distance(a: Vector, b: Vector) -> float:
    change = kinematics.pose_error(b, a)
    return float(np.linalg.norm(change[:3]) / SPEED[0] + np.linalg.norm(change[3:]) / SPEED[1])
