"""Viewpoints: reachable through the arm's own filter, the board whole in view, and many-sided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration import poses, viewpoints
from calibration.board import Board
from calibration.pinhole import Intrinsics, project
from calibration.session import DRAWN
from calibration.store import read_calibration
from calibration.viewpoints import PERIOD, VARIETIES, SetUp, plan, travel
from contracts.motion import PoseFollower
from contracts.robot import FR3


def set_up(camera: str) -> SetUp:
    known = read_calibration(DRAWN).cameras[camera]
    assert known.board_pose is not None
    return SetUp(camera == "wrist", known.pose, known.board_pose, Intrinsics.of(known), Board())


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_every_viewpoint_is_reached_and_sees_the_whole_board(camera: str) -> None:
    what = set_up(camera)
    few = replace(VARIETIES[what.on_hand], candidates=14)
    route = plan(what, 4, seed=1, variety=few, spare=1)
    assert len(route) in (4, 5)
    follower = PoseFollower(FR3.home_joints, PERIOD)
    hands = []
    for goal in route:
        assert travel(follower, goal) is not None
        assert FR3.joints_within_limits(follower.joints)
        hand = poses.to_matrix(poses.hand_of(follower.pose))
        hands.append(hand)
        view = what.board_in_camera(hand)
        pixels = project(what.board.outline @ view[:3, :3].T + view[:3, 3], what.intrinsics)
        assert np.all(pixels > 0) and np.all(pixels < [640, 480])
        # Neither the hand nor the board in it comes near the table.
        assert (hand[:3, 3] + 0.1 * hand[:3, 2])[2] > 0.0
    axes = np.array([hand[:3, 2] for hand in hands])
    assert np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1))).max() > 20.0


def test_the_same_seed_gives_the_same_route() -> None:
    few = replace(VARIETIES[True], candidates=8)
    routes = [plan(set_up("wrist"), 2, seed, few) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(routes[0], routes[1])
    assert not np.array_equal(routes[0], routes[2])


def test_a_board_out_of_reach_is_refused() -> None:
    what = set_up("wrist")
    away = what.board_pose + np.array([2.0, 0, 0, 0, 0, 0, 0])
    hopeless = replace(VARIETIES[True], most_draws=500)
    with pytest.raises(ValueError, match="only 0 of 8 views"):
        plan(replace(what, board_pose=away), 8, seed=1, variety=hopeless)


def test_a_way_out_of_the_workspace_is_no_way() -> None:
    follower = PoseFollower(FR3.home_joints, PERIOD)
    goal = follower.pose.copy()
    goal[0] = 0.9
    assert travel(follower, goal) is None


def test_a_way_starts_and_ends_softly() -> None:
    start = PoseFollower(FR3.home_joints, PERIOD).pose
    goal = poses.compose(start, [0.0, 0.05, -0.1, 0.0, 0.0, np.sin(0.2), np.cos(0.2)])
    waypoints = np.array([start, *viewpoints.way(start, goal)])
    np.testing.assert_allclose(waypoints[-1], goal, atol=1e-12)
    steps = np.linalg.norm(np.diff(waypoints[:, :3], axis=0), axis=1)
    assert steps[0] < 0.3 * steps.max() and steps[-1] < 0.3 * steps.max()
    assert steps.max() / PERIOD < FR3.linear_speed
