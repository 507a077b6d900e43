"""Recover what a crash left in a data set.

    python -m teleop.repair runs/demos

A recording that was whole but not yet named becomes an episode. Of one that was cut short, every
chunk that reached the disk is copied to `recovered/`, labelled `incomplete`; it is for looking at,
no reader counts it. A part file goes only after its successor is on disk.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from mcap.exceptions import McapError
from mcap.records import Attachment, Channel, Message, Metadata
from mcap.stream_reader import StreamReader

from contracts import episode as layout
from contracts.episode import EpisodeError, EpisodeHeader, Outcome
from teleop.episode_file import EpisodeFile
from teleop.lock import DatasetBusy, DatasetLock
from teleop.recorder import (
    EpisodeWriter,
    RecordingFailed,
    folder_of,
    now_utc,
    publish,
    sync_folder,
)

UNREADABLE_SUFFIX: Final = ".unreadable"
COPY_SUFFIX: Final = ".repair"
DAMAGED: Final = (McapError, EpisodeError, ValueError, LookupError, struct.error, OSError)
"""What a torn record raises while it is parsed."""


@dataclass(frozen=True)
class Recovery:
    """What became of one part file: `path` is None where nothing could be recovered."""

    part: str
    path: str | None
    messages: int
    text: str


def repair(dataset: Path) -> list[Recovery]:
    """Recover every part file; the caller holds the data set's lock.

    Raises:
        RecordingFailed: the disk is full; nothing is lost.
    """
    folder = dataset / layout.EPISODES
    for stale in folder.glob(f".*{COPY_SUFFIX}"):
        stale.unlink()
    parts = sorted(folder.glob(f"*{layout.PART_SUFFIX}"))
    return [_recover(dataset, part) for part in parts]


def _recover(dataset: Path, part: Path) -> Recovery:
    name = part.name.removesuffix(layout.PART_SUFFIX) + layout.SUFFIX
    for folder in (layout.EPISODES, layout.SET_ASIDE, layout.RECOVERED):
        target = dataset / folder / name
        if target.exists() and target.samefile(part):
            return _drop(part, target, 0, "was already committed")
    try:
        whole = EpisodeFile(part)
    except EpisodeError:
        return _recover_cut(dataset, part)
    target = dataset / folder_of(whole.outcome) / name
    target.parent.mkdir(exist_ok=True)
    publish(part, target)
    return Recovery(part.name, str(target), 0, "was whole, now committed")


def _recover_cut(dataset: Path, part: Path) -> Recovery:
    target = dataset / layout.RECOVERED / part.with_suffix("").name
    if target.exists():
        return _drop(part, target, 0, "was already recovered")
    scan = Scan(part)
    header, calibration = _head(scan, int(part.name.removesuffix(layout.PART_SUFFIX)))
    if scan.ended_whole and not scan.messages:
        return _drop(part, None, 0, "had not recorded anything yet")
    if header is None or not scan.messages:
        kept = part.with_name(part.name + UNREADABLE_SUFFIX)
        part.rename(kept)
        return Recovery(part.name, None, 0, f"cannot be read; kept as {kept.name}")
    copy = part.with_name(f".{part.name}{COPY_SUFFIX}")
    count = 0
    with EpisodeWriter(dataset, header, calibration, part=copy) as writer:
        for record in Scan(part):
            if isinstance(record, tuple):
                topic, message = record
                writer.raw(topic, message.data, message.log_time, message.publish_time)
                count += 1
        note = f"{count} messages recovered from a recording that was cut short"
        outcome = Outcome("incomplete", "teleop.repair", note, now_utc())
        target = writer.commit(outcome)
    return _drop(part, target, count, f"{count} messages recovered")


def _drop(part: Path, target: Path | None, count: int, text: str) -> Recovery:
    part.unlink()
    sync_folder(part.parent)
    return Recovery(part.name, None if target is None else str(target), count, text)


class Scan:
    """Records of a part file up to the first damaged one; messages as (topic, message).

    After the iteration, `messages` counts them and `ended_whole` says that nothing was torn.
    """

    def __init__(self, part: Path) -> None:
        self._part = part
        self.messages = 0
        self.ended_whole = False

    def __iter__(self) -> Iterator[Any]:
        topics: dict[int, str] = {}
        self.messages = end = 0
        with self._part.open("rb") as file:
            try:
                for record in StreamReader(file, validate_crcs=True).records:
                    end = file.tell()
                    if isinstance(record, Channel):
                        topics[record.id] = record.topic
                    elif isinstance(record, Message):
                        self.messages += 1
                        yield topics[record.channel_id], record
                    else:
                        yield record
            except DAMAGED:
                self.ended_whole = end == self._part.stat().st_size


def _head(scan: Scan, number: int) -> tuple[EpisodeHeader | None, bytes | None]:
    """Header and calibration.

    MCAP protects the header by no checksum, so its number is taken from the file's name.
    """
    header, calibration = None, None
    for record in scan:
        if isinstance(record, Metadata) and record.name == layout.HEADER_RECORD:
            header = _header(record.metadata.get(layout.JSON_KEY, ""), number)
        elif isinstance(record, Attachment) and record.name == layout.CALIBRATION_ATTACHMENT:
            calibration = record.data
    return header, calibration


def _header(text: str, number: int) -> EpisodeHeader | None:
    try:
        return replace(EpisodeHeader.from_json(text), number=number)
    except (EpisodeError, TypeError, AttributeError):
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 refused or failed."""
    parser = argparse.ArgumentParser(prog="python -m teleop.repair", description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args(arguments)
    try:
        if not options.dataset.is_dir():
            raise EpisodeError(f"{options.dataset}: no such directory")
        with DatasetLock(options.dataset):
            recoveries = repair(options.dataset)
    except (DatasetBusy, RecordingFailed, EpisodeError, OSError) as error:
        print(f"teleop.repair: {error}", file=sys.stderr)
        return 1
    for recovery in recoveries:
        print(f"{recovery.part}: {recovery.text}", file=sys.stderr)
    if options.json:
        print(json.dumps({"recovered": [asdict(recovery) for recovery in recoveries]}))
    elif not recoveries:
        print("nothing to repair", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
