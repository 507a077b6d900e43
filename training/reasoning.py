"""Reasoning dataset with zero-shot CoT (paper, section 4.1 and A.3).

Multiple-choice questions come from RoboAlign VQA pairs and from spatial relations among a scene's
key objects. GRPO trains the reasoning model on them with `mcq_reward`; its responses are sampled,
filtered by rules and by the right answer, and written as samples for SFT.

    python -m training.reasoning questions --vqa vqa.jsonl --metadata scenes.jsonl --out mcq.jsonl
    python -m training.reasoning distill --questions mcq.jsonl --out reasoning.jsonl \\
        --teacher http://127.0.0.1:8000/v1 --model NAME --samples 8

The endpoint must give the thoughts as text: a server's own reasoning parser stays off.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.jsonl_record import Record, Usage, picture_names
from training.multiple_choice import (
    Mcq,
    questions_from_pairs,
    read_pairs,
    read_questions,
    reworded,
    shuffled,
    spatial_questions,
    write_questions,
)
from training.samples import REASONING_SYSTEM
from training.scene_metadata import SceneMetadata, read_scenes
from training.teacher import (
    REFUSALS,
    PictureError,
    Teacher,
    TeacherError,
    TeacherRefused,
    add_teacher_options,
    config_from_options,
)

_FORMAT = re.compile(
    r"<think>(?P<thought>(?:(?!</?think>|</?answer>).)+)</think>\s*"
    r"<answer>\s*[A-Z]\s*</answer>\s*",
    re.DOTALL,
)
_ANSWER = re.compile(r"<answer>\s*\(?([A-Z])\)?\.?\s*</answer>")
_NAMES_A_CHOICE = re.compile(
    # A alone may be the article, so that it needs a neighbour that tells.
    r"\b[B-H]\b|\bA\b(?=[.,;:)'\"*]|\s*$| (?:is|seems|must be) (?:right|correct|wrong|false|true))"
    r"|\b(?i:choice|option|answer|letter)s?\b(?: (?:is|are|must be|would be|should be))?:? A\b"
    r"|\\boxed|\b(?i:first|second|third|fourth|last|former|latter) (?:choice|option|answer)"
)


def mcq_reward(completion: str, answer: str) -> float:
    """Rule reward of a response: the mean of format and correctness, each 0 or 1, as in Eq. 2.

    The format is `<think>...</think><answer>X</answer>` and nothing else; the letter counts
    whatever the format, as long as there is one answer.

    Raises:
        ValueError: answer is not a single letter A to Z.
    """
    if not re.fullmatch("[A-Z]", answer):
        raise ValueError(f"the right answer must be one letter A to Z, not {answer!r}")
    match = _FORMAT.fullmatch(completion)
    well_formed = match is not None and bool(match["thought"].strip())
    return (well_formed + (_ANSWER.findall(completion) == [answer])) / 2


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a thought worth learning from looks like.

    most_repeated: share of its four-word sequences that may have occurred before.
    """

    least_words: int = 8
    most_words: int = 400
    most_repeated: float = 0.3


def rule_fault(completion: str, rules: Rules) -> str | None:
    """Why the response is not to be learned from, its answer left aside; None if it is.

    A thought that names a choice by its letter or its place gives the answer away outside the
    answer tags, and would be wrong as soon as the choices stand in another order.
    """
    match = _FORMAT.fullmatch(completion)
    if match is None or not match["thought"].strip():
        return "format"
    words = match["thought"].lower().split()
    if not rules.least_words <= len(words) <= rules.most_words:
        return "too_short" if len(words) < rules.least_words else "too_long"
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    if len(grams) - len(set(grams)) > rules.most_repeated * len(grams):
        return "repetition"
    return "answer_leak" if _NAMES_A_CHOICE.search(match["thought"]) else None


Sampler = Callable[[Mcq, int], Sequence[str]]
"""Draws that many responses to a question from a reasoning model, wherever it runs."""


def teacher_sampler(teacher: Teacher, workers: int = 4) -> Sampler:
    """Samples from a chat endpoint, with the paper's system prompt for reasoning."""

    def sample(mcq: Mcq, count: int) -> Sequence[str]:
        def ask(_: int) -> str:
            return teacher.ask(mcq.prompt, mcq.images, system=REASONING_SYSTEM)

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(ask, range(count)))

    return sample


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """How many responses are drawn for each question, kept of the good ones, and varied.

    variations: copies of each kept response in another wording and order of choices.
    """

    samples: int = 8
    keep: int = 2
    variations: int = 1
    seed: int = 0
    rules: Rules = Rules()


def select(
    mcq: Mcq, completions: Sequence[str], config: DistillationConfig
) -> tuple[list[tuple[Mcq, str]], Counter[str]]:
    """Questions with the thoughts to learn for them, and the number of responses at each filter."""
    counts: Counter[str] = Counter(sampled=len(completions))
    thoughts: list[str] = []
    for completion in completions:
        fault = rule_fault(completion, config.rules)
        counts["rules_passed"] += fault is None
        if fault is None and _ANSWER.findall(completion) != [mcq.letter]:
            fault = "wrong_answer"
        counts["correct"] += fault is None
        if fault is None:
            thought = _FORMAT.fullmatch(completion)["thought"].strip()
            fault = "duplicate" if thought in thoughts else None
            fault = fault or ("surplus" if len(thoughts) == config.keep else None)
        if fault:
            counts[f"refused_{fault}"] += 1
        else:
            thoughts.append(thought)
    rng = random.Random(zlib.crc32(mcq.name.encode()) + config.seed)
    chosen = [(mcq, thought) for thought in thoughts]
    for thought in thoughts:
        for _ in range(config.variations):
            chosen.append((reworded(shuffled(mcq, rng), rng), thought))
    counts.update(kept=len(thoughts), variations=len(chosen) - len(thoughts))
    return chosen, +counts


def distill(
    mcqs: Iterable[Mcq],
    out: Path,
    sampler: Sampler,
    config: DistillationConfig,
    *,
    settings: dict[str, Any],
    usage: Callable[[], Usage] = Usage,
) -> Record:
    """Append the dataset's lines for all questions that `out` does not have yet.

    Lines have the fields name, images (relative to out's folder), category, system, question and
    answer (`<think>...</think><answer>X</answer>`); `sources.reasoning` reads them.

    Raises:
        RecordError: out belongs to a run of other settings or cannot be written.
        TeacherError: the teacher cannot be used, or refused its last five questions.
    """
    refusals, spent = 0, Usage()
    settings = {**settings, "distillation": dataclasses.asdict(config)}
    with Record(out, settings) as record, tqdm(desc="questions") as bar:
        for mcq in mcqs:
            bar.update()
            if mcq.name in record.finished:
                continue
            try:
                chosen, counts = select(mcq, sampler(mcq, config.samples), config)
                refusals = 0
            except (PictureError, TeacherRefused) as error:
                tqdm.write(f"{mcq.name}: {error}", file=sys.stderr)
                refused = isinstance(error, TeacherRefused)
                refusals += refused
                if refusals == REFUSALS:
                    raise TeacherError(
                        f"the teacher refused {REFUSALS} questions in a row"
                    ) from error
                chosen, counts = [], Counter(["teacher_refused" if refused else "picture"])
            lines = [_line(varied, thought, out.parent) for varied, thought in chosen]
            now = usage()
            record.add(mcq.name, lines, counts, now - spent)
            spent = now
            bar.set_postfix(lines=record.lines, cost=f"${record.usage.cost:.4f}")
    return record


def _line(mcq: Mcq, thought: str, folder: Path) -> dict[str, Any]:
    return {
        "images": picture_names(mcq.images, folder),
        "category": "reasoning",
        "system": REASONING_SYSTEM,
        "question": mcq.prompt,
        "answer": f"<think>{thought}</think><answer>{mcq.letter}</answer>",
    }


def _all_questions(options: argparse.Namespace) -> Iterator[Mcq]:
    if options.vqa:
        pairs = read_pairs(options.vqa)
        yield from questions_from_pairs(pairs, options.vqa.parent, options.seed)
    if options.metadata:
        for _, scene in read_scenes(options.metadata):
            if isinstance(scene, SceneMetadata):
                yield from spatial_questions(scene, options.seed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Multiple-choice questions and reasoning.")
    commands = parser.add_subparsers(dest="command", required=True)
    questions = commands.add_parser("questions", help="write multiple-choice questions")
    questions.add_argument("--vqa", type=Path, help="what training.vqa wrote")
    questions.add_argument("--metadata", type=Path, help="what training.vqa read")
    distillation = commands.add_parser("distill", help="sample and filter responses")
    distillation.add_argument("--questions", type=Path, required=True)
    distillation.add_argument("--samples", type=int, default=DistillationConfig.samples)
    distillation.add_argument("--keep", type=int, default=DistillationConfig.keep)
    add_teacher_options(distillation, required=True)
    for command in (questions, distillation):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if options.command == "questions":
            report = {"questions": write_questions(_all_questions(options), options.out)}
        else:
            teacher_config = config_from_options(options)
            config = DistillationConfig(options.samples, options.keep, seed=options.seed)
            with Teacher(teacher_config) as teacher:
                report = distill(
                    read_questions(options.questions),
                    options.out,
                    teacher_sampler(teacher, options.workers),
                    config,
                    settings={"model": teacher_config.model},
                    usage=lambda: teacher.usage,
                ).summary()
    except (OSError, ValueError, TeacherError) as error:
        sys.exit(f"reasoning: {error}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
