"""Real-time chunking: what the server hands the head of the chunk under execution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import HORIZON, make_observation, save_bundle, tiny_manifest

from contracts import bundle, geometry
from contracts.action import ActionChunk
from policy_server.continuation import continuation, weights
from policy_server.policy import Policy, PolicyRefused, Request
from policy_server.refusal import Reason

STEP = tiny_manifest().time_step


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy.load(save_bundle(tmp_path_factory.mktemp("continuing"), continues=True))


def later(seconds: float):
    observation = make_observation()
    return replace(observation, stamp=observation.stamp + seconds)


def moving_chunk(horizon: int = HORIZON, time_step: float = STEP) -> ActionChunk:
    """From the observed pose 1 cm a step along x, turning 0.02 rad about z, gripper closing."""
    steps = np.arange(1, horizon + 1)[:, None] * time_step / STEP
    pose = make_observation().state.pose
    turn = geometry.from_rotation_vector(steps * [0.0, 0.0, 0.02])
    poses = np.concatenate(
        [pose[:3] + steps * [0.01, 0.0, 0.0], geometry.multiply(turn, pose[3:])], axis=1
    )
    gripper = 1.0 - 0.1 * steps[:, 0]
    return ActionChunk("previous", make_observation().stamp, time_step, poses, gripper)


@given(horizon=st.integers(1, 40), delay=st.integers(0, 40), overlap=st.integers(0, 40))
def test_weights_hold_then_decay_then_vanish(horizon: int, delay: int, overlap: int) -> None:
    delay, overlap = min(delay, horizon), min(overlap, horizon)
    w = weights(horizon, delay, overlap)
    assert w.shape == (horizon,) and w.dtype == np.float32
    assert (w[: min(delay, overlap)] == 1.0).all()
    assert (w[overlap:] == 0.0).all()
    assert (np.diff(w) <= 0.0).all()
    between = w[delay:overlap]
    assert ((between > 0.0) & (between < 1.0)).all()


def test_weights_are_those_of_the_paper() -> None:
    # H = 16, s = 6, d = 4: Eq. 5 by hand at i = 4 and i = 9.
    w = weights(16, 4, 10)
    first, last = 6 / 7, 1 / 7
    assert w[4] == pytest.approx(first * np.expm1(first) / np.expm1(1), rel=1e-6)
    assert w[9] == pytest.approx(last * np.expm1(last) / np.expm1(1), rel=1e-6)


@pytest.mark.parametrize("time_step", [STEP, STEP / 2, STEP * 1.7])
@pytest.mark.parametrize("passed", [0.0, 0.13, 0.2])
def test_previous_waypoints_are_seen_from_the_new_observation(
    passed: float, time_step: float
) -> None:
    """The same waypoints at the new chunk's times, whatever the old chunk's grid was."""
    manifest, observation = tiny_manifest(), later(passed)
    moved = observation.state.pose.copy()
    moved[:3] += [0.004, -0.002, 0.001]
    observation = replace(observation, state=replace(observation.state, pose=moved))
    old = moving_chunk(12, time_step)
    got = continuation(old, 1, observation, manifest)
    covered = np.flatnonzero(got.weight)
    assert len(covered) >= 2
    actions = manifest.action.denormalise(got.previous.astype(np.float64))
    poses, gripper = bundle.to_absolute(moved, actions)
    # Steps [of the new chunk's length] since the old observation at which each waypoint is due;
    # before the old chunk's first waypoint there is nothing to interpolate with.
    due = np.maximum(passed / STEP + covered + 1, time_step / STEP)
    start = make_observation().state.pose
    np.testing.assert_allclose(
        poses[covered, :3], start[:3] + due[:, None] * [0.01, 0, 0], atol=1e-6
    )
    turn = geometry.to_rotation_vector(
        geometry.multiply(poses[covered, 3:], geometry.conjugate(start[3:]))
    )
    np.testing.assert_allclose(turn, due[:, None] * [0, 0, 0.02], atol=1e-5)
    np.testing.assert_allclose(gripper[covered], np.maximum(1 - 0.1 * due, 0), atol=1e-5)


def test_beyond_the_old_chunk_its_end_stands_with_no_weight() -> None:
    """Zeros would decode to the mean action there."""
    manifest = tiny_manifest()
    got = continuation(moving_chunk(), 0, later(4 * STEP), manifest)
    assert np.flatnonzero(got.weight).tolist() == [0, 1]
    np.testing.assert_array_equal(got.previous[2:], np.repeat(got.previous[1:2], HORIZON - 2, 0))
    over = continuation(moving_chunk(), 0, later(60.0), manifest)
    assert not over.weight.any() and np.isfinite(over.previous).all()


def test_the_answer_follows_the_previous_chunk_and_then_leaves_it(policy: Policy) -> None:
    assert policy.metadata()["continues"] is True
    observation, old = later(STEP), moving_chunk()
    going_on, _ = policy.infer(observation, seed=1, previous=old, delay=3)
    np.testing.assert_allclose(going_on.poses[:3], old.poses[1:4], atol=1e-6)
    np.testing.assert_allclose(going_on.gripper[:3], old.gripper[1:4], atol=1e-6)
    free, _ = policy.infer(observation, seed=1)
    np.testing.assert_array_equal(going_on.poses[-1], free.poses[-1])
    assert np.abs(going_on.poses[:3] - free.poses[:3]).max() > 1e-3


def test_without_overlap_the_answer_is_bit_equal_to_a_free_one(policy: Policy) -> None:
    observation = later(60.0)
    free, _ = policy.infer(observation, seed=2)
    late, _ = policy.infer(observation, seed=2, previous=moving_chunk(), delay=2)
    np.testing.assert_array_equal(free.poses, late.poses)
    np.testing.assert_array_equal(free.gripper, late.gripper)


def test_in_one_batch_only_those_that_ask_go_on(policy: Policy) -> None:
    observation, old = later(STEP), moving_chunk()
    asks = [Request(observation, seed=4), Request(observation, seed=4, previous=old, delay=2)]
    free, going_on = policy.infer_batch(asks)
    alone, _ = policy.infer(observation, seed=4)
    np.testing.assert_allclose(free.chunk.poses, alone.poses, atol=2e-6)
    np.testing.assert_allclose(going_on.chunk.poses[:2], old.poses[1:3], atol=2e-6)


def test_a_bundle_that_cannot_continue_answers_and_says_so(bundle_directory: Path) -> None:
    policy = Policy.load(bundle_directory)
    assert policy.metadata()["continues"] is False
    free, _ = policy.infer(later(STEP), seed=1)
    asked, _ = policy.infer(later(STEP), seed=1, previous=moving_chunk(), delay=2)
    np.testing.assert_array_equal(free.poses, asked.poses)


@pytest.mark.parametrize(
    ("passed", "delay", "message"),
    [
        (STEP, -1, "delay must be"),
        (STEP, HORIZON + 1, "delay must be"),
        (STEP, True, "delay must be"),
        (STEP, 1.5, "delay must be"),
        (-0.05, 1, "newer than the observation"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    policy: Policy, passed: float, delay: object, message: str
) -> None:
    with pytest.raises(PolicyRefused, match=message) as refusal:
        policy.infer(later(passed), previous=moving_chunk(), delay=delay)
    assert refusal.value.reason_code is Reason.BAD_OPTION


def test_a_delay_without_a_chunk_is_refused(policy: Policy) -> None:
    with pytest.raises(PolicyRefused, match="previous chunk"):
        policy.infer(later(STEP), delay=1)
