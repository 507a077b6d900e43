"""A data set under collection: what is there, what is wanted next, and taking the last back.

The files are the only record: progress is counted from the committed episodes, so it is right after
any crash.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from contracts import episode as layout
from contracts.episode import EpisodeHeader, Outcome
from contracts.task import OBJECTS
from teleop import plan
from teleop.episode_file import EpisodeFile
from teleop.lock import DatasetLock
from teleop.plan import Slot
from teleop.recorder import publish, sync_folder
from teleop.repair import Recovery, repair

FREE_BYTES: Final = 200 * 2**20
"""Room on the disk below which no episode is begun."""


class CollectionError(Exception):
    """A data set that cannot be collected into; the text says why and what to do."""


@dataclass(frozen=True)
class Collected:
    """One committed episode: its file, how it began and how it ended."""

    path: Path
    header: EpisodeHeader
    outcome: Outcome

    @property
    def counts(self) -> bool:
        """Whether it fills its slot."""
        return self.outcome.label == "success" and self.path.parent.name == layout.EPISODES


class Collection:
    """The open data set; held for this process alone until closed."""

    def __init__(self, directory: Path, seed: int) -> None:
        """Open or make a data set whose plan follows from `seed`; recover what a crash left.

        Raises:
            DatasetBusy: another collector has it.
            CollectionError: it belongs to another seed, or the directory holds something else.
            EpisodeError: a committed episode is damaged.
            RecordingFailed: the disk is full.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _check_own(directory)
        except OSError as error:
            raise CollectionError(f"{directory}: {error.strerror}; choose another --out") from error
        self.directory = directory
        self.seed = seed
        self._lock = DatasetLock(directory)
        try:
            self._claim()
            self.recovered: list[Recovery] = repair(directory)
            self._collected = [
                Collected(path, file.header, file.outcome)
                for path in _episode_paths(directory)
                for file in (EpisodeFile(path),)
            ]
        except BaseException:
            self._lock.release()
            raise

    @property
    def episodes(self) -> list[Collected]:
        """Committed episodes that are not set aside, by number."""
        return [c for c in self._collected if c.path.parent.name == layout.EPISODES]

    @property
    def last(self) -> Collected:
        """The episode committed last; there must be one."""
        return max(self._collected, key=lambda c: c.header.number)

    def next_slot(self, tasks: Sequence[str], target: int) -> tuple[Slot, int] | None:
        """The first slot without a success, and the failures at it; None when all are full.

        Raises:
            ValueError: unknown task, or a target out of range.
        """
        full = {(c.header.task, c.header.slot) for c in self._collected if c.counts}
        for task in tasks:
            for slot in plan.slots(task, target, self.seed):
                if (task, slot.index) not in full:
                    return slot, self._tries(slot)
        return None

    def progress(self, tasks: Sequence[str], target: int) -> dict[str, dict[str, tuple[int, int]]]:
        """Successes and wanted ones, by task and object."""
        counted: dict[str, dict[str, tuple[int, int]]] = {}
        for task in tasks:
            full = {c.header.slot for c in self._collected if c.counts and c.header.task == task}
            wanted = list(plan.slots(task, target, self.seed))
            counted[task] = {
                obj: (
                    sum(s.index in full for s in wanted if s.object == obj),
                    sum(s.object == obj for s in wanted),
                )
                for obj in OBJECTS
            }
        return counted

    def next_number(self) -> int:
        """A number that no episode of this data set ever had."""
        taken = [int(path.name.split(".")[0]) for path in _all_files(self.directory)]
        return max(taken, default=-1) + 1

    def check_room(self) -> None:
        """Raises CollectionError: the disk has too little room for another episode."""
        free = shutil.disk_usage(self.directory).free
        if free < FREE_BYTES:
            raise CollectionError(
                f"{self.directory}: {free // 2**20} MB free on the disk, "
                f"{FREE_BYTES // 2**20} MB wanted; make room and run the same command again"
            )

    def add(self, path: Path, header: EpisodeHeader, outcome: Outcome) -> None:
        """Count an episode that has just been committed."""
        self._collected.append(Collected(path, header, outcome))

    def undo_last(self) -> Collected:
        """Set the last committed episode aside; its slot is open again.

        Raises:
            CollectionError: there is none.
        """
        if not self.episodes:
            raise CollectionError(f"{self.directory}: no episode to undo")
        last = max(self.episodes, key=lambda c: c.header.number)
        target = self.directory / layout.SET_ASIDE / last.path.name
        target.parent.mkdir(exist_ok=True)
        publish(last.path, target)
        self._collected.remove(last)
        moved = Collected(target, last.header, last.outcome)
        self._collected.append(moved)
        return moved

    def close(self) -> None:
        """Give the data set free."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tries(self, slot: Slot) -> int:
        """Failures at a slot; each is followed by another start in the same cell."""
        failed = [c.header for c in self._collected if c.outcome.label == "failure"]
        return sum((h.task, h.slot) == (slot.task, slot.index) for h in failed)

    def _claim(self) -> None:
        path = self.directory / layout.DATASET_FILE
        wanted = {"schema_version": layout.SCHEMA_VERSION, "seed": self.seed}
        if not path.exists():
            temporary = path.with_name(path.name + ".part")
            with temporary.open("w", encoding="utf-8") as file:
                file.write(json.dumps(wanted) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(self.directory)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CollectionError(f"{path}: not JSON ({error}); choose another --out") from error
        for name, value in wanted.items():
            if found.get(name) != value:
                raise CollectionError(
                    f"{self.directory}: was begun with {name} {found.get(name)}, not {value}; "
                    f"use --{name.replace('_', '-')} {found.get(name)} or another --out"
                )


def _check_own(directory: Path) -> None:
    foreign = [path for path in directory.iterdir() if not path.name.startswith(".")]
    if foreign and not (directory / layout.DATASET_FILE).exists():
        raise CollectionError(
            f"{directory}: holds {foreign[0].name} but no {layout.DATASET_FILE}; "
            "choose another --out"
        )


def _episode_paths(directory: Path) -> list[Path]:
    folders = (layout.EPISODES, layout.SET_ASIDE)
    return sorted(path for f in folders for path in (directory / f).glob(f"*{layout.SUFFIX}"))


def _all_files(directory: Path) -> list[Path]:
    """Every numbered file, whatever became of it."""
    folders = (layout.EPISODES, layout.SET_ASIDE, layout.RECOVERED)
    files = [path for f in folders for path in (directory / f).glob("[0-9]*.mcap*")]
    return [path for path in files if path.name.split(".")[0].isdigit()]
