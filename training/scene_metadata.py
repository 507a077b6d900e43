"""What is known about a moment of a robot's work: the metadata that RoboAlign VQA starts from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from training.jsonl_record import picture_paths

STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Box = tuple[Fraction, Fraction, Fraction, Fraction]
Vector7 = tuple[float, float, float, float, float, float, float]

DIRECTIONS: Final = {
    "forward": (1, 0, 0),
    "backward": (-1, 0, 0),
    "left": (0, 1, 0),
    "right": (0, -1, 0),
    "up": (0, 0, 1),
    "down": (0, 0, -1),
}
"""Axes of the base frame, from the robot's point of view."""
RELATIONS: Final = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Axes of the picture, from its reader's point of view."""
LEAST_MOVE: Final = 0.005
"""Metres; less is no move."""
CLEAR_AXIS: Final = 0.7
"""A direction is clear if every other axis moves less than this share of it."""
LEAST_GRIPPER_CHANGE: Final = 0.3
LEAST_OFFSET: Final = 0.05
"""Centres nearer than this share of the picture have no clear relation."""


class MetadataError(ValueError):
    """A line of metadata that cannot be used; the text says where it is and what is wrong."""


@dataclass(frozen=True, config=STRICT)
class SceneObject:
    """An object and its box (x0, y0, x1, y1) in each camera that sees it.

    Boxes are fractions of the picture's width and height, origin at the upper left.
    """

    label: Text
    boxes: dict[str, Box]

    def __post_init__(self) -> None:
        for camera, (x0, y0, x1, y1) in self.boxes.items():
            if x0 >= x1 or y0 >= y1:
                raise ValueError(f"box of {self.label!r} in {camera!r} is not x0 < x1, y0 < y1")


@dataclass(frozen=True, config=STRICT)
class SceneMetadata:
    """What is known about one moment of a robot's work; one JSON object a line.

    images: path of each camera's picture, relative to the metadata's folder.
    end_effector: x, y, z [m], roll, pitch, yaw [rad], gripper opening 0..1, in the base frame
        (x forward, y left, z up).
    next_actions: deltas of the next steps in the same seven dimensions, but the gripper's is the
        opening wanted.
    """

    name: Text
    images: Annotated[dict[str, Annotated[Path, Field(strict=False)]], Field(min_length=1)]
    objects: tuple[SceneObject, ...]
    end_effector: Vector7
    instruction: Text
    next_actions: Annotated[tuple[Vector7, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        labels = [item.label.lower() for item in self.objects]
        if twice := [label for label, count in Counter(labels).items() if count > 1]:
            raise ValueError(f"two objects are called {twice[0]!r}; give each a label of its own")
        for item in self.objects:
            if strange := item.boxes.keys() - self.images.keys():
                raise ValueError(f"{item.label!r} has a box in {min(strange)!r}, not a camera")
        if not all(0 <= row[6] <= 1 for row in (self.end_effector, *self.next_actions)):
            raise ValueError("a gripper opening is not in 0..1")

    def boxes(self, camera: str) -> dict[str, Box]:
        """Boxes of the objects that the camera sees, by label."""
        return {o.label: o.boxes[camera] for o in self.objects if camera in o.boxes}

    @property
    def direction(self) -> str | None:
        """Where the next actions take the hand: a key of DIRECTIONS, "stay", or None if unclear."""
        moved = np.sum([row[:3] for row in self.next_actions], axis=0)
        size = np.sort(np.abs(moved))
        if size[2] < LEAST_MOVE:
            return "stay"
        if size[1] > CLEAR_AXIS * size[2]:
            return None
        return next(name for name, axis in DIRECTIONS.items() if np.dot(axis, moved) == size[2])

    @property
    def gripper_change(self) -> str:
        """What the next actions do to the gripper: "open", "close" or "keep"."""
        change = self.next_actions[-1][6] - self.end_effector[6]
        if abs(change) < LEAST_GRIPPER_CHANGE:
            return "keep"
        return "open" if change > 0 else "close"


SCENE: Final = TypeAdapter(SceneMetadata)
"""Reads and writes a line."""


def read_scenes(path: Path) -> Iterator[tuple[str, SceneMetadata | MetadataError]]:
    """Name and scene of each line, pictures' paths made absolute; a bad line's place and error."""
    names: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path.name}:{number}"
            try:
                scene = SCENE.validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                field = ".".join(map(str, first["loc"]))
                yield place, MetadataError(f"{place}: {field + ': ' * bool(field)}{first['msg']}")
                continue
            if scene.name in names:
                yield place, MetadataError(f"{place}: there is an earlier scene {scene.name!r}")
                continue
            names.add(scene.name)
            paths = picture_paths(scene.images.values(), path.parent)
            images = dict(zip(scene.images, paths, strict=True))
            yield scene.name, dataclasses.replace(scene, images=images)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
    return shared / (areas - shared) if areas > shared else 0.0


def relations(subject: Box, reference: Box) -> list[str]:
    """Where the subject's centre clearly lies from the reference's: clearest of RELATIONS first."""
    offset = [sum(subject[i::2]) / 2 - sum(reference[i::2]) / 2 for i in (0, 1)]
    size = {name: axis[0] * offset[0] + axis[1] * offset[1] for name, axis in RELATIONS.items()}
    return sorted((name for name in size if size[name] >= LEAST_OFFSET), key=lambda n: -size[n])
