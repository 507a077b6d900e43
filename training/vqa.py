"""RoboAlign VQA (paper, section 4.1): questions and answers from robot pictures and their metadata.

A generator proposes pairs as JSON: a teacher that sees the pictures and the metadata, or templates
filled from the metadata alone. Either way each pair is checked against the metadata, refused pairs
are counted by reason, and a stopped run goes on where it was.

    python -m training.vqa --metadata scenes.jsonl --out vqa.jsonl
    python -m training.vqa --metadata scenes.jsonl --out vqa.jsonl --teacher https://host/v1 \\
        --model NAME --price-in 1.25 --price-out 10
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from training.jsonl_record import Record, Usage, picture_names
from training.scene_metadata import SCENE, MetadataError, SceneMetadata, read_scenes, relations
from training.teacher import (
    REFUSALS,
    PictureError,
    Teacher,
    TeacherError,
    TeacherRefused,
    add_teacher_options,
    config_from_options,
    data_url,
)
from training.vqa_checks import checked_pairs

Generator = Callable[[SceneMetadata], str]
"""Proposes pairs for a scene as JSON text {"pairs": [...]}; whatever it says is checked."""

WORDINGS: Final = {
    "box": ("Where is the {object}?", "Find the {object} in the picture."),
    "point": ("Point at the {object}.", "Where would you touch the {object}?"),
    "relation": (
        "Where is the {subject} in the picture, seen from the {reference}?",
        "How does the {subject} lie to the {reference} in the picture?",
    ),
    "move": (
        "Where does the hand mainly move next, from the robot's point of view?",
        "To {instruction}: where must the hand mainly go now, from the robot's point of view?",
    ),
    "gripper": ("What does the gripper do next?", "To {instruction}: what must the gripper do?"),
    "state": ("What is the state of the end effector?", "In what state is the robot's hand now?"),
    "task": ("What is the robot's task?", "What is the robot about to do?"),
    "caption": ("Describe the scene.", "What do you see?"),
}
_GRIPPER_ANSWER: Final = {
    "open": "The gripper opens.",
    "close": "The gripper closes.",
    "keep": "The gripper keeps its width.",
}


def from_truth(scene: SceneMetadata, seed: int = 0) -> str:
    """Generator without a teacher: every pair that the metadata support, in one of its wordings."""
    rng = random.Random(zlib.crc32(scene.name.encode()) + seed)
    pairs: list[dict[str, Any]] = []

    def add(category: str, **claim: Any) -> None:
        wording = rng.choice(WORDINGS[category])
        question = wording.format(instruction=scene.instruction, **claim)
        pairs.append({"category": category, "question": question, **claim})

    seen = sorted({label for camera in scene.images for label in scene.boxes(camera)})
    if seen:
        answer = f"Seen here: {', '.join(seen)}. The robot's task is to {scene.instruction}."
        add("caption", objects=seen, answer=answer)
    add("task", answer=f"The robot's task is to {scene.instruction}.")
    add("state", state=scene.end_effector)
    add("gripper", change=scene.gripper_change, answer=_GRIPPER_ANSWER[scene.gripper_change])
    if scene.direction == "stay":
        add("move", direction="stay", answer="The hand should stay where it is.")
    elif scene.direction:
        add("move", direction=scene.direction, answer=f"The hand moves {scene.direction}.")
    for camera in scene.images:
        boxes = scene.boxes(camera)
        for label, (x0, y0, x1, y1) in boxes.items():
            add("box", camera=camera, object=label, box=boxes[label])
            add("point", camera=camera, object=label, point=((x0 + x1) / 2, (y0 + y1) / 2))
        for a, b in itertools.combinations(boxes, 2):
            subject, reference = rng.sample((a, b), 2)
            if found := relations(boxes[subject], boxes[reference]):
                claim = {"subject": subject, "relation": found[0], "reference": reference}
                answer = f"The {subject} is {found[0]} the {reference}."
                add("relation", camera=camera, **claim, answer=answer)
    return json.dumps({"pairs": pairs})


TEACHER_PROMPT: Final = """\
The pictures, in this order, come from the cameras {cameras} of a robot at work. What is known:
{metadata}
Boxes are [x0, y0, x1, y1] in fractions of the picture's width and height. end_effector and
next_actions are [x, y, z, roll, pitch, yaw, gripper]: metres, radians and opening 0 to 1, in the
robot's base frame (x forward, y left, z up); next_actions are changes, but for the gripper.

Write {count} varied questions with answers that teach a robot to see and to act here. Answer with
one JSON object {{"pairs": [...]}} and nothing else. Each pair has "category", "question" and
exactly the fields of its category:
- "caption": "objects" (labels described), "answer" (one to three sentences that name each of them)
- "box": "camera", "object", "box"
- "point": "camera", "object", "point" [x, y] on the object, for instance where to grasp it
- "relation": "camera", "subject", "relation" (left of, right of, above or below, as the picture
  shows it), "reference", "answer" (a sentence with that relation and no other)
- "move": "direction" of the hand over the next actions from the robot's point of view (the one of
  forward, backward, left, right, up, down that prevails, or stay), "answer" (a sentence with it)
- "gripper": "change" (open, close or keep), "answer" (a sentence with that word)
- "state": "state" (seven numbers)
- "task": "answer" (what the robot is to do, in the instruction's words)
Name objects by their labels alone, and in each question those that the pair is about."""


def teacher_prompt(scene: SceneMetadata, count: int = 12) -> str:
    """What the teacher is asked about a scene; it sees the pictures beside it."""
    known = SCENE.dump_python(scene, mode="json", exclude={"name", "images"})
    cameras = ", ".join(scene.images)
    return TEACHER_PROMPT.format(cameras=cameras, metadata=json.dumps(known), count=count)


def from_teacher(teacher: Teacher) -> Generator:
    """Generator that asks the teacher once a scene."""

    def ask(scene: SceneMetadata) -> str:
        pictures = tuple(scene.images.values())
        return teacher.ask(teacher_prompt(scene), pictures, json_object=True)

    return ask


def _propose(scene: SceneMetadata | MetadataError, generator: Generator) -> tuple[str, str]:
    """Reply and nothing, or nothing and the reason why there is none."""
    if isinstance(scene, MetadataError):
        tqdm.write(str(scene), file=sys.stderr)
        return "", "metadata"
    try:
        for picture in scene.images.values():
            data_url(picture)
        reply = generator(scene)
        return reply, "" if reply else "no_answer"
    except (PictureError, TeacherRefused) as error:
        tqdm.write(f"{scene.name}: {error}", file=sys.stderr)
        return "", "picture" if isinstance(error, PictureError) else "teacher_refused"


def generate(
    metadata: Path,
    out: Path,
    generator: Generator,
    *,
    settings: dict[str, Any],
    usage: Callable[[], Usage] = Usage,
    workers: int = 1,
) -> Record:
    """Append the pairs of all scenes that `out` does not have yet, in the metadata's order.

    Lines have the fields name ("scene#3"), images (relative to out's folder), category, question
    and answer. usage tells what the generator has spent since this call.

    Raises:
        RecordError: out belongs to a run of other settings or cannot be written.
        TeacherError: the teacher cannot be used, or refused its last five scenes.
    """
    total, labels = 0, set[str]()
    for _, scene in read_scenes(metadata):
        total += 1
        labels |= {o.label for o in scene.objects} if isinstance(scene, SceneMetadata) else set()
    with (
        Record(out, settings) as record,
        tqdm(total=total, desc="scenes", initial=len(record.finished)) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        waiting: deque[tuple[str, SceneMetadata | MetadataError, Future[tuple[str, str]]]] = deque()
        refusals, spent = 0, Usage()

        def finish() -> None:
            nonlocal refusals, spent
            name, scene, proposal = waiting.popleft()
            reply, problem = proposal.result()
            refusals = refusals + 1 if problem == "teacher_refused" else 0
            if refusals == REFUSALS:
                raise TeacherError(f"the teacher refused {REFUSALS} scenes in a row; see above why")
            lines, counts = _lines(reply, scene, frozenset(labels), out)
            now = usage()
            record.add(name, lines, Counter([problem]) if problem else counts, now - spent)
            spent = now
            bar.set_postfix(
                pairs=record.lines,
                refused=record.counts.total(),
                cost=f"${record.usage.cost:.4f}",
            )
            bar.update()

        try:
            for name, scene in read_scenes(metadata):
                if name not in record.finished:
                    waiting.append((name, scene, pool.submit(_propose, scene, generator)))
                if len(waiting) > 2 * workers:
                    finish()
            while waiting:
                finish()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return record


def _lines(
    reply: str, scene: SceneMetadata | MetadataError, labels: frozenset[str], out: Path
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """What to write of a reply, without names, and the number of refused pairs by reason."""
    if not reply or isinstance(scene, MetadataError):
        return [], Counter()
    pairs, refused = checked_pairs(reply, scene, labels)
    lines = [
        {
            "images": picture_names((scene.images[c] for c in pair.cameras(scene)), out.parent),
            "category": pair.category,
            "question": f"{pair.question.strip()} {pair.form}".rstrip(),
            "answer": pair.text().strip(),
        }
        for pair in pairs
    ]
    return lines, refused


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write RoboAlign VQA from scene metadata.")
    parser.add_argument("--metadata", type=Path, required=True, help="JSON lines of SceneMetadata")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; a stopped run goes on")
    parser.add_argument("--seed", type=int, default=0, help="of the templates' wordings")
    add_teacher_options(parser, required=False)
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if options.teacher is None:
            settings = {"generator": "truth", "seed": options.seed}
            generator = partial(from_truth, seed=options.seed)
            record = generate(options.metadata, options.out, generator, settings=settings)
        else:
            config = config_from_options(options)
            settings = {"generator": "teacher", "model": config.model}
            with Teacher(config) as teacher:
                record = generate(
                    options.metadata,
                    options.out,
                    from_teacher(teacher),
                    settings=settings,
                    usage=lambda: teacher.usage,
                    workers=options.workers,
                )
    except (OSError, ValueError, TeacherError) as error:
        sys.exit(f"vqa: {error}")
    print(json.dumps(record.summary()))


if __name__ == "__main__":
    main()
