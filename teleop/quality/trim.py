"""A copy of a data set without the rest at both ends of its episodes; the original stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from contracts import episode as layout
from contracts.episode import EpisodeError, nanoseconds
from teleop.dataset import DemonstrationDataset
from teleop.episode_file import EpisodeFile
from teleop.quality.measures import motion
from teleop.recorder import EpisodeWriter

MARGIN: Final = 0.2
"""Seconds of rest that stay at each end."""


def trim(dataset: DemonstrationDataset, out: Path, tell: Callable[[int], None]) -> float:
    """Write trimmed copies to the new data set `out`; returns the seconds cut.

    Stamps stay as they were. `tell` is called with each finished episode's number.

    Raises:
        EpisodeError: `out` is there already, or an episode is damaged.
        RecordingFailed: the disk is full.
    """
    if out.exists():
        raise EpisodeError(f"{out}: is there already; nothing is overwritten")
    out.mkdir(parents=True)
    settings = dataset.directory / layout.DATASET_FILE
    if settings.exists():
        shutil.copyfile(settings, out / layout.DATASET_FILE)
    cut = 0.0
    for index, path in enumerate(dataset.paths):
        episode = dataset[index]
        found = motion(episode, 1.0)
        head = max(found.idle_start - MARGIN, 0.0)
        tail = max(found.idle_end - MARGIN, 0.0)
        if head + tail >= found.duration:
            head = tail = 0.0  # nothing moves at all: that is for the quality check to say
        first = episode.state_times[0] + head
        _copy(EpisodeFile(path), out, first, float(episode.state_times[-1]) - tail)
        cut += head + tail
        tell(episode.header.number)
    return cut


def _copy(file: EpisodeFile, out: Path, first: float, last: float) -> None:
    """Copy what is stamped within [first, last] [s], and the picture that shows the beginning."""
    low, high = nanoseconds(first) - 1000, nanoseconds(last) + 1000
    kept = []
    for topic in file.topics:
        messages = file.messages(topic)
        before = [m for m in messages if m[1] < low]
        if layout.camera_of_topic(topic) is not None and before:
            log, _, data = before[-1]
            kept.append((log, topic, before[-1][1], data))
        kept += [(m[0], topic, m[1], m[2]) for m in messages if low <= m[1] <= high]
    with EpisodeWriter(out, file.header, file.calibration_bytes) as writer:
        for log, topic, publish, data in sorted(kept, key=lambda m: (m[0], m[1])):
            writer.raw(topic, data, log, publish)
        writer.commit(file.outcome)
