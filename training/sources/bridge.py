"""BridgeData V2 (Walke et al. 2023): robot questions and FAST chunks.

Layout: rail.eecs.berkeley.edu/datasets/bridge_release, `data/tfds/bridge_dataset/1.0.0`, and how
OpenVLA reads it (prismatic/vla/datasets/rlds/oxe/transforms.py): RLDS at 5 Hz with
`steps/observation/image_0` (JPEG), `steps/observation/state` (T x 7: x, y, z, roll, pitch, yaw,
opening), `steps/action` (T x 7: position delta [m] and rotation delta [rad] of a step, then 1 for
an open and 0 for a closed gripper), all zero in the first step, and `steps/language_instruction`.
The raw and the NumPy release are not read: both are pickles.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from contracts.geometry import Vector
from training.samples import ACTION_PROMPT, Sample
from training.sources import pictures, robot_qa
from training.sources.episodes import Episode, Features, open_episodes, require_finite
from training.sources.records import Reason, Records, RejectedSample

QA: Final = "bridge_qa"
FAST: Final = "bridge_fast"
LOOKAHEAD: Final = 5
"""Steps in the second over which a movement is put in words."""
HORIZON: Final = 16
CHUNKS_PER_EPISODE: Final = 8
"""60,000 episodes then hold more than the paper's 400,000 chunks."""


def read_qa(folder: Path) -> Records:
    """Questions about moves and states. Raises FileNotFoundError: no folder, or no shard in it."""
    shards, broken = open_episodes(QA, folder)
    per_record = robot_qa.SAMPLES_PER_EPISODE
    return Records(QA, shards, _question, per_record=per_record, broken=broken)


def read_fast(folder: Path, horizon: int = HORIZON) -> Records:
    """Action chunks with an empty answer. Raises FileNotFoundError: no folder, or no shard."""
    shards, broken = open_episodes(FAST, folder)
    build = partial(_chunk, horizon)
    return Records(FAST, shards, build, per_record=CHUNKS_PER_EPISODE, broken=broken)


def chunk_start(part: int, steps: int, horizon: int) -> int | None:
    """First step of chunk `part`, spread evenly over an episode; None where they would repeat."""
    starts = steps - horizon + 1
    if starts <= 0 or part >= starts:
        return None
    spread = np.linspace(0, starts - 1, min(CHUNKS_PER_EPISODE, starts))
    return int(np.rint(spread)[part])


def chunk_of(actions: Vector) -> Vector:
    """Published actions (horizon, 7) as a chunk: per-step deltas, the rotation as a vector."""
    turns = Rotation.from_euler("xyz", actions[:, 3:6]).as_rotvec()
    opening = np.clip(actions[:, 6:], 0.0, 1.0)
    return np.concatenate([actions[:, :3], turns, opening], axis=1)


def _read_episode(payload: bytes) -> tuple[Episode, Vector]:
    """Episode and its actions (T, 7), without the release's first step, which has no action."""
    features = Features(payload)
    actions = features.floats("steps/action", 7)
    first = int(len(actions) > 0 and not actions[0, :6].any())
    episode = Episode(
        features.text("steps/language_instruction"),
        features.encoded("steps/observation/image_0")[first:],
        features.floats("steps/observation/state", 7)[first:],
    )
    if len(actions) != len(episode.frames) + first:
        raise ValueError(f"{len(actions)} actions of {len(episode.frames) + first} frames")
    return episode, actions[first:]


def _question(name: str, payload: bytes, part: int) -> Sample:
    episode, _ = _read_episode(payload)
    return robot_qa.question(name, QA, episode, part, LOOKAHEAD)


def _chunk(horizon: int, name: str, payload: bytes, part: int) -> Sample:
    episode, actions = _read_episode(payload)
    start = chunk_start(part, len(actions), horizon)
    if start is None:
        detail = f"{len(actions)} steps hold no chunk {part} of {horizon}"
        raise RejectedSample(name, Reason.TOO_SHORT, detail)
    if not episode.instruction:
        raise RejectedSample(name, Reason.NO_INSTRUCTION, "the episode was never described")
    window = actions[start : start + horizon]
    require_finite(name, window, f"the action, counted from step {start},")
    picture = pictures.decode(name, episode.frames[start])
    prompt = ACTION_PROMPT.format(instruction=episode.instruction)
    return Sample(name, FAST, (picture,), prompt, "", chunk=chunk_of(window))
