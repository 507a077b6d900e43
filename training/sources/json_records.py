"""JSON arrays of objects and JSON lines, read by position: the files need not fit in memory."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np

# A whole string, so that brackets in texts do not count; one bracket; or a string that never ends.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL)


class JsonShard:
    """Records of a `.json` file with one array of objects, or of a `.jsonl` file."""

    blocks: tuple[int, ...] = ()

    def __init__(self, path: Path, name: str) -> None:
        """Find where the records are. Raises ValueError: not an array of objects."""
        self.path, self.name = path, name
        scan = _lines if path.suffix == ".jsonl" else _elements
        spans, self.damage = scan(path)
        self._spans = np.array(spans, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Any:
        start, end = self._spans[index].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            return json.loads(file.read(end - start))


def _elements(path: Path) -> tuple[list[tuple[int, int]], str]:
    """Byte spans of the objects in the array, and what is wrong with its end."""
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    spans: list[tuple[int, int]] = []
    depth = start = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if not content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise ValueError("not a JSON array of records")
        for match in _TOKEN.finditer(content):
            token = content[match.start()]
            if token in b"[{":
                depth += 1
                if depth == 2:
                    start = match.start()
            elif token in b"]}":
                depth -= 1
                if depth == 1:
                    spans.append((start, match.end()))
                elif depth == 0:
                    return spans, ""
            elif match.end() == match.start() + 1:
                break
    return spans, f"ends in the middle, after {len(spans)} whole records: copy it anew"


def _lines(path: Path) -> tuple[list[tuple[int, int]], str]:
    """Byte spans of the lines that are not blank; a broken line shows when it is read."""
    spans: list[tuple[int, int]] = []
    position = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                spans.append((position, position + len(line)))
            position += len(line)
    return spans, ""
