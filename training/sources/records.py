"""Indexable samples over the shards of a data set, and what is said when one cannot be used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from training.samples import Sample, SampleError


class Reason(StrEnum):
    """Why a sample or a shard is left out; rejections are counted by it."""

    MISSING_SHARD = "missing shard"
    CORRUPT_SHARD = "corrupt shard"
    MISSING_FILE = "missing file"
    BAD_RECORD = "bad record"
    BAD_PICTURE = "picture does not decode"
    VIDEO = "video without extracted frames"
    NOT_FINITE = "values not finite"
    TOO_SHORT = "episode too short"
    NO_INSTRUCTION = "no instruction"
    PICTURES = "wrong number of pictures"


class RejectedSample(SampleError):
    """A sample or shard that cannot be used, with its name and the reason it is counted under."""

    def __init__(self, name: str, reason: Reason, detail: str) -> None:
        super().__init__(f"{name}: {reason}: {detail}")
        self.name = name
        self.reason = reason


class Shard(Protocol):
    """One file of records. Reading record i costs about one record, whatever i is.

    blocks are lengths of runs of records that are cheap to read together, in order and adding up to
    the whole; empty where every record is as cheap as any other. damage says what is wrong with a
    file of which only a part can be read, and is empty otherwise.
    """

    name: str
    blocks: Sequence[int]
    damage: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


Build = Callable[[str, Any, int], Sample]
"""Sample of (its name, record, part of the record); may raise what a malformed record raises."""

_MALFORMED: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError)
_SHARD_NUMBER = re.compile(r"(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<rest>.*)")


class Records(Sequence[Sample]):
    """The samples of a data set; item i raises RejectedSample if that one cannot be used."""

    def __init__(
        self,
        source: str,
        shards: Sequence[Shard],
        build: Build,
        *,
        per_record: int = 1,
        broken: Iterable[RejectedSample] = (),
    ) -> None:
        """`per_record` samples come from each record; `broken` are shards that did not open."""
        self.broken = tuple(broken)
        self._source, self._shards, self._build = source, tuple(shards), build
        self._per_record = per_record
        sizes = [len(shard) * per_record for shard in shards]
        self._ends = np.cumsum(np.array(sizes, dtype=np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        first = int(self._ends[number]) - len(shard) * self._per_record
        record, part = divmod(index - first, self._per_record)
        name = f"{self._source}/{shard.name}#{record}"
        if self._per_record > 1:
            name += f".{part}"
        try:
            return self._build(name, shard[record], part)
        except SampleError:
            raise
        except OSError as error:
            raise RejectedSample(name, Reason.MISSING_FILE, str(error)) from error
        except _MALFORMED as error:
            detail = f"{type(error).__name__} {error}"
            raise RejectedSample(name, Reason.BAD_RECORD, detail) from error

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """All indices in a random order that is cheap to read: block by block where it matters."""
        if not any(len(shard.blocks) for shard in self._shards):
            return rng.permutation(len(self))
        sizes = np.array(
            [size for shard in self._shards for size in (shard.blocks or [1] * len(shard))]
        )
        sizes *= self._per_record
        starts = np.cumsum(sizes) - sizes
        blocks = rng.permutation(len(sizes))
        return np.concatenate([starts[i] + rng.permutation(int(sizes[i])) for i in blocks])


def require_folder(folder: Path) -> None:
    """Raises FileNotFoundError: there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; put the data set there in its published layout"
        )


def open_shards(
    source: str, folder: Path, paths: Iterable[Path], opener: Callable[[Path, str], Shard]
) -> tuple[list[Shard], list[RejectedSample]]:
    """Shards of the files in the order of their names, and what is broken or missing among them.

    Files numbered `-00001-of-00004` miss each other; a file that does not open is left out.

    Raises:
        FileNotFoundError: not one file.
    """
    found = sorted(paths)
    if not found:
        raise FileNotFoundError(
            f"{folder}: no file of the layout of {source} here; the modules of training/sources "
            "say which files they read"
        )
    shards: list[Shard] = []
    broken = [
        RejectedSample(f"{source}/{name}", Reason.MISSING_SHARD, "its neighbours are here")
        for name in _missing([path.relative_to(folder).as_posix() for path in found])
    ]
    for path in found:
        name = path.relative_to(folder).as_posix()
        try:
            shard = opener(path, name)
        except (OSError, ValueError) as error:
            broken.append(RejectedSample(f"{source}/{name}", Reason.CORRUPT_SHARD, str(error)))
            continue
        shards.append(shard)
        if shard.damage:
            broken.append(RejectedSample(f"{source}/{name}", Reason.CORRUPT_SHARD, shard.damage))
    return shards, broken


def _missing(names: Sequence[str]) -> list[str]:
    """Names of numbered shards that the others announce."""
    announced = {
        f"{match['stem']}-{i:05d}-of-{match['count']}{match['rest']}"
        for name in names
        if (match := _SHARD_NUMBER.fullmatch(name))
        for i in range(int(match["count"]))
    }
    return sorted(announced - set(names))
