"""Multiple-choice questions (paper, A.3) from RoboAlign VQA pairs and from where objects lie."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import string
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from training.jsonl_record import picture_names, picture_paths
from training.scene_metadata import LEAST_OFFSET, RELATIONS, Box, SceneMetadata, iou
from training.vqa_checks import GRIPPER_CHANGES, MOVES, BoxPair, StatePair, named, numbers

WORDINGS: Final = (
    "{question}\n{choices}\nAnswer with the letter of the right choice.",
    "Which choice is right?\n{question}\n{choices}",
    "Look at the scene and choose.\n{question}\n{choices}\nGive one letter.",
)
OPPOSITE: Final = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "forward": "backward",
    "backward": "forward",
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Mcq:
    """A question with choices, the right one at index `answer`; `wording` is one of WORDINGS."""

    name: str
    images: tuple[Path, ...]
    question: Annotated[str, Field(pattern=r"\S")]
    choices: Annotated[tuple[str, ...], Field(min_length=2, max_length=26)]
    answer: Annotated[int, Field(ge=0)]
    wording: Annotated[int, Field(ge=0, lt=len(WORDINGS))] = 0

    def __post_init__(self) -> None:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"{self.name}: a choice is there twice: {self.choices}")
        if self.answer >= len(self.choices):
            raise ValueError(f"{self.name}: no choice {self.answer} among {len(self.choices)}")

    @property
    def letter(self) -> str:
        return string.ascii_uppercase[self.answer]

    @property
    def prompt(self) -> str:
        """Question and choices as the model reads them."""
        lettered = zip(string.ascii_uppercase, self.choices, strict=False)
        choices = "\n".join(f"({letter}) {choice}" for letter, choice in lettered)
        return WORDINGS[self.wording].format(question=self.question, choices=choices)


def shuffled(mcq: Mcq, rng: random.Random) -> Mcq:
    """The same question with its choices in another random order, the answer following."""
    order = rng.sample(range(len(mcq.choices)), len(mcq.choices))
    choices = tuple(mcq.choices[i] for i in order)
    return dataclasses.replace(mcq, choices=choices, answer=order.index(mcq.answer))


def reworded(mcq: Mcq, rng: random.Random) -> Mcq:
    """The same question in a wording other than its present one."""
    others = [i for i in range(len(WORDINGS)) if i != mcq.wording]
    return dataclasses.replace(mcq, wording=rng.choice(others))


def questions_from_pairs(lines: Iterable[dict[str, Any]], folder: Path, seed: int) -> Iterator[Mcq]:
    """Questions from RoboAlign VQA lines (boxes, relations, moves, gripper and states).

    Pairs whose answer does not say exactly one thing, or that lack wrong choices, are left out.
    """
    for _, group in itertools.groupby(lines, lambda line: line["name"].rpartition("#")[0]):
        scene = list(group)
        for line in scene:
            rng = random.Random(zlib.crc32(line["name"].encode()) + seed)
            boxes = [other["answer"] for other in scene if _same_picture(other, line)]
            right, wrong = _choices(line["category"], line["answer"], boxes, rng)
            if wrong:
                question = line["question"].removesuffix(BoxPair.form).removesuffix(StatePair.form)
                images = picture_paths(line["images"], folder)
                yield _mcq(line["name"], images, question.strip(), right, wrong, rng)


def _same_picture(other: dict[str, Any], line: dict[str, Any]) -> bool:
    return other["category"] == "box" and other["images"] == line["images"] and other != line


def _choices(
    category: str, answer: str, boxes: Sequence[str], rng: random.Random
) -> tuple[str, list[str]]:
    """The right choice and wrong ones; none of them where the pair makes no question."""
    if category == "box":
        return answer, _other_boxes(answer, boxes, rng)
    if category == "state":
        return answer, _other_states(json.loads(answer), rng)
    kinds = {"relation": tuple(RELATIONS), "move": MOVES, "gripper": GRIPPER_CHANGES}
    claims = kinds.get(category, ())
    said = named(answer, claims)
    if len(said) != 1:
        return answer, []
    right = said.pop()
    others = [claim for claim in claims if claim not in (right, OPPOSITE.get(right))]
    if category == "relation":
        return right, [OPPOSITE[right]]  # the other axis may hold as well
    opposite = [OPPOSITE[right]] if right in OPPOSITE else []
    return right, opposite + rng.sample(others, min(2, len(others)))


def _other_boxes(answer: str, boxes: Sequence[str], rng: random.Random) -> list[str]:
    """Boxes of other objects, else the right one mirrored, that hardly overlap it or each other."""
    x0, y0, x1, y1 = json.loads(answer)
    mirrored = [
        (1 - x1, y0, 1 - x0, y1),
        (x0, 1 - y1, x1, 1 - y0),
        (1 - x1, 1 - y1, 1 - x0, 1 - y0),
    ]
    # Never both kinds at once: the one box that has a mirror image would be the right one.
    candidates = [tuple(json.loads(text)) for text in rng.sample(boxes, len(boxes))] or mirrored
    taken: list[Box] = [(x0, y0, x1, y1)]
    for box in candidates:
        if all(iou(box, other) < 0.3 for other in taken):
            taken.append(box)
    return [numbers(box) for box in taken[1:4]]


def _other_states(state: Sequence[float], rng: random.Random) -> list[str]:
    """Three states with the position elsewhere, 5 cm at least from the right one and each other.

    All four are drawn around a common middle, so that the right one does not stand out by it.
    """
    while True:
        offsets = [[rng.uniform(-0.1, 0.1) for _ in range(3)] for _ in range(4)]
        if all(math.dist(a, b) >= 0.05 for a, b in itertools.combinations(offsets, 2)):
            break
    return [
        numbers([v + b - a for v, a, b in zip(state, offsets[0], other, strict=False)] + state[3:])
        for other in offsets[1:]
    ]


def spatial_questions(scene: SceneMetadata, seed: int) -> Iterator[Mcq]:
    """Questions on where the key objects lie in each picture, where that is clear."""
    rng = random.Random(zlib.crc32(scene.name.encode()) + seed)
    number = itertools.count()
    for camera, image in scene.images.items():
        centres = {
            label: np.array([(x0 + x1) / 2, (y0 + y1) / 2])
            for label, (x0, y0, x1, y1) in scene.boxes(camera).items()
        }
        for question, right, wrong in itertools.chain(
            _outermost(centres, rng), _quadrants(centres), _nearest(centres)
        ):
            name = f"{scene.name}/spatial#{next(number)}"
            yield _mcq(name, (image,), question, right, wrong, rng)


Centres = dict[str, np.ndarray]
Question = tuple[str, str, list[str]]


def _outermost(centres: Centres, rng: random.Random) -> Iterator[Question]:
    places = dict(zip(RELATIONS, ("to the left", "to the right", "up", "down"), strict=True))
    for relation, axis in RELATIONS.items():
        order = sorted(centres, key=lambda label: -float(centres[label] @ axis))
        if len(order) > 1 and (centres[order[0]] - centres[order[1]]) @ axis >= LEAST_OFFSET:
            wrong = rng.sample(order[1:], min(3, len(order) - 1))
            yield f"Which lies furthest {places[relation]} in the picture?", order[0], wrong


def _quadrants(centres: Centres) -> Iterator[Question]:
    corners = [
        f"{y} {x}" for y in ("above and to the", "below and to the") for x in ("left", "right")
    ]
    for subject, reference in itertools.combinations(centres, 2):
        x, y = centres[subject] - centres[reference]
        if min(abs(x), abs(y)) >= LEAST_OFFSET:
            right = corners[2 * (y > 0) + (x > 0)]
            question = f"Where is the {subject} in the picture, seen from the {reference}?"
            yield question, right, [corner for corner in corners if corner != right]


def _nearest(centres: Centres) -> Iterator[Question]:
    for subject in centres:
        distance = {
            label: math.dist(centres[label], centres[subject])
            for label in centres
            if label != subject
        }
        order = sorted(distance, key=distance.__getitem__)
        if len(order) > 1 and distance[order[1]] - distance[order[0]] >= LEAST_OFFSET:
            yield f"Which is nearest to the {subject} in the picture?", order[0], order[1:4]


def _mcq(
    name: str,
    images: tuple[Path, ...],
    question: str,
    right: str,
    wrong: Sequence[str],
    rng: random.Random,
) -> Mcq:
    return shuffled(Mcq(name, images, question, (right, *wrong), 0), rng)


_MCQ: Final = TypeAdapter(Mcq)


def write_questions(mcqs: Iterable[Mcq], out: Path) -> int:
    """Write questions as JSON lines, images relative to out's folder; returns their number."""
    temporary = out.with_name(out.name + ".tmp")
    count = 0
    with temporary.open("w", encoding="utf-8") as file:
        for mcq in mcqs:
            images = picture_names(mcq.images, out.parent)
            line = _MCQ.dump_python(mcq, mode="json") | {"images": images}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    temporary.replace(out)
    return count


def read_questions(path: Path) -> Iterator[Mcq]:
    """Questions of `write_questions`, images' paths made absolute; ValueError if damaged."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                mcq = _MCQ.validate_json(text)
            except ValidationError as error:
                problem = error.errors(include_url=False, include_input=False)[0]["msg"]
                raise ValueError(f"{path.name}:{number}: {problem}; write it anew") from error
            yield dataclasses.replace(mcq, images=picture_paths(mcq.images, path.parent))


def read_pairs(path: Path) -> Iterator[dict[str, Any]]:
    """Lines that `vqa.generate` wrote; ValueError if damaged."""
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                lacking = {"name", "images", "category", "question", "answer"} - line.keys()
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{path.name}:{number}: no JSON object ({error})") from error
            if lacking:
                raise ValueError(f"{path.name}:{number}: lacks {', '.join(sorted(lacking))}")
            yield line
