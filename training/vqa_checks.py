"""The pairs of RoboAlign VQA by category, and what each must satisfy to be true of its scene."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from training.scene_metadata import (
    DIRECTIONS,
    RELATIONS,
    STRICT,
    Box,
    Fraction,
    SceneMetadata,
    Text,
    Vector7,
    iou,
    relations,
)

MOVES: Final = (*DIRECTIONS, "stay")
GRIPPER_CHANGES: Final = ("open", "close", "keep")
LEAST_IOU: Final = 0.5
STATE_TOLERANCE: Final = (0.005, 0.005, 0.005, 0.035, 0.035, 0.035, 0.05)
"""Metres, radians, opening."""


def _whole(label: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(label)}(?!\w)", re.IGNORECASE)


def mentions(text: str, label: str) -> bool:
    """Whether the text holds the label as whole words, in any case."""
    return _whole(label).search(text) is not None


def _without(text: str, labels: Iterable[str]) -> str:
    """The text with the labels taken out, the longest first."""
    for label in sorted(labels, key=len, reverse=True):
        text = _whole(label).sub("", text)
    return text


def named(text: str, claims: Iterable[str], *, without: Iterable[str] = ()) -> set[str]:
    """Claims that the text makes, by their first words ("left of" by "left", "close" by "closes").

    `without` are labels to overlook: the left drawer is not on the left for its name.
    """
    text = _without(text, without)
    stems = {claim: claim.split()[0].removesuffix("e") for claim in claims}
    return {c for c, s in stems.items() if re.search(rf"\b{s}(e|s|es|ing)?\b", text, re.IGNORECASE)}


def numbers(values: Sequence[float]) -> str:
    """Boxes and states as answers write them."""
    return "[" + ", ".join(f"{value:.3f}" for value in values) + "]"


class Pair(BaseModel):
    """One proposed question with a claim that `fault` can check; the subclasses are the categories.

    form is said behind the question: how the answer is to be written.
    """

    model_config = ConfigDict(**STRICT, frozen=True)
    form: ClassVar[str] = ""
    question: Text

    def cameras(self, scene: SceneMetadata) -> tuple[str, ...]:
        """Cameras whose pictures belong to the question."""
        return tuple(scene.images)

    def text(self) -> str:
        """The answer as it is written out."""
        return self.answer  # type: ignore[attr-defined]

    def fault(self, scene: SceneMetadata) -> str | None:
        """Why the claim does not hold in this scene; None if it does."""
        raise NotImplementedError


class _InPicture(Pair):
    camera: str

    def cameras(self, scene: SceneMetadata) -> tuple[str, ...]:
        return (self.camera,)

    def _unseen(self, scene: SceneMetadata, *labels: str) -> str | None:
        if self.camera not in scene.images:
            return "unknown_camera"
        if not set(labels) <= {item.label for item in scene.objects}:
            return "unknown_object"
        if not set(labels) <= scene.boxes(self.camera).keys():
            return "not_in_picture"
        named_all = all(mentions(self.question, label) for label in labels)
        return None if named_all else "question_disagrees"


class BoxPair(_InPicture):
    form = "Answer with its box [x0, y0, x1, y1] in fractions of the picture's width and height."
    category: Literal["box"]
    object: str
    box: Box

    def text(self) -> str:
        return numbers(self.box)

    def fault(self, scene: SceneMetadata) -> str | None:
        if unseen := self._unseen(scene, self.object):
            return unseen
        near = iou(self.box, scene.boxes(self.camera)[self.object]) >= LEAST_IOU
        return None if near else "box_iou"


class PointPair(_InPicture):
    form = "Answer with a point (x, y) in fractions of the picture's width and height."
    category: Literal["point"]
    object: str
    point: tuple[Fraction, Fraction]

    def text(self) -> str:
        return f"({self.point[0]:.3f}, {self.point[1]:.3f})"

    def fault(self, scene: SceneMetadata) -> str | None:
        if unseen := self._unseen(scene, self.object):
            return unseen
        (x0, y0, x1, y1), (x, y) = scene.boxes(self.camera)[self.object], self.point
        return None if x0 <= x <= x1 and y0 <= y <= y1 else "point_outside"


class RelationPair(_InPicture):
    category: Literal["relation"]
    subject: str
    relation: Literal["left of", "right of", "above", "below"]
    reference: str
    answer: Text

    def fault(self, scene: SceneMetadata) -> str | None:
        if unseen := self._unseen(scene, self.subject, self.reference):
            return unseen
        boxes = scene.boxes(self.camera)
        if self.relation not in relations(boxes[self.subject], boxes[self.reference]):
            return "wrong_relation"
        said = named(self.answer, RELATIONS, without=(self.subject, self.reference))
        return None if said == {self.relation} else "answer_disagrees"


class MovePair(Pair):
    category: Literal["move"]
    direction: Literal["forward", "backward", "left", "right", "up", "down", "stay"]
    answer: Text

    def fault(self, scene: SceneMetadata) -> str | None:
        if self.direction != scene.direction:
            return "wrong_direction"
        labels = [item.label for item in scene.objects]
        said = named(self.answer, MOVES, without=labels)
        return None if said == {self.direction} else "answer_disagrees"


class GripperPair(Pair):
    category: Literal["gripper"]
    change: Literal["open", "close", "keep"]
    answer: Text

    def fault(self, scene: SceneMetadata) -> str | None:
        if self.change != scene.gripper_change:
            return "wrong_gripper"
        said = named(self.answer, GRIPPER_CHANGES)
        return None if said == {self.change} else "answer_disagrees"


class StatePair(Pair):
    form = (
        "Answer with [x, y, z, roll, pitch, yaw, gripper] in metres, radians and opening 0 to 1, "
        "in the robot's base frame."
    )
    category: Literal["state"]
    state: Vector7

    def text(self) -> str:
        return numbers(self.state)

    def fault(self, scene: SceneMetadata) -> str | None:
        error = np.abs(np.subtract(self.state, scene.end_effector))
        turn = error[3:6] % math.tau
        error[3:6] = np.minimum(turn, math.tau - turn)
        return None if np.all(error <= STATE_TOLERANCE) else "wrong_state"


class TaskPair(Pair):
    category: Literal["task"]
    answer: Text

    def fault(self, scene: SceneMetadata) -> str | None:
        wanted, said = (
            set(re.findall(r"\w{3,}", text.lower())) for text in (scene.instruction, self.answer)
        )
        return None if len(wanted & said) >= 0.6 * len(wanted) else "wrong_task"


class CaptionPair(Pair):
    category: Literal["caption"]
    objects: Annotated[tuple[str, ...], Field(min_length=1)]
    answer: Text

    def fault(self, scene: SceneMetadata) -> str | None:
        if not set(self.objects) <= {item.label for item in scene.objects if item.boxes}:
            return "unknown_object"
        said = all(mentions(self.answer, label) for label in self.objects)
        return None if said else "answer_disagrees"


_PAIR: Final[TypeAdapter[Any]] = TypeAdapter(
    Annotated[
        BoxPair
        | PointPair
        | RelationPair
        | MovePair
        | GripperPair
        | StatePair
        | TaskPair
        | CaptionPair,
        Field(discriminator="category"),
    ]
)


def checked_pairs(
    reply: str, scene: SceneMetadata, vocabulary: frozenset[str] = frozenset()
) -> tuple[list[Pair], Counter[str]]:
    """The pairs of a generator's reply that hold in this scene, and the others' number by reason.

    vocabulary: labels of the whole data set; a pair that mentions one of them which the scene does
    not have is refused, whatever its claim.
    """
    try:
        proposed = json.loads(reply)["pairs"]
        if not isinstance(proposed, list):
            raise TypeError("pairs is no list")
    except (ValueError, KeyError, TypeError, RecursionError):
        return [], Counter(["not_json"])
    strange = vocabulary - {item.label for item in scene.objects}
    good: dict[tuple[str, tuple[str, ...]], Pair] = {}
    refused: Counter[str] = Counter()
    for item in proposed:
        try:
            pair = _PAIR.validate_json(json.dumps(item))
        except ValidationError:
            refused["schema"] += 1
            continue
        fault = pair.fault(scene) or _strangers(pair, scene, strange)
        key = (pair.question.strip().lower(), pair.cameras(scene))
        if fault or key in good:
            refused[fault or "duplicate"] += 1
        else:
            good[key] = pair
    return list(good.values()), refused


def _strangers(pair: Pair, scene: SceneMetadata, strange: Iterable[str]) -> str | None:
    labels = (item.label for item in scene.objects)
    text = _without(f"{pair.question}\n{pair.text()}", labels)
    found = any(mentions(text, s) and not mentions(scene.instruction, s) for s in strange)
    return "unknown_object" if found else None
