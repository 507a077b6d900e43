"""ShareRobot (Ji et al. 2025, RoboBrain): planning, affordances and trajectories.

Layout: huggingface.co/datasets/BAAI/ShareRobot and the ShareRobot repository's README ("Data
Format"): `planning/jsons/*.json`, LLaVA records with a list of frames, of which the last is taken;
`affordance/affordance.json` and `trajectory/trajectory.json` with instruction, original size and a
box, or points, in pixels, and pictures in `images/`. Coordinates are answered in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.samples import Sample
from training.sources import llava, pictures
from training.sources.json_records import JsonShard
from training.sources.records import Reason, Records, RejectedSample, open_shards, require_folder

NAME: Final = "sharerobot"
PLANNING_ROOTS: Final = (
    "planning/images",
    "planning/images/mnt/hpfs/baaiei/jyShi/ShareRobot/planning",
    "planning",
)
"""Where the frames of planning lie, depending on how its archives were unpacked."""
AFFORDANCE_QUESTION: Final = (
    'The task is "{instruction}". Where should the robot act? Answer with the box [x1, y1, x2, y2] '
    "of the affordance area, in fractions of the picture."
)
TRAJECTORY_QUESTION: Final = (
    'The task is "{instruction}". Which way does the end effector take? Answer with a list of '
    "points (x, y), in fractions of the picture."
)


def read(folder: Path) -> Records:
    """Samples of the parts that are there. Raises FileNotFoundError: no folder, or no part."""
    require_folder(folder)
    paths = [
        *folder.glob("planning/jsons/*.json"),
        *folder.glob("affordance/*.json"),
        *folder.glob("trajectory/*.json"),
    ]
    shards, broken = open_shards(NAME, folder, paths, JsonShard)
    return Records(NAME, shards, partial(_build, folder), broken=broken)


def _build(folder: Path, name: str, record: Any, _part: int) -> Sample:
    if "conversations" in record:
        question, answer = llava.first_pair(record)
        frame = pictures.last_frame(llava.picture_names(record))
        return Sample(name, NAME, (_planning_picture(folder, name, frame),), question, answer)
    instruction = str(record["instruction"]).strip()
    if "affordance" in record:
        part, template, answer = "affordance", AFFORDANCE_QUESTION, _box(name, record)
    else:
        part, template, answer = "trajectory", TRAJECTORY_QUESTION, _points(name, record)
    question = template.format(instruction=instruction)
    picture = _picture(folder / part, name, record["image_path"])
    return Sample(name, NAME, (picture,), question, answer)


def _picture(part: Path, name: str, relative: str) -> NDArray[np.uint8]:
    """Picture of affordance or trajectory; the path begins with `images/` or below it."""
    below = relative.removeprefix("images/")
    return pictures.load(name, pictures.inside(part / "images", below))


def _planning_picture(folder: Path, name: str, frame: str) -> NDArray[np.uint8]:
    candidates = [pictures.inside(folder, f"{root}/{frame}") for root in PLANNING_ROOTS]
    found = next((path for path in candidates if path.is_file()), candidates[0])
    return pictures.load(name, found)


def _box(name: str, record: Mapping[str, Any]) -> str:
    area, (width, height) = record["affordance"], _size(record)
    right, bottom = area["x"] + area["width"], area["y"] + area["height"]
    values = (area["x"] / width, area["y"] / height, right / width, bottom / height)
    return f"[{', '.join(_fraction(name, value) for value in values)}]"


def _points(name: str, record: Mapping[str, Any]) -> str:
    """`points` is the README's name of the list, `trajectory` that of the published file."""
    width, height = _size(record)
    points = record["points"] if "points" in record else record["trajectory"]
    fractions = [(_fraction(name, x / width), _fraction(name, y / height)) for x, y in points]
    return f"[{', '.join(f'({x}, {y})' for x, y in fractions)}]"


def _size(record: Mapping[str, Any]) -> tuple[float, float]:
    meta = record["meta_data"]
    return float(meta["original_width"]), float(meta["original_height"])


def _fraction(name: str, value: float) -> str:
    if not math.isfinite(value):
        raise RejectedSample(name, Reason.NOT_FINITE, "a coordinate is not finite")
    return f"{min(max(value, 0.0), 1.0):.3f}"
