"""LLaVA-OneVision, single images (Li et al. 2024).

Layout: huggingface.co/datasets/lmms-lab/LLaVA-OneVision-Data: folders of subsets with parquet
shards `train-00000-of-00014.parquet`; columns id, image (struct of bytes and path), conversations,
data_source. LLaVA's own JSON with picture files beside it is read too (LLaVA-NeXT repository,
scripts/train, `onevision` lists): `*.json` at the top, `image` relative to the folder.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from training.samples import Sample
from training.sources import llava, pictures
from training.sources.json_records import JsonShard
from training.sources.parquet_records import ParquetShard
from training.sources.records import (
    Reason,
    Records,
    RejectedSample,
    Shard,
    open_shards,
    require_folder,
)

NAME: Final = "llava_onevision"


def read(folder: Path) -> Records:
    """Samples of the data set. Raises FileNotFoundError: no folder, or no shard in it."""
    require_folder(folder)
    paths = [*folder.rglob("*.parquet"), *folder.glob("*.json")]
    shards, broken = open_shards(NAME, folder, paths, _open)
    return Records(NAME, shards, partial(_build, folder), broken=broken)


def _open(path: Path, name: str) -> Shard:
    return (ParquetShard if path.suffix == ".parquet" else JsonShard)(path, name)


def _build(folder: Path, name: str, record: Any, _part: int) -> Sample:
    question, answer = llava.first_pair(record)
    image = record.get("image")
    if isinstance(image, dict):
        encoded = image["bytes"]
        picture = (
            pictures.decode(name, encoded)
            if encoded is not None
            else pictures.load(name, pictures.inside(folder, image["path"]))
        )
    elif isinstance(image, str):
        picture = pictures.load(name, pictures.inside(folder, image))
    else:
        count = len(image) if image else 0
        raise RejectedSample(name, Reason.PICTURES, f"{count} pictures; only single views count")
    return Sample(name, NAME, (picture,), question, answer)
