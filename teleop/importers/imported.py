"""What every foreign episode is brought to, and how it is written as one of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.episode import EpisodeHeader, Outcome
from contracts.geometry import Vector
from contracts.task import OBJECTS, TASKS
from teleop import jpeg
from teleop.recorder import EpisodeWriter, now_utc, software_versions

OTHER: Final = "other"
"""Task and object of an instruction that is none of ours."""


@dataclass(frozen=True)
class ImportedEpisode:
    """T steps of a foreign demonstration, `fps` [Hz] apart, in our units and frames.

    poses (T, 7), opening (T,) 0 closed .. 1 open, joints (T, 7) or None: as measured at each step.
    command_poses (T, 7) and command_gripper (T,): wanted at the next one. pictures: T of each
    camera, as JPEG bytes or uint8 arrays.
    """

    instruction: str
    fps: float
    poses: Vector
    opening: Vector
    command_poses: Vector
    command_gripper: Vector
    pictures: Mapping[str, Iterator[bytes | NDArray[np.uint8]]]
    source: str
    joints: Vector | None = None
    success: bool = True
    operator: str = ""
    recorded_on: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


def write_imported(dataset: Path, number: int, episode: ImportedEpisode) -> Path:
    """Commit one foreign episode.

    Raises:
        RecordingFailed: the disk is full, or the number is taken.
        EpisodeError: a picture does not decode.
    """
    task, obj = _task_of(episode.instruction)
    header = EpisodeHeader(
        number=number,
        task=task,
        object=obj,
        instruction=episode.instruction,
        slot=0,
        attempt=0,
        backend="import",
        device=episode.source,
        operator=episode.operator,
        robot=episode.extra.get("robot", ""),
        cameras=tuple(episode.pictures),
        state_rate=episode.fps,
        camera_rate=episode.fps,
        started_at=episode.recorded_on,
        software=software_versions(),
    )
    count = len(episode.poses)
    joints = np.full((count, 7), np.nan) if episode.joints is None else episode.joints
    with EpisodeWriter(dataset, header) as writer:
        for i in range(count):
            now, due = i / episode.fps, (i + 1) / episode.fps
            pose, opening = episode.poses[i], float(episode.opening[i])
            writer.state_row(now, pose, joints[i], np.full(7, np.nan), opening)
            for camera, pictures in episode.pictures.items():
                picture = next(pictures)
                data = picture if isinstance(picture, bytes) else jpeg.encode(picture)
                writer.picture(camera, now, data)
            writer.command(due, episode.command_poses[i], float(episode.command_gripper[i]))
        label = "success" if episode.success else "failure"
        return writer.commit(Outcome(label, episode.source, "imported", now_utc()))


def _task_of(instruction: str) -> tuple[str, str]:
    """Task and object whose instruction this is, else OTHER."""
    for task in TASKS.values():
        for obj in OBJECTS:
            if task.instruction(obj) == instruction:
                return task.name, obj
    return OTHER, OTHER
