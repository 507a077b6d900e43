"""EgoPlan-IT (Chen et al. 2023): the next action of a person at work, seen through their eyes.

Layout: EgoPlan repository's README ("Data"): `EgoPlan_IT.json` with video_source, video_id,
question, answer and current_observation_frame; `EPIC-KITCHENS/P01/rgb_frames/P01_01/
frame_0000000001.jpg`; `Ego4D/v1_288p/<video_id>.mp4`, read from frames of the same names in
`Ego4D/v1_288p/<video_id>/`. The sample's picture is the last frame, the current observation.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from training.samples import Sample
from training.sources import pictures
from training.sources.json_records import JsonShard
from training.sources.records import Records, open_shards, require_folder

NAME: Final = "egoplan"


def read(folder: Path) -> Records:
    """Samples of the data set. Raises FileNotFoundError: no folder, or no EgoPlan_IT.json."""
    require_folder(folder)
    shards, broken = open_shards(NAME, folder, folder.glob("EgoPlan_IT*.json"), JsonShard)
    return Records(NAME, shards, partial(_build, folder), broken=broken)


def _build(folder: Path, name: str, record: Any, _part: int) -> Sample:
    frames = _frames_folder(folder, record["video_source"], record["video_id"])
    video = frames.with_name(f"{frames.name}.mp4")
    if not frames.is_dir() and video.is_file():
        raise pictures.no_decoder(name, video, frames)
    # frame_0000000001 is the first; a task can begin before anything was seen.
    number = max(int(record["current_observation_frame"]), 1)
    picture = pictures.load(name, frames / f"frame_{number:010d}.jpg")
    return Sample(name, NAME, (picture,), record["question"], record["answer"])


def _frames_folder(folder: Path, source: str, video: str) -> Path:
    if source == "EpicKitchens":
        participant = video.partition("_")[0]
        return pictures.inside(folder, f"EPIC-KITCHENS/{participant}/rgb_frames/{video}")
    if source == "Ego4D":
        return pictures.inside(folder, f"Ego4D/v1_288p/{video}")
    raise ValueError(f"unknown video_source {source!r}")
