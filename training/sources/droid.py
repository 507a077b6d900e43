"""DROID (Khazatsky et al. 2024): robot questions.

Layout: droid-dataset.github.io ("Using the Dataset", RLDS; gs://gresearch/robotics/droid/1.0.1):
15 Hz with `steps/observation/exterior_image_1_left` (JPEG), `.../cartesian_position` (T x 6: x, y,
z [m], roll, pitch, yaw [rad]), `.../gripper_position` (T x 1: 0 open, 1 closed) and
`steps/language_instruction`, which is empty for episodes nobody described.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from training.samples import Sample
from training.sources import robot_qa
from training.sources.episodes import Episode, Features, open_episodes
from training.sources.records import Records

NAME: Final = "droid_qa"
LOOKAHEAD: Final = 15
"""Steps in the second over which a movement is put in words."""


def read(folder: Path) -> Records:
    """Questions about moves and states. Raises FileNotFoundError: no folder, or no shard in it."""
    shards, broken = open_episodes(NAME, folder)
    per_record = robot_qa.SAMPLES_PER_EPISODE
    return Records(NAME, shards, _question, per_record=per_record, broken=broken)


def _question(name: str, payload: bytes, part: int) -> Sample:
    features = Features(payload)
    poses = features.floats("steps/observation/cartesian_position", 6)
    closed = features.floats("steps/observation/gripper_position", 1)
    episode = Episode(
        features.text("steps/language_instruction"),
        features.encoded("steps/observation/exterior_image_1_left"),
        np.concatenate([poses, 1.0 - closed], axis=1),
    )
    return robot_qa.question(name, NAME, episode, part, LOOKAHEAD)
