"""A joined chunk begins on the old one, ends as the new one, and lies between them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contracts import geometry
from contracts.action import ActionChunk
from roboalign.chunk_join import hold_weights, join

HORIZON, STEP = 16, 0.1


def chunk(stamp: float, aside: float, turn: float, gripper: float = 1.0) -> ActionChunk:
    """Waypoints along x by the clock, `aside` [m] in y, turned by `turn` [rad] about z."""
    times = stamp + STEP * np.arange(1, HORIZON + 1)
    poses = np.zeros((HORIZON, 7))
    poses[:, 0], poses[:, 1] = 0.1 * times, aside
    poses[:, 3:] = geometry.from_rotation_vector([0.0, 0.0, turn])
    return ActionChunk(repr(stamp), stamp, STEP, poses, np.full(HORIZON, gripper))


@given(st.floats(0.0, 1.4), st.integers(0, HORIZON), st.floats(-0.2, 0.2), st.floats(-1.0, 1.0))
def test_from_the_old_chunk_to_the_new_one(
    later: float, delay: int, aside: float, turn: float
) -> None:
    old, new = chunk(10.0, 0.0, 0.0), chunk(10.0 + later, aside, turn, gripper=0.3)
    joined = join(old, new, delay)
    covered = new.times <= old.times[-1] + 1e-9
    weight = hold_weights(HORIZON, delay, int(covered.sum()))
    np.testing.assert_allclose(joined.poses[:, 0], new.poses[:, 0], atol=1e-9)
    np.testing.assert_allclose(joined.poses[:, 1], (1.0 - weight) * aside, atol=1e-9)
    turned = geometry.to_rotation_vector(joined.poses[:, 3:])[:, 2]
    np.testing.assert_allclose(turned, (1.0 - weight) * turn, atol=1e-9)
    np.testing.assert_allclose(joined.poses[~covered], new.poses[~covered], atol=1e-9)
    np.testing.assert_array_equal(joined.gripper, new.gripper)
    assert joined.chunk_id == new.chunk_id


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))
def test_weights_hold_then_decay_then_vanish(horizon: int, delay: int, overlap: int) -> None:
    delay, overlap = min(delay, horizon), min(overlap, horizon)
    weight = hold_weights(horizon, delay, overlap)
    assert (weight[: min(delay, overlap)] == 1.0).all()
    assert (weight[overlap:] == 0.0).all()
    assert (np.diff(weight) <= 0.0).all()
    between = weight[delay:overlap]
    assert ((between > 0.0) & (between < 1.0)).all()
