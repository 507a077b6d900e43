"""JSON lines appended so that a stopped run goes on, naming pictures from their own folder."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Usage:
    """Requests answered, their tokens and their price [USD].

    unmetered counts answers that came without token numbers, which the price therefore lacks.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unmetered: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        bound = "at least " if self.unmetered else ""
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens"
        return f"{self.requests:,} requests, {tokens}, {bound}${self.cost:.4f}"


def picture_names(pictures: Iterable[Path], folder: Path) -> list[str]:
    """Paths of pictures as the lines of a file in `folder` have them: relative to it."""
    return [Path(os.path.relpath(picture, folder)).as_posix() for picture in pictures]


def picture_paths(names: Iterable[str | Path], folder: Path) -> tuple[Path, ...]:
    """Inverse of `picture_names`: absolute paths."""
    return tuple(folder.absolute() / name for name in names)


class RecordError(ValueError):
    """A record that cannot be continued or written; the text says which file and what to do."""


class Record:
    """JSON lines from units of work (scenes, questions), appended so that a stopped run goes on.

    Beside `path` stands `path`.progress: the settings, then a line for each finished unit with the
    number of its lines, its counts (of what was refused, say) and what it cost. On opening, torn
    and unfinished ends of both files are cut off, so that a continued run writes what an
    undisturbed one would have. `finished`, `lines`, `counts` and `usage` cover earlier runs too.

    Raises:
        RecordError: the files are of other settings, were changed by hand, are in use elsewhere or
            cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.finished: set[str] = set()
        self.lines = 0
        self.counts: Counter[str] = Counter()
        self.usage = Usage()
        try:
            self._progress = path.with_name(path.name + ".progress").open("a+b", buffering=0)
            fcntl.flock(self._progress, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._out = path.open("a+b", buffering=0)
        except BlockingIOError as error:
            raise RecordError(f"{path}: another process writes it; wait for its end") from error
        except OSError as error:
            raise RecordError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            self._continue(json.loads(json.dumps(settings)))
        except RecordError:
            self.__exit__()
            raise
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            self.__exit__()
            raise RecordError(
                f"{path}.progress: is damaged ({type(error).__name__}: {error}); restore it, or "
                "write to another file"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        self._progress.close()

    def _continue(self, settings: Mapping[str, Any]) -> None:
        self._progress.seek(0)
        known = [line for line in self._progress.readlines() if line.endswith(b"\n")]
        if not known:
            if self._out.seek(0, os.SEEK_END):
                raise RecordError(f"{self.path}: exists without its record; write to another file")
            self._progress.truncate(0)
            self._append(self._progress, settings)
            return
        if (begun := json.loads(known[0])) != settings:
            raise RecordError(
                f"{self.path}: was begun with {begun}, not {settings}; use those or another file"
            )
        self._out.seek(0)
        reader = io.BufferedReader(self._out)
        good, good_out = len(known[0]), 0
        for line in known[1:]:
            unit = json.loads(line)
            own = [reader.readline() for _ in range(unit["lines"])]
            if not all(text.endswith(b"\n") for text in own):
                break
            if any(json.loads(text)["name"].rpartition("#")[0] != unit["unit"] for text in own):
                raise RecordError(
                    f"{self.path}: the lines of {unit['unit']!r} are not where they were written; "
                    "restore the file, or write to another"
                )
            self._add(unit["unit"], len(own), unit["counts"], Usage(**unit["usage"]))
            good, good_out = good + len(line), good_out + sum(map(len, own))
        reader.detach()
        self._progress.truncate(good)
        self._out.truncate(good_out)

    def add(
        self,
        unit: str,
        lines: Sequence[Mapping[str, Any]],
        counts: Mapping[str, int],
        usage: Usage,
    ) -> None:
        """Write a finished unit; its lines are named "unit#0", "unit#1", ..."""
        named = [{"name": f"{unit}#{i}", **line} for i, line in enumerate(lines)]
        self._append(self._out, *named)
        entry = {"unit": unit, "lines": len(lines), "counts": counts, "usage": asdict(usage)}
        self._append(self._progress, entry)
        self._add(unit, len(lines), counts, usage)

    def _add(self, unit: str, lines: int, counts: Mapping[str, int], usage: Usage) -> None:
        self.finished.add(unit)
        self.lines += lines
        self.counts.update(counts)
        self.usage += usage

    def _append(self, file: io.FileIO, *lines: Mapping[str, Any]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        rest = memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise RecordError(
                f"{file.name}: cannot be written ({error.strerror}); what is finished is kept: "
                "make room and run the same command again"
            ) from error

    def summary(self) -> dict[str, Any]:
        """Totals of all runs, for a report."""
        counts = dict(sorted(self.counts.items()))
        return {
            "finished": len(self.finished),
            "lines": self.lines,
            "counts": counts,
            "usage": asdict(self.usage),
        }
