"""Real-time chunking: what the new chunk takes over from the one under execution.

Black et al. 2025, "Real-time execution of action chunking flow policies": while the network thinks,
the arm goes on with the previous chunk, so the new one must agree with it on the steps that will be
past when it arrives, and leave it smoothly after them. The weights are those of the paper's Eq. 5;
what the head does with them is in `training.action_head`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts import bundle, geometry
from contracts.action import ActionChunk
from contracts.bundle import ACTION_DIMENSION, Manifest
from contracts.geometry import Vector
from contracts.observation import Observation
from policy_server.refusal import PolicyRefused, Reason


@dataclass(frozen=True)
class Continuation:
    """previous (horizon, 7): the old chunk's normalised actions at the new chunk's times, seen from
    the new observation; weight (horizon,): how firmly each of them holds, 0 not at all .. 1 fully.
    """

    previous: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def none(cls, horizon: int) -> Continuation:
        """Nothing to go on from."""
        zeros = np.zeros((horizon, ACTION_DIMENSION), np.float32)
        return cls(zeros, np.zeros(horizon, np.float32))


def weights(horizon: int, delay: int, overlap: int) -> NDArray[np.float32]:
    """Weight (horizon,) of each step: 1 before `delay`, decaying to 0 at `overlap`.

    overlap: steps of the new chunk that the previous one still covers, the paper's H - s.
    """
    step = np.arange(horizon)
    c = (overlap - step) / (overlap - delay + 1.0) if overlap >= delay else np.ones(horizon)
    decay = c * np.expm1(np.clip(c, 0.0, 1.0)) / np.expm1(1.0)
    return np.where(step < overlap, np.where(step < delay, 1.0, decay), 0.0).astype(np.float32)


def continuation(
    previous: ActionChunk | None, delay: int | None, observation: Observation, manifest: Manifest
) -> Continuation | None:
    """The continuation of `previous` for a chunk that answers `observation`; None if there is none.

    How far the previous chunk was executed follows from the two stamps, not from an expected
    latency. Where it ends, its last waypoint stands with weight 0: zeros would decode to the mean
    action, which is a jump.

    Raises:
        PolicyRefused: a delay out of range or without a chunk, or a chunk newer than the
            observation.
    """
    _check(previous, delay, observation, manifest.horizon)
    if previous is None:
        return None
    step = manifest.time_step
    due = observation.stamp + step * np.arange(1, manifest.horizon + 1)
    place = (due - previous.observation_stamp) / previous.time_step - 1.0
    overlap = int((place <= previous.horizon - 1 + 1e-6).sum())
    place = np.clip(place, 0.0, previous.horizon - 1)
    gripper = np.interp(place, np.arange(previous.horizon), previous.gripper)
    actions = bundle.to_relative(observation.state.pose, _between(previous.poses, place), gripper)
    normalised = manifest.action.normalise(actions).astype(np.float32)
    return Continuation(normalised, weights(manifest.horizon, delay or 0, overlap))


def _between(poses: Vector, place: Vector) -> Vector:
    """Poses (steps, 7) at fractional indices `place` (steps,): linear, and slerp in rotation."""
    first = np.floor(place + 1e-9).astype(int)
    share = np.maximum(place - first, 0.0)[:, None]
    a, b = poses[first], poses[np.minimum(first + 1, len(poses) - 1)]
    turn = geometry.to_rotation_vector(geometry.multiply(b[:, 3:], geometry.conjugate(a[:, 3:])))
    turned = geometry.multiply(geometry.from_rotation_vector(share * turn), a[:, 3:])
    return np.concatenate([a[:, :3] + share * (b[:, :3] - a[:, :3]), turned], axis=1)


def _check(
    previous: ActionChunk | None, delay: int | None, observation: Observation, horizon: int
) -> None:
    if delay is not None:
        if previous is None:
            raise PolicyRefused(Reason.BAD_OPTION, "a delay needs the previous chunk")
        if isinstance(delay, bool) or not isinstance(delay, int) or not 0 <= delay <= horizon:
            raise PolicyRefused(
                Reason.BAD_OPTION, f"delay must be 0..{horizon} steps, got {delay!r}"
            )
    if previous is not None and previous.observation_stamp > observation.stamp:
        newer = previous.observation_stamp - observation.stamp
        raise PolicyRefused(
            Reason.BAD_OPTION, f"the previous chunk is {newer:.3f} s newer than the observation"
        )
