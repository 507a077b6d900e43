"""Multiple-choice questions: what becomes one, and what shuffling and rewording keep."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_scene import write_scenes
from hypothesis import given
from hypothesis import strategies as st

from training.multiple_choice import (
    WORDINGS,
    Mcq,
    questions_from_pairs,
    read_pairs,
    read_questions,
    reworded,
    shuffled,
    spatial_questions,
    write_questions,
)
from training.scene_metadata import read_scenes
from training.vqa import from_truth, generate

mcqs = st.builds(
    lambda choices, answer, wording: Mcq(
        "q#1", (), "Where is it?", tuple(choices), answer % len(choices), wording
    ),
    st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=8, unique=True),
    st.integers(0, 100),
    st.integers(0, len(WORDINGS) - 1),
)


@given(mcq=mcqs, seed=st.integers())
def test_shuffling_keeps_the_choices_and_the_letter_right(mcq: Mcq, seed: int) -> None:
    other = shuffled(mcq, random.Random(seed))
    assert sorted(other.choices) == sorted(mcq.choices)
    assert other.choices[other.answer] == mcq.choices[mcq.answer]
    assert f"({other.letter}) {mcq.choices[mcq.answer]}" in other.prompt
    assert (other.name, other.question, other.wording) == (mcq.name, mcq.question, mcq.wording)


@given(mcq=mcqs, seed=st.integers())
def test_rewording_changes_the_wording_alone(mcq: Mcq, seed: int) -> None:
    other = reworded(mcq, random.Random(seed))
    assert other.prompt != mcq.prompt
    assert (other.choices, other.letter) == (mcq.choices, mcq.letter)
    assert mcq.question in other.prompt


def test_shuffling_reaches_every_place() -> None:
    mcq, rng = Mcq("q#1", (), "Which?", ("a", "b", "c"), 0), random.Random(0)
    assert {shuffled(mcq, rng).letter for _ in range(100)} == {"A", "B", "C"}


@pytest.mark.parametrize("fields", [{"choices": ("a", "a")}, {"choices": ("a",)}, {"answer": 2}])
def test_bad_questions_are_refused(fields: dict[str, Any]) -> None:
    good = {"name": "q#1", "images": (), "question": "Which?", "choices": ("a", "b"), "answer": 1}
    Mcq(**good)
    with pytest.raises(ValueError):
        Mcq(**{**good, **fields})


def test_questions_come_from_pairs_and_from_space(tmp_path: Path) -> None:
    scenes, vqa, out = write_scenes(tmp_path), tmp_path / "vqa.jsonl", tmp_path / "mcq.jsonl"
    generate(scenes, vqa, from_truth, settings={})
    mcqs = list(questions_from_pairs(read_pairs(vqa), tmp_path, seed=0))
    for _, scene in read_scenes(scenes):
        mcqs += spatial_questions(scene, seed=0)
    assert write_questions(mcqs, out) == len(mcqs)
    found = {}
    for mcq in read_questions(out):
        assert mcq.name not in found
        assert all(image.is_file() for image in mcq.images)
        found[mcq.name] = (mcq.question, mcq.choices[mcq.answer], set(mcq.choices))
    first = {q: (a, c) for n, (q, a, c) in found.items() if n.startswith("scene-0")}
    assert first["Which lies furthest to the left in the picture?"][0] == "cup"
    assert first["Which lies furthest down in the picture?"] == ("bowl", {"cup", "bowl", "plate"})
    assert first["Which is nearest to the cup in the picture?"] == ("bowl", {"bowl", "plate"})
    seen = first["Where is the cup in the picture, seen from the plate?"]
    assert seen[0] == "above and to the left"
    assert len(seen[1]) == 4
    answers = [answer for answer, _ in first.values()]
    cup = next(choices for answer, choices in first.values() if answer.startswith("[0.100, 0.1"))
    # Boxes of the other objects alone: a mirrored one would tell which it mirrors.
    assert cup - {"[0.100, 0.100, 0.300, 0.300]"} == {
        "[0.200, 0.600, 0.500, 0.900]",
        "[0.700, 0.300, 0.900, 0.500]",
    }
    assert {"down", "close", "[0.100, 0.100, 0.300, 0.300]"} <= set(answers)
    assert "[0.400, 0.000, 0.200, 3.140, 0.000, -3.130, 1.000]" in answers


def pair(category: str, answer: str) -> dict[str, Any]:
    return {
        "name": "s#0",
        "images": ["a.png"],
        "category": category,
        "question": "Where?",
        "answer": answer,
    }


@pytest.mark.parametrize(
    ("category", "answer", "right"),
    [
        ("relation", "The cup is below the bowl.", "below"),
        ("move", "The hand moves left.", "left"),
        ("move", "It stays there.", "stay"),
        ("gripper", "It closes.", "close"),
        # What does not say one thing, or cannot be told from its wrong forms, is no question.
        ("relation", "The cup is left of the right shoe.", None),
        ("move", "It goes on.", None),
        ("caption", "A cup to the left.", None),
        ("task", "Pick up the cup.", None),
        ("point", "(0.1, 0.2)", None),
    ],
)
def test_only_what_a_pair_says_clearly_becomes_a_question(
    category: str, answer: str, right: str | None
) -> None:
    found = list(questions_from_pairs([pair(category, answer)], Path("/data"), seed=1))
    assert [mcq.choices[mcq.answer] for mcq in found] == ([right] if right else [])
    assert all(mcq.images == (Path("/data/a.png"),) for mcq in found)


@given(st.lists(st.floats(-1, 1), min_size=7, max_size=7), st.integers(0, 1000))
def test_wrong_states_lie_clearly_elsewhere(state: list[float], seed: int) -> None:
    text = "[" + ", ".join(f"{value:.3f}" for value in state) + "]"
    (mcq,) = questions_from_pairs([pair("state", text)], Path(), seed)
    values = np.array([json.loads(choice) for choice in mcq.choices])
    assert mcq.choices[mcq.answer] == text
    distances = np.linalg.norm(values[:, None, :3] - values[None, :, :3], axis=-1)
    assert distances[~np.eye(4, dtype=bool)].min() > 0.048
