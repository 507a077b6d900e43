"""PoseFollower: whatever is asked, what comes out keeps the limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import floats, quaternions, vectors

from contracts import geometry, kinematics
from contracts.motion import WORKSPACE_TOLERANCE, PoseFollower
from contracts.robot import FR3

any_position = st.one_of(vectors(3, -1.0, 1.0), vectors(3, -1e300, 1e300))
streams = st.lists(
    st.tuples(st.tuples(any_position, quaternions).map(np.concatenate), st.integers(1, 25)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(stream=streams, period=st.sampled_from([0.001, 0.01, 0.1]))
def test_any_stream_of_finite_poses_keeps_every_limit(stream, period: float) -> None:
    follower = PoseFollower(FR3.home_joints, period)
    before = FR3.home_joints
    for pose, repeats in stream:
        for _ in range(repeats):
            setpoint = follower.step(pose)
            assert np.isfinite(setpoint.joints).all()
            assert (setpoint.joints >= FR3.joint_lower + FR3.joint_margin - 1e-12).all()
            assert (setpoint.joints <= FR3.joint_upper - FR3.joint_margin + 1e-12).all()
            assert (np.abs(setpoint.velocity) <= FR3.joint_velocity * (1 + 1e-9)).all()
            np.testing.assert_allclose(
                setpoint.joints - before, setpoint.velocity * period, atol=1e-12
            )
            # Where the joints really lead, not where the follower says they do.
            reached = kinematics.forward(setpoint.joints)
            np.testing.assert_allclose(setpoint.pose, reached, atol=1e-9)
            assert (reached[:3] >= FR3.workspace_lower - WORKSPACE_TOLERANCE).all()
            assert (reached[:3] <= FR3.workspace_upper + WORKSPACE_TOLERANCE).all()
            before = setpoint.joints


@settings(max_examples=20, deadline=None)
@given(x=floats(0.35, 0.6), y=floats(-0.3, 0.3), z=floats(0.02, 0.4), yaw=floats(-0.8, 0.8))
def test_a_reachable_pose_is_reached_no_faster_than_allowed(
    x: float, y: float, z: float, yaw: float
) -> None:
    follower = PoseFollower(FR3.home_joints, 0.02)
    turn = geometry.multiply(geometry.from_rotation_vector([0, 0, yaw]), [1, 0, 0, 0])
    goal = np.concatenate([[x, y, z], turn])
    before, limited = follower.pose, False
    for _ in range(120):
        setpoint = follower.step(goal)
        travelled = np.linalg.norm(kinematics.pose_error(setpoint.pose, before)[:3])
        assert travelled <= 1.05 * FR3.linear_speed * 0.02
        before, limited = setpoint.pose, limited or setpoint.limited
    error = kinematics.pose_error(goal, setpoint.pose)
    assert np.linalg.norm(error[:3]) < 1e-3
    assert np.linalg.norm(error[3:]) < 1e-2
    assert not setpoint.limited
    start = kinematics.forward(FR3.home_joints)
    if np.linalg.norm(goal[:3] - start[:3]) > 1.1 * FR3.linear_speed * 0.02:
        assert limited


@given(
    bad=st.sampled_from(
        [
            [np.nan] * 7,
            [0.5, 0, np.inf, 1, 0, 0, 0],
            [0.5, 0, 0.3, 0, 0, 0, 0],
            [0.5, 0, 0.3],
            [0.5, 0, 0.3, 2, 0, 0, 0],
        ]
    )
)
def test_bad_input_leaves_the_state_as_it_was(bad) -> None:
    follower, twin = PoseFollower(FR3.home_joints, 0.01), PoseFollower(FR3.home_joints, 0.01)
    for each in (follower, twin):
        each.step([0.5, 0.1, 0.2, 1, 0, 0, 0])
    with pytest.raises(ValueError, match="requested pose"):
        follower.step(bad)
    np.testing.assert_array_equal(follower.hold().joints, twin.hold().joints)
    np.testing.assert_array_equal(
        follower.step([0.5, 0.2, 0.2, 1, 0, 0, 0]).joints,
        twin.step([0.5, 0.2, 0.2, 1, 0, 0, 0]).joints,
    )


@pytest.mark.parametrize("period", [0.01, 0.02])
def test_a_jump_becomes_a_smooth_move_without_overshoot(period: float) -> None:
    follower = PoseFollower(FR3.home_joints, period)
    start, goal = follower.pose, np.array([0.55, 0.15, 0.10, 1, 0, 0, 0.0])
    way = (goal - start)[:3] / np.linalg.norm((goal - start)[:3])
    before, speed, furthest = start, 0.0, 0.0
    for _ in range(round(3.0 / period)):
        setpoint = follower.step(goal)
        now = float(np.linalg.norm(setpoint.pose[:3] - before[:3])) / period
        assert abs(now - speed) <= 1.2 * FR3.linear_acceleration * period
        furthest = max(furthest, float((setpoint.pose[:3] - goal[:3]) @ way))
        before, speed = setpoint.pose, now
    assert furthest < 0.003
    np.testing.assert_allclose(setpoint.pose[:3], goal[:3], atol=1e-3)


def test_steady_motion_is_followed_without_lag() -> None:
    follower = PoseFollower(FR3.home_joints, 0.01)
    start = follower.pose
    for i in range(1, 81):
        wanted = start + np.array([0, 0.003 * i, 0, 0, 0, 0, 0])
        setpoint = follower.step(wanted)
    assert np.linalg.norm(setpoint.pose[:3] - wanted[:3]) < 0.002


def test_hold_brakes_and_then_stands_still() -> None:
    follower = PoseFollower(FR3.home_joints, 0.01)
    start = follower.pose
    for i in range(1, 41):
        follower.step(start + np.array([0, 0.003 * i, 0, 0, 0, 0, 0]))
    last = follower.pose
    speeds = []
    for _ in range(30):
        held = follower.hold()
        speeds.append(float(np.linalg.norm(held.pose[:3] - last[:3])) / 0.01)
        last = held.pose
    assert speeds[0] == pytest.approx(0.3 - FR3.linear_acceleration * 0.01, abs=0.01)
    np.testing.assert_array_equal(held.velocity, np.zeros(7))


@pytest.mark.parametrize("start", [[0.0] * 6, [np.nan] * 7])
def test_it_starts_only_at_seven_finite_joints(start: list[float]) -> None:
    with pytest.raises(ValueError, match="seven finite"):
        PoseFollower(start, 0.01)
    with pytest.raises(ValueError, match="period"):
        PoseFollower(FR3.home_joints, 0.0)
