"""Robot episodes in RLDS, as TFDS writes them: one tf.train.Example an episode.

TFDS flattens nested features: `steps/observation/state` holds T x 7 floats, pictures are T encoded
strings (tensorflow.org/datasets/external_tfrecord; features.json beside the shards).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from contracts.geometry import Vector
from training.sources.records import Reason, RejectedSample, Shard, open_shards, require_folder
from training.sources.tfrecords import Example, TfRecordShard, parse

SHARDS: Final = "*.tfrecord-*"
"""TFDS's names: `bridge_dataset-train.tfrecord-00000-of-01024`."""


@dataclass(frozen=True)
class Episode:
    """T steps. instruction may be empty; frames are T encoded pictures; states (T, 7): end effector
    position [m] in the robot's base frame (x forward, y left, z up), roll, pitch, yaw [rad] about
    its fixed axes, gripper opening 0..1."""

    instruction: str
    frames: Sequence[bytes]
    states: Vector

    def __post_init__(self) -> None:
        if self.states.shape != (len(self.frames), 7):
            raise ValueError(f"states {self.states.shape} of {len(self.frames)} frames")


def open_episodes(source: str, folder: Path) -> tuple[list[Shard], list[RejectedSample]]:
    """Shards of the folder and below. Raises FileNotFoundError: no folder, or no shard."""
    require_folder(folder)
    return open_shards(source, folder, folder.rglob(SHARDS), TfRecordShard)


class Features:
    """Features of one Example. Looking one up that is not there raises KeyError."""

    def __init__(self, payload: bytes) -> None:
        """Raises ValueError: not an Example."""
        self._features: Mapping[str, Any] = parse(Example, payload).features.feature

    def floats(self, key: str, width: int) -> Vector:
        """Values (T, width). Raises ValueError: their number is no multiple of the width."""
        return np.array(self._feature(key).float_list.value, np.float64).reshape(-1, width)

    def encoded(self, key: str) -> Sequence[bytes]:
        return list(self._feature(key).bytes_list.value)

    def text(self, key: str) -> str:
        """The first step's text; empty where there is none, as in episodes nobody described."""
        if key not in self._features:
            return ""
        values = self.encoded(key)
        return values[0].decode().strip() if values else ""

    def _feature(self, key: str) -> Any:
        if key not in self._features:
            raise KeyError(f"no feature {key!r} among {sorted(self._features)}")
        return self._features[key]


def require_finite(name: str, values: Vector, what: str) -> None:
    """Raises RejectedSample: a value is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=-1))
    if len(bad):
        raise RejectedSample(name, Reason.NOT_FINITE, f"{what} of step {bad[0]}")


def chosen_step(name: str, steps: int) -> int:
    """A step below `steps` that depends on the sample's name alone."""
    return zlib.crc32(name.encode()) % steps
