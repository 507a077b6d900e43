"""A chunk that leaves the one before it without a jump. Pure.

The server lets a new chunk begin with the steps that will be past when it arrives, and pulls the
steps after them towards the chunk under execution (Black et al. 2025). A head of few denoising
steps follows that pull only in part, and what is left would be one jump at the first free step. So
the same weights (Eq. 5) are laid over both chunks once more, as a mean.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from contracts import geometry
from contracts.action import ActionChunk
from roboalign.temporal_ensemble import SAME_TIME_S, along


def join(previous: ActionChunk, chunk: ActionChunk, delay: int) -> ActionChunk:
    """`chunk` with its first `delay` poses on `previous`, and the next ones leaving it gradually.

    The gripper's openings stay the new chunk's: a grasp is not to be put off.
    """
    reach = (chunk.times - previous.times[0]) / previous.time_step
    overlap = int((reach <= previous.horizon - 1 + SAME_TIME_S).sum())
    weight = hold_weights(chunk.horizon, delay, overlap)[:, None]
    old = along(previous.poses, np.clip(reach, 0.0, previous.horizon - 1))
    new = chunk.poses
    turn = geometry.multiply(old[:, 3:], geometry.conjugate(new[:, 3:]))
    part = geometry.from_rotation_vector(weight * geometry.to_rotation_vector(turn))
    position = new[:, :3] + weight * (old[:, :3] - new[:, :3])
    return replace(
        chunk, poses=np.concatenate([position, geometry.multiply(part, new[:, 3:])], axis=1)
    )


def hold_weights(horizon: int, delay: int, overlap: int) -> NDArray[np.float64]:
    """Eq. 5: weight (horizon,) of the old chunk, 1 before `delay`, decaying to 0 at `overlap`."""
    step = np.arange(horizon)
    c = np.clip((overlap - step) / max(overlap - delay + 1.0, 1.0), 0.0, 1.0)
    decay = c * np.expm1(c) / np.expm1(1.0)
    return np.asarray(np.where(step < overlap, np.where(step < delay, 1.0, decay), 0.0))
