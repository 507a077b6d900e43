"""The ensemble is a mean, of exactly the chunks that speak about a moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import geometry
from contracts.action import ActionChunk
from roboalign.temporal_ensemble import TemporalEnsemble, along

STEP = 0.1
HORIZON = 6
numbers = st.floats(-0.3, 0.3)


def chunk(stamp: float, offset: float = 0.0, turn: float = 0.0) -> ActionChunk:
    """Waypoints along x, `offset` [m] aside, turned by `turn` [rad] about z."""
    times = stamp + STEP * np.arange(1, HORIZON + 1)
    poses = np.zeros((HORIZON, 7))
    poses[:, 0], poses[:, 1] = 0.1 * times, offset
    poses[:, 3:] = geometry.from_rotation_vector([0.0, 0.0, turn])
    return ActionChunk(repr(stamp), stamp, STEP, poses, np.full(HORIZON, 0.5 + offset))


@given(st.lists(numbers, min_size=1, max_size=5), st.floats(0.01, 2.0))
def test_it_is_acts_weighted_mean(offsets: list[float], decay: float) -> None:
    ensemble = TemporalEnsemble(decay)
    for number, offset in enumerate(offsets):
        last = chunk(10.0 + STEP * number, offset)
        poses, gripper = ensemble.blend(last, oldest=0.0)
    for row, due in enumerate(last.times):
        speaking = [
            offset
            for number, offset in enumerate(offsets)
            if due <= 10.0 + STEP * (number + HORIZON) + 1e-9
        ]
        weights = np.exp(-decay * np.arange(len(speaking)))
        mean = float(weights @ speaking / weights.sum())
        assert poses[row, 0] == pytest.approx(0.1 * due)
        assert poses[row, 1] == pytest.approx(mean, abs=1e-9)
        assert gripper[row] == pytest.approx(0.5 + mean, abs=1e-9)


@given(numbers, numbers, st.booleans())
def test_rotations_are_averaged_whatever_their_sign(a: float, b: float, flipped: bool) -> None:
    first, second = chunk(10.0, turn=a), chunk(10.0, turn=b)
    if flipped:
        poses = second.poses * np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
        second = ActionChunk("flipped", 10.0, STEP, poses, second.gripper)
    ensemble = TemporalEnsemble(decay=0.0)
    ensemble.blend(first, oldest=0.0)
    poses, _ = ensemble.blend(second, oldest=0.0)
    np.testing.assert_allclose(np.linalg.norm(poses[:, 3:], axis=1), 1.0)
    mean = geometry.to_rotation_vector(poses[:, 3:])
    np.testing.assert_allclose(mean[:, 2], (a + b) / 2, atol=1e-9)


def test_what_is_too_old_or_over_no_longer_counts() -> None:
    ensemble = TemporalEnsemble()
    ensemble.blend(chunk(10.0, 0.3), oldest=0.0)
    poses, _ = ensemble.blend(chunk(10.2, 0.1), oldest=10.1)
    np.testing.assert_allclose(poses[:, 1], 0.1)
    poses, _ = ensemble.blend(chunk(12.0, 0.2), oldest=0.0)
    np.testing.assert_allclose(poses[:, 1], 0.2)
    ensemble.clear()
    poses, _ = ensemble.blend(chunk(12.0, 0.0), oldest=0.0)
    np.testing.assert_allclose(poses[:, 1], 0.0)


@given(st.floats(0.0, HORIZON - 1.0))
def test_between_waypoints_it_is_the_executors_interpolation(place: float) -> None:
    poses = np.stack([chunk(0.0, 0.1 * i, 0.3 * i).poses[i] for i in range(HORIZON)])
    low = min(int(place), HORIZON - 2)
    wanted = geometry.interpolate(poses[low], poses[low + 1], place - low)
    np.testing.assert_allclose(along(poses, np.array([place]))[0], wanted, atol=1e-6)
