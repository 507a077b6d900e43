"""Kills the recorder at random moments and counts what is lost.

Each trial forks a writer that commits short episodes one after another and says so; it is killed
with SIGKILL after a random time. Every episode that was said to be committed must be there and
whole, down to its last message; of the one under way repair recovers what reached the disk.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from contracts import episode as layout
from contracts.episode import EpisodeError, EpisodeHeader, Outcome
from contracts.robot import FR3
from contracts.task import get_task
from teleop.dataset import Episode
from teleop.episode_file import EpisodeFile
from teleop.recorder import EpisodeWriter, now_utc
from teleop.repair import repair

STATES: Final = 200
PICTURES_EVERY: Final = 7
PICTURE_BYTES: Final = 20_000
"""A writer's episode: a second of states at 200 Hz, and JPEGs of two cameras at 30 Hz."""
LONGEST: Final = 1.0
"""Seconds within which a writer is killed, from its first message on."""


@dataclass(frozen=True)
class KillTrial:
    """One kill: episodes said to be committed, those of them missing or not whole, and the part.

    left: part files that the kill left behind; recovered: messages that repair got out of them.
    """

    committed: int
    lost: int
    left: int
    recovered: int


def kill_trials(folder: Path, count: int, seed: int) -> Iterator[KillTrial]:
    """Run `count` trials, each in a data set of its own below `folder`."""
    rng = np.random.default_rng(seed)
    for trial in range(count):
        yield kill_once(folder / f"{trial:04d}", float(rng.uniform(0.0, LONGEST)))


def kill_once(dataset: Path, after: float) -> KillTrial:
    """Kill a writer `after` seconds [s] and see what is left."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _write_on(dataset, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        said.read(1)  # it has begun
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        committed = len(said.read())
    left = len(list((dataset / layout.EPISODES).glob(f"*{layout.PART_SUFFIX}")))
    recovered = sum(recovery.messages for recovery in repair(dataset))
    whole = _whole_episodes(dataset)
    return KillTrial(committed, len(set(range(committed)) - whole), left, recovered)


def _write_on(dataset: Path, writing: int) -> None:
    """Commit episodes until killed; a byte when it begins, and one for each that is committed."""
    picture = b"\xff\xd8" + bytes(PICTURE_BYTES)
    number = 0
    while True:
        with EpisodeWriter(dataset, _header(number)) as writer:
            if number == 0:
                os.write(writing, b".")
            _fill(writer, picture)
            writer.commit(Outcome("success", "teleop.bench", "", now_utc()))
        os.write(writing, b".")
        number += 1


def _fill(writer: EpisodeWriter, picture: bytes) -> None:
    pose = np.array([0.5, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0])
    for i in range(STATES):
        now = i / STATES
        writer.state_row(now, pose, FR3.home_joints, np.zeros(7), 1.0)
        writer.command(now, pose, 1.0)
        if i % PICTURES_EVERY == 0:
            for camera in writer.header.cameras:
                writer.picture(camera, now, picture)


def _header(number: int) -> EpisodeHeader:
    task, obj = "box_to_bowl", "cup"
    return EpisodeHeader(
        number=number,
        task=task,
        object=obj,
        instruction=get_task(task).instruction(obj),
        slot=0,
        attempt=0,
        backend="bench",
        device="bench",
        operator="bench",
        robot="none",
        cameras=("front", "wrist"),
        state_rate=STATES,
        camera_rate=STATES / PICTURES_EVERY,
        started_at=now_utc(),
    )


def _whole_episodes(dataset: Path) -> set[int]:
    """Numbers of the committed episodes that can be read to their last message."""
    pictures = -(-STATES // PICTURES_EVERY)
    whole = set()
    for path in sorted((dataset / layout.EPISODES).glob(f"*{layout.SUFFIX}")):
        try:
            episode = Episode(EpisodeFile(path))
            counts = [len(episode.states), len(episode.commands)]
            counts += [len(episode.pictures(camera)) for camera in episode.cameras]
        except EpisodeError:
            continue
        if counts == [STATES, STATES, pictures, pictures]:
            whole.add(episode.header.number)
    return whole
