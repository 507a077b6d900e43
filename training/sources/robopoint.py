"""RoboPoint (Yuan et al. 2024): points on objects and in free space, as lists of (x, y) in 0..1.

Layout: huggingface.co/datasets/wentao-yuan/robopoint-data and the RoboPoint repository's README
("Prepare data"): `robopoint_1432k.json`, LLaVA records with `image` relative to `images/`. Its
records without a picture (text only) are rejected.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from training.samples import Sample
from training.sources import llava, pictures
from training.sources.json_records import JsonShard
from training.sources.records import Reason, Records, RejectedSample, open_shards, require_folder

NAME: Final = "robopoint"


def read(folder: Path) -> Records:
    """Samples of the data set. Raises FileNotFoundError: no folder, or no JSON file in it."""
    require_folder(folder)
    shards, broken = open_shards(NAME, folder, folder.glob("*.json"), JsonShard)
    return Records(NAME, shards, partial(_build, folder), broken=broken)


def _build(folder: Path, name: str, record: Any, _part: int) -> Sample:
    if not record.get("image"):
        raise RejectedSample(name, Reason.PICTURES, "a text without a picture")
    question, answer = llava.first_pair(record)
    views = tuple(
        pictures.load(name, pictures.inside(folder / "images", view))
        for view in llava.picture_names(record)
    )
    return Sample(name, NAME, views, question, answer)
