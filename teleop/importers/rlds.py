"""RLDS episodes: BridgeData V2 (Walke et al. 2023) and DROID (Khazatsky et al. 2024).

Bridge, 5 Hz: `steps/observation/state` (T x 7: x, y, z, roll, pitch, yaw, opening), `steps/action`
(T x 7: the step's change of position and rotation, then 1 for an open gripper), all zero in the
first step; a WidowX, no joints. DROID, 15 Hz: `steps/observation/cartesian_position` (T x 6),
`.../gripper_position` (0 open), `.../joint_position` (T x 7), and `steps/action_dict/...`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from contracts import geometry
from contracts.episode import EpisodeError
from contracts.geometry import Vector
from teleop.droid_fields import euler_to_pose
from teleop.importers.imported import ImportedEpisode
from teleop.importers.tfrecord import Feature, parse_example, records

SOURCES: Final = ("bridge", "droid")
BRIDGE_FPS: Final = 5.0
DROID_FPS: Final = 15.0
BRIDGE_CAMERAS: Final = {"front": "image_0"}
DROID_CAMERAS: Final = {"front": "exterior_image_1_left", "wrist": "wrist_image_left"}


def shards(folder: Path) -> list[Path]:
    """The TFRecord files of a folder. Raises EpisodeError: there is none."""
    found = sorted(path for path in folder.glob("*.tfrecord*") if path.is_file())
    if not found:
        raise EpisodeError(f"{folder}: no *.tfrecord* file")
    return found


def read(folder: Path, source: str) -> Iterator[ImportedEpisode]:
    """Episodes of all shards that have an instruction; those nobody described are left out.

    Raises:
        EpisodeError: no shard, a damaged record, or one without a field that is needed.
    """
    build = {"bridge": _bridge, "droid": _droid}[source]
    for path in shards(folder):
        for index, payload in enumerate(records(path)):
            try:
                episode = build(_Features(parse_example(payload)))
            except EpisodeError as error:
                raise EpisodeError(f"{path}, record {index}: {error}") from error
            if episode.instruction:
                yield episode


class _Features:
    """One episode's features, with errors that name what is missing."""

    def __init__(self, features: dict[str, Feature]) -> None:
        self._features = features

    def table(self, name: str, width: int) -> Vector:
        values = self._features.get(name)
        if not isinstance(values, np.ndarray) or len(values) % width:
            raise EpisodeError(f"{name} is missing or not (T, {width})")
        return values.astype(np.float64).reshape(-1, width)

    def encoded(self, name: str) -> Sequence[bytes]:
        values = self._features.get(name)
        if not isinstance(values, list):
            raise EpisodeError(f"{name} is missing")
        return values

    def text(self, name: str) -> str:
        values = self._features.get(name)
        return values[0].decode().strip() if isinstance(values, list) and values else ""

    def pictures(self, cameras: dict[str, str]) -> dict[str, Sequence[bytes]]:
        prefix = "steps/observation/"
        known = {c: f for c, f in cameras.items() if prefix + f in self._features}
        return {camera: self.encoded(prefix + field) for camera, field in known.items()}


def _bridge(features: _Features) -> ImportedEpisode:
    actions, states = (
        features.table("steps/action", 7),
        features.table("steps/observation/state", 7),
    )
    first = int(len(actions) > 0 and not actions[0, :6].any())
    actions, states = actions[first:], states[first:]
    poses = euler_to_pose(states[:, :6])
    turned = geometry.multiply(euler_to_pose(actions[:, :6])[:, 3:], poses[:, 3:])
    commands = np.concatenate([poses[:, :3] + actions[:, :3], turned], axis=1)
    return ImportedEpisode(
        instruction=features.text("steps/language_instruction"),
        fps=BRIDGE_FPS,
        poses=poses,
        opening=np.clip(states[:, 6], 0.0, 1.0),
        command_poses=commands,
        command_gripper=np.clip(actions[:, 6], 0.0, 1.0),
        pictures=_pictures(features.pictures(BRIDGE_CAMERAS), len(poses), first),
        source="bridge",
        extra={"robot": "WidowX"},
    )


def _droid(features: _Features) -> ImportedEpisode:
    observation, action = "steps/observation/", "steps/action_dict/"
    poses = euler_to_pose(features.table(f"{observation}cartesian_position", 6))
    return ImportedEpisode(
        instruction=features.text("steps/language_instruction"),
        fps=DROID_FPS,
        poses=poses,
        opening=1.0 - features.table(f"{observation}gripper_position", 1)[:, 0],
        command_poses=euler_to_pose(features.table(f"{action}cartesian_position", 6)),
        command_gripper=1.0 - features.table(f"{action}gripper_position", 1)[:, 0],
        pictures=_pictures(features.pictures(DROID_CAMERAS), len(poses), 0),
        source="droid",
        joints=features.table(f"{observation}joint_position", 7),
        extra={"robot": "Franka"},
    )


def _pictures(
    found: dict[str, Sequence[bytes]], count: int, first: int
) -> dict[str, Iterator[bytes]]:
    if not found:
        raise EpisodeError("it has no pictures")
    for camera, pictures in found.items():
        if len(pictures) != count + first:
            raise EpisodeError(f"{len(pictures)} pictures of {camera!r} for {count + first} steps")
    return {camera: iter(pictures[first:]) for camera, pictures in found.items()}
