"""RefSpatial (Zhou et al. 2025, RoboRefer): spatial relations and referred points.

Layout: huggingface.co/datasets/JingkunAn/RefSpatial after its `unzip_dataset.sh`, and the mapping
of JSON files to picture folders in the RoboRefer repository's README ("JSON to Image and Depth
Folder Path Mapping"). LLaVA records whose `image` names are relative to that folder; depth is not
read. The questions of one record stand alone: the sample is one of them, chosen by its name.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from training.samples import Sample
from training.sources import llava, pictures
from training.sources.json_records import JsonShard
from training.sources.records import Records, open_shards, require_folder

NAME: Final = "refspatial"
PICTURES: Final = {
    "2D/choice_qa.json": "2D/image",
    "2D/reasoning_template_qa.json": "2D/image",
    "3D/choice_qa.json": "3D/image",
    "3D/multi_view_qa.json": "3D/image_multi_view",
    "3D/reasoning_template_qa.json": "3D/image",
    "3D/vacant_qa.json": "3D/image",
    "3D/visual_choice_qa.json": "3D/image_visual_choice",
    "Simulator/metadata.json": "Simulator/image",
}
"""Folder of the pictures that each JSON file names."""


def read(folder: Path) -> Records:
    """Samples of the parts that are there. Raises FileNotFoundError: no folder, or no part."""
    require_folder(folder)
    paths = [folder / name for name in PICTURES if (folder / name).is_file()]
    shards, broken = open_shards(NAME, folder, paths, JsonShard)
    return Records(NAME, shards, partial(_build, folder), broken=broken)


def _build(folder: Path, name: str, record: Any, _part: int) -> Sample:
    question, answer = llava.any_pair(name, record)
    shard = name.removeprefix(f"{NAME}/").partition("#")[0]
    root = folder / PICTURES[shard]
    views = tuple(
        pictures.load(name, pictures.inside(root, view)) for view in llava.picture_names(record)
    )
    return Sample(name, NAME, views, question, answer)
