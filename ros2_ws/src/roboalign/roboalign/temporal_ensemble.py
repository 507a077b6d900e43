"""The mean of several chunks over one moment (Zhao et al. 2023, ACT, section IV-B). Pure."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from contracts import geometry
from contracts.action import ActionChunk
from contracts.geometry import Vector

DECAY = 0.01
"""ACT's m: the weight of a chunk is exp(-m i), with i = 0 for the oldest that still speaks."""
MOST_CHUNKS = 32
SAME_TIME_S = 1e-6


class TemporalEnsemble:
    """Keeps the chunks that still speak about the future."""

    def __init__(self, decay: float = DECAY) -> None:
        self.decay = decay
        self._chunks: deque[ActionChunk] = deque(maxlen=MOST_CHUNKS)

    def clear(self) -> None:
        """Forget every chunk."""
        self._chunks.clear()

    def blend(self, chunk: ActionChunk, oldest: float) -> tuple[Vector, NDArray[np.float64]]:
        """Poses (horizon, 7) and gripper openings (horizon,) at `chunk`'s own times.

        Chunks observed before `oldest` [s] no longer count. Positions and openings are weighted
        means; rotations are the mean in the sense of Markley et al. 2007: the eigenvector of the
        weighted sum of q q^T, which knows no sign of a quaternion.
        """
        self._chunks.append(chunk)
        while self._chunks[0].observation_stamp < oldest or (
            self._chunks[0].times[-1] < chunk.times[0] - SAME_TIME_S
        ):
            self._chunks.popleft()
        times = chunk.times
        before, after, shares, grippers, speaks = [], [], [], [], []
        for one in self._chunks:
            at = np.clip(times, one.times[0], one.times[-1])
            a, b, share = _around(one.poses, (at - one.times[0]) / one.time_step)
            before.append(a)
            after.append(b)
            shares.append(share)
            grippers.append(np.interp(at, one.times, one.gripper))
            speaks.append(np.abs(at - times) <= SAME_TIME_S)
        weights = _weights(np.array(speaks), self.decay)
        stacked = _between(np.array(before), np.array(after), np.array(shares))
        position = np.einsum("ci,cij->ij", weights, stacked[..., :3])
        rotation = _mean_rotation(weights, stacked[..., 3:])
        gripper = np.einsum("ci,ci->i", weights, np.array(grippers))
        return np.concatenate([position, rotation], axis=1), gripper


def along(poses: Vector, place: Vector) -> Vector:
    """Poses (n, 7) at fractional indices `place` (n,) of `poses` (horizon, 7), ends included."""
    return _between(*_around(poses, place))


def _around(poses: Vector, place: Vector) -> tuple[Vector, Vector, Vector]:
    """Poses (n, 7) before and after each place, and how far (n, 1) it lies between them."""
    last = len(poses) - 1
    first = np.clip(np.floor(place + SAME_TIME_S).astype(int), 0, last)
    share = np.clip(place - first, 0.0, 1.0)[:, None]
    return poses[first], poses[np.minimum(first + 1, last)], share


def _between(a: Vector, b: Vector, share: Vector) -> Vector:
    """Poses (..., 7) between `a` and `b`: linear in position, slerp in rotation."""
    turn = geometry.to_rotation_vector(
        geometry.multiply(b[..., 3:], geometry.conjugate(a[..., 3:]))
    )
    turned = geometry.multiply(geometry.from_rotation_vector(share * turn), a[..., 3:])
    position = a[..., :3] + share * (b[..., :3] - a[..., :3])
    return np.concatenate([position, turned], axis=-1)


def _weights(speaks: NDArray[np.bool_], decay: float) -> NDArray[np.float64]:
    """Weights (chunks, times), 0 where a chunk does not speak, with sum 1 at each time."""
    rank = np.cumsum(speaks, axis=0) - 1
    weights = np.where(speaks, np.exp(-decay * rank), 0.0)
    return np.asarray(weights / weights.sum(axis=0))


def _mean_rotation(weights: NDArray[np.float64], quaternions: Vector) -> Vector:
    """Unit quaternions (times, 4) of weights (chunks, times), quaternions (chunks, times, 4)."""
    outer = np.einsum("ci,cij,cik->ijk", weights, quaternions, quaternions)
    return np.asarray(np.linalg.eigh(outer)[1][..., -1])
