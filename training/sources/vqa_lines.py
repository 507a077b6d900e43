"""Questions as JSON lines beside their pictures: RoboAlign VQA and the multi-view instructions.

Layout, this repository's own: `*.jsonl` in the folder, each line an object with `name`, `images`
(list of paths relative to the folder), `question`, `answer` and, optionally, `category`;
`training.vqa` writes such lines. Nobody else publishes them, so that paths may lead out of the
folder, to pictures that lie beside it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from training.samples import Sample
from training.sources import pictures
from training.sources.json_records import JsonShard
from training.sources.records import Reason, Records, RejectedSample, open_shards, require_folder

VQA: Final = "roboalign_vqa"
MULTI_VIEW: Final = "multi_view"


def read_vqa(folder: Path) -> Records:
    """Samples of the VQA generator. Raises FileNotFoundError: no folder, or no `*.jsonl` in it."""
    return _read(folder, VQA, least=1)


def read_multi_view(folder: Path) -> Records:
    """Samples with at least two pictures. Raises FileNotFoundError: no folder, or no `*.jsonl`."""
    return _read(folder, MULTI_VIEW, least=2)


def views(folder: Path, name: str, record: Any) -> tuple[Any, ...]:
    """The pictures, each uint8 (H, W, 3), of a line's `images`."""
    return tuple(pictures.load(name, folder / view) for view in record["images"])


def _read(folder: Path, source: str, least: int) -> Records:
    require_folder(folder)
    shards, broken = open_shards(source, folder, folder.glob("*.jsonl"), JsonShard)
    return Records(source, shards, partial(_build, folder, source, least), broken=broken)


def _build(folder: Path, source: str, least: int, name: str, record: Any, _part: int) -> Sample:
    if len(record["images"]) < least:
        detail = f"{len(record['images'])} pictures, at least {least} wanted"
        raise RejectedSample(name, Reason.PICTURES, detail)
    category = record.get("category") or source
    return Sample(name, category, views(folder, name, record), record["question"], record["answer"])
