"""An excerpt of the flight recorder as an MCAP file that Foxglove and the ROS 2 tools read.

Written under a temporary name, brought to disk, then renamed: a file with its own name is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mcap.writer import CompressionType, Writer

from roboalign.flight_recorder import Excerpt, Topic

PREFIX = "flight_"
SUFFIX = ".mcap"
METADATA = "flight_recorder"
Definition = Callable[[str], str]
"""`ros2msg` text of a message type."""


class RecordingFailed(Exception):
    """The excerpt is not on disk; the text says why and what to do."""


@dataclass(frozen=True)
class DiskLimits:
    """keep_bytes: of all flight recordings; the oldest go. reserve_bytes: left free for others."""

    keep_bytes: int = 5 * 2**30
    reserve_bytes: int = 2**30


def write_excerpt(
    excerpt: Excerpt,
    directory: Path,
    when: datetime,
    definition: Definition,
    limits: DiskLimits = DiskLimits(),
) -> Path:
    """Write `flight_<UTC time>.mcap` and remove the oldest recordings beyond the limit.

    Raises:
        RecordingFailed: nothing to write, the disk is full or refuses; no part file stays.
    """
    if not excerpt.messages:
        raise RecordingFailed("no message has arrived yet: nothing to write")
    path = _free_name(directory, when)
    part = path.with_suffix(f"{SUFFIX}.part")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _check_room(directory, sum(len(m.data) for m in excerpt.messages), limits)
        with part.open("wb") as file:
            writer = Writer(file, compression=CompressionType.ZSTD)
            _fill(writer, excerpt, when, definition)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        prune(directory, limits.keep_bytes)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RecordingFailed(
            f"{directory} does not take the recording: {error.strerror or error}; make room there"
        ) from error
    return path


def recordings(directory: Path) -> list[Path]:
    """Whole files, oldest first."""
    return sorted(directory.glob(f"{PREFIX}*{SUFFIX}"))


def prune(directory: Path, keep_bytes: int) -> None:
    """Remove the oldest recordings until the others fit; the newest stays in any case."""
    files = recordings(directory)
    total = sum(path.stat().st_size for path in files)
    for path in files[:-1]:
        if total <= keep_bytes:
            return
        total -= path.stat().st_size
        path.unlink()


def _check_room(directory: Path, size: int, limits: DiskLimits) -> None:
    free = shutil.disk_usage(directory).free
    if free < size + limits.reserve_bytes:
        raise OSError(0, f"{free / 2**20:.0f} MiB are free, {size / 2**20:.0f} are needed")


def _fill(writer: Writer, excerpt: Excerpt, when: datetime, definition: Definition) -> None:
    writer.start(profile="ros2", library="roboalign flight recorder")
    writer.add_metadata(
        METADATA,
        {
            "reasons": json.dumps(excerpt.reasons),
            "written": when.isoformat(),
            "complete": json.dumps(excerpt.complete),
        },
    )
    channels = _channels(writer, [m.topic for m in excerpt.messages], definition)
    sequence = dict.fromkeys(channels, 0)
    for message in excerpt.messages:
        topic = message.topic.name
        writer.add_message(
            channels[topic],
            log_time=message.log_time,
            data=message.data,
            publish_time=message.publish_time,
            sequence=sequence[topic],
        )
        sequence[topic] += 1
    writer.finish()


def _channels(writer: Writer, topics: Sequence[Topic], definition: Definition) -> dict[str, int]:
    schemas: dict[str, int] = {}
    channels: dict[str, int] = {}
    for topic in topics:
        if topic.name in channels:
            continue
        if topic.type not in schemas:
            text = definition(topic.type).encode()
            schemas[topic.type] = writer.register_schema(topic.type, "ros2msg", text)
        channels[topic.name] = writer.register_channel(topic.name, "cdr", schemas[topic.type])
    return channels


def _free_name(directory: Path, when: datetime) -> Path:
    stamp = when.astimezone(UTC).strftime("%Y%m%dT%H%M%S")
    path, number = directory / f"{PREFIX}{stamp}{SUFFIX}", 1
    while path.exists():
        path, number = directory / f"{PREFIX}{stamp}_{number}{SUFFIX}", number + 1
    return path
