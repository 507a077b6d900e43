"""The safety filter: whatever comes in, what goes out breaks no limit and can always stop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import geometry, kinematics
from contracts.geometry import Vector
from contracts.motion import WORKSPACE_TOLERANCE, PoseFollower, Setpoint
from contracts.robot import FR3
from roboalign.command_checks import ContactGuard
from roboalign.safety_filter import FilterLimits, SafetyFilter

PERIOD = 0.01
LIMITS = FilterLimits()
TOLERANCE = 1.0 + 1e-3
"""The filter takes twists from the mean Jacobian, this test from the poses' differences."""


def setpoint(joints: Vector) -> Setpoint:
    jacobian, pose = kinematics.jacobian(joints)
    return Setpoint(joints, np.zeros(7), pose, jacobian, limited=False)


def lowest_corner(pose: Vector) -> float:
    """z of the gripper's lowest corner, corner by corner."""
    rotation = geometry.to_matrix(pose[3:])
    corners = [
        rotation @ [x * half_x, y * half_y, along]
        for along, half_x, half_y in LIMITS.gripper.layers
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return float(pose[2] + min(corner[2] for corner in corners))


def assert_keeps_limits(joints: list[Vector]) -> None:
    """Of a stream of setpoints that begins at rest."""
    q = np.array([joints[0], joints[0], *joints])
    velocity = np.diff(q, axis=0) / PERIOD
    poses = [kinematics.forward(row) for row in q]
    twists = [kinematics.pose_error(b, a) for a, b in itertools.pairwise(poses)]
    twist = np.array(twists) / PERIOD
    acceleration = np.diff(twist, axis=0) / PERIOD
    jerk = np.diff(acceleration, axis=0) / PERIOD
    for values, part, limit in (
        (twist, slice(3), LIMITS.linear_speed),
        (twist, slice(3, 6), LIMITS.angular_speed),
        (acceleration, slice(3), LIMITS.linear_acceleration),
        (acceleration, slice(3, 6), LIMITS.angular_acceleration),
        (jerk, slice(3), LIMITS.linear_jerk),
        (jerk, slice(3, 6), LIMITS.angular_jerk),
    ):
        assert np.linalg.norm(values[:, part], axis=1).max() <= TOLERANCE * limit
    assert np.abs(np.diff(velocity, axis=0)).max() <= LIMITS.joint_acceleration * PERIOD + 1e-9
    for row, speed in zip(q[1:], velocity, strict=True):
        lower, upper = FR3.joint_velocity_limits(row)
        assert (speed >= lower - 1e-9).all() and (speed <= upper + 1e-9).all()
    assert all(FR3.joints_within_limits(row) for row in q)
    for pose in poses:
        assert (pose[:3] >= FR3.workspace_lower - WORKSPACE_TOLERANCE - 1e-4).all()
        assert (pose[:3] <= FR3.workspace_upper + WORKSPACE_TOLERANCE + 1e-4).all()
        assert lowest_corner(pose) >= LIMITS.table_height - 1e-4


numbers = st.floats(-1.0, 1.0) | st.sampled_from([0.0, 1e3, -1e3, 1e300, float("nan")])
seven = st.tuples(*[numbers] * 7).map(np.array)
directions = st.tuples(*[st.floats(-1.0, 1.0)] * 7).map(np.array)
scales = st.floats(-3.0, 0.7).map(lambda exponent: 10.0**exponent)
durations = st.integers(1, 40)


@given(st.lists(st.tuples(seven, durations), min_size=1, max_size=4))
def test_any_joint_targets_keep_every_limit(stream: list[tuple[Vector, int]]) -> None:
    filtering = SafetyFilter(FR3.home_joints, PERIOD)
    sent = [filtering.setpoint.joints]
    for target, repeats in stream:
        for _ in range(repeats):
            sent.append(filtering.step_joints(target * 3.0).setpoint.joints)
    assert_keeps_limits(sent)


@given(st.lists(st.tuples(directions, scales, durations), min_size=1, max_size=4))
def test_any_joint_velocities_keep_every_limit(
    stream: list[tuple[Vector, float, int]],
) -> None:
    filtering = SafetyFilter(FR3.home_joints, PERIOD)
    sent = [filtering.setpoint.joints]
    for direction, scale, repeats in stream:
        for _ in range(repeats):
            wanted = setpoint(sent[-1] + direction * scale * PERIOD)
            sent.append(filtering.step(wanted).setpoint.joints)
    assert_keeps_limits(sent)


@given(st.lists(st.tuples(directions, scales, durations), min_size=1, max_size=3))
def test_any_noise_keeps_every_limit(stream: list[tuple[Vector, float, int]]) -> None:
    filtering = SafetyFilter(FR3.home_joints, PERIOD)
    sent = [filtering.setpoint.joints]
    for direction, scale, repeats in stream:
        for tick in range(repeats):
            wanted = setpoint(sent[-1] + direction * scale * 0.02 * (-1) ** tick)
            sent.append(filtering.step(wanted).setpoint.joints)
    assert_keeps_limits(sent)


@given(
    st.lists(
        st.tuples(
            st.tuples(*[st.floats(-0.6, 0.6)] * 3).map(np.array),
            st.tuples(*[st.floats(-1.5, 1.5)] * 3).map(np.array),
            durations,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_poses_through_the_follower_keep_every_limit(
    stream: list[tuple[Vector, Vector, int]],
) -> None:
    filtering = SafetyFilter(FR3.home_joints, PERIOD)
    follower = PoseFollower(FR3.home_joints, PERIOD)
    home = kinematics.forward(FR3.home_joints)
    sent = [filtering.setpoint.joints]
    for offset, turn, repeats in stream:
        turned = geometry.multiply(geometry.from_rotation_vector(turn), home[3:])
        for _ in range(repeats):
            filtered = filtering.step(follower.step(np.concatenate([home[:3] + offset, turned])))
            if filtered.limited_by:
                follower.adopt(filtered.setpoint)
            sent.append(filtered.setpoint.joints)
    assert_keeps_limits(sent)


def test_an_ordinary_motion_passes_unchanged() -> None:
    filtering = SafetyFilter(FR3.home_joints, PERIOD)
    follower = PoseFollower(FR3.home_joints, PERIOD)
    goal = kinematics.forward(FR3.home_joints)
    goal[:3] += [0.08, -0.1, -0.15]
    for _ in range(150):
        wanted = follower.step(goal)
        filtered = filtering.step(wanted)
        assert filtered.setpoint is wanted and filtered.limited_by == ()
    assert np.linalg.norm(filtered.setpoint.pose[:3] - goal[:3]) < 2e-3


def test_a_target_in_joint_space_is_reached() -> None:
    filtering = SafetyFilter(FR3.home_joints, PERIOD)
    goal = FR3.home_joints + np.array([0.2, -0.1, 0.1, 0.15, -0.1, 0.2, 0.3])
    for _ in range(300):
        filtered = filtering.step_joints(goal)
    np.testing.assert_allclose(filtered.setpoint.joints, goal, atol=1e-9)
    assert not filtered.setpoint.velocity.any()


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.full(7, np.inf), np.zeros(6)])
def test_what_is_no_position_brakes(bad: Vector) -> None:
    filtering = SafetyFilter(FR3.home_joints, PERIOD)
    for _ in range(30):
        filtering.step_joints(FR3.home_joints + np.array([0.5, 0, 0, 0, 0, 0, 0]))
    assert filtering.setpoint.velocity.any()
    for _ in range(40):
        filtered = filtering.step_joints(bad)
    assert filtered.limited_by == ("not finite",)
    assert not filtered.setpoint.velocity.any()


def test_outside_the_workspace_it_only_moves_in() -> None:
    outside = kinematics.forward(FR3.home_joints)
    outside[:3] = [0.5, 0.0, 0.63]
    start = kinematics.inverse(outside, FR3.home_joints)
    filtering = SafetyFilter(start, PERIOD)
    up, down = setpoint(start).jacobian.T[:, 2] * 2e-3, -setpoint(start).jacobian.T[:, 2] * 2e-3
    for way, allowed in ((up, False), (down, True)):
        filtering.reset(start)
        for _ in range(20):
            filtering.step(setpoint(filtering.setpoint.joints + way))
        moved = filtering.setpoint.pose[2] - kinematics.forward(start)[2]
        assert (moved < -0.005) if allowed else (abs(moved) < 1e-6)


def test_a_tilted_hand_keeps_its_corner_off_the_table() -> None:
    low = kinematics.forward(FR3.home_joints)
    low[:3] = [0.45, 0.0, 0.05]
    start = kinematics.inverse(low, FR3.home_joints)
    filtering, follower = SafetyFilter(start, PERIOD), PoseFollower(start, PERIOD)
    turned = geometry.multiply(geometry.from_rotation_vector([1.2, 0.0, 0.0]), low[3:])
    limits: set[str] = set()
    for _ in range(150):
        filtered = filtering.step(follower.step(np.concatenate([[0.45, 0.0, 0.012], turned])))
        if filtered.limited_by:
            follower.adopt(filtered.setpoint)
        limits.update(filtered.limited_by)
    assert "table" in limits
    assert 0.0 <= lowest_corner(filtered.setpoint.pose) < 0.03


def test_contradicting_limits_fail_at_construction() -> None:
    with pytest.raises(ValueError, match="jerk"):
        SafetyFilter(FR3.home_joints, 0.001)


def test_joint_velocity_limits_are_libfrankas() -> None:
    lower, upper = FR3.joint_velocity_limits([0.0, 0.0, 0.0, -1.6, 0.0, 2.5, 0.0])
    np.testing.assert_allclose(upper[[0, 2, 4, 6]], [2.62, 2.62, 5.26, 5.26])
    np.testing.assert_allclose(upper[1], 2.62)
    np.testing.assert_allclose(lower[3], -2.62)
    near = FR3.joint_velocity_limits(FR3.joint_upper - 0.1)[1]
    expected = np.sqrt(0.2 * FR3.joint_deceleration) - FR3.joint_velocity_offset
    np.testing.assert_allclose(near, expected)
    beyond = FR3.joint_velocity_limits(FR3.joint_upper + 0.1)[1]
    np.testing.assert_array_equal(beyond, 0.0)


def test_contact_has_hysteresis() -> None:
    guard = ContactGuard()
    forces = (10.0, 26.0, 20.0, 14.0, 20.0)
    held = [bool(guard.check(np.array([force, 0, 0, 0, 0, 0]))) for force in forces]
    assert held == [False, True, True, False, False]
