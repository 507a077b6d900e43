"""Questions and answers from the simulator's truth."""

from __future__ import annotations

import numpy as np
import pytest
from made_frames import chunk, frame, world_data

from training import lab_samples, rewards
from training.fast_tokenizer import FastTokenizer
from training.lab_samples import EMBODIED, GENERAL, MIXTURES, LabSamples, Moment
from training.samples import REASONING_SYSTEM


def moment(**changes: object) -> Moment:
    return Moment(frame(**changes), np.zeros((2, 128, 128, 3), np.uint8), chunk())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def fast() -> FastTokenizer:
    return FastTokenizer.fit(world_data(20).chunks, scale=5.0, vocabulary=128)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (chunk(x=0.1), "forward, open"),
        (chunk(y=-0.1, z=0.05, opening=0.0), "right, up, close"),
        (chunk(x=0.005, opening=0.0), "stay, close"),
    ],
)
def test_moves_in_words(way: np.ndarray, words: str) -> None:
    assert lab_samples.move_words(way) == words


def test_a_caption_names_everything() -> None:
    _, answer = lab_samples.caption(moment(), rng())
    assert answer == "basket, blue can, bowl, plate, red block."


def test_points_are_hundredths_and_stay_inside() -> None:
    assert lab_samples.hundredths((0.304, 1.7)) == "(30, 100)"


@pytest.mark.parametrize("seed", range(12))
def test_relations_agree_with_the_picture(seed: int) -> None:
    question, answer = lab_samples.relation(moment(), rng(seed))
    places = {e.name: e.points["front"] for e in frame().entities}
    for words, axis, sign in (
        ("left of", 0, 1), ("right of", 0, -1), ("behind", 1, 1), ("in front of", 1, -1),
    ):  # fmt: skip
        if f" {words} the " in question:
            one, other = question.removeprefix("Is the ").split(f" {words} the ")
            other = other.removesuffix(" in the first picture?")
            holds = sign * (places[other][axis] - places[one][axis]) > 0
            assert answer == ("yes" if holds else "no")
            return
    raise AssertionError(question)


@pytest.mark.parametrize("seed", range(8))
def test_the_letter_of_a_choice_stands_before_the_truth(seed: int) -> None:
    question, answer = lab_samples.reasoning(moment(), rng(seed))
    letter = answer.partition("<answer>")[2][0]
    thought = answer.partition(": ")[2].partition(".")[0]
    assert f"{letter} {thought}" in question


def test_every_category_builds_and_action_answers_decode(fast: FastTokenizer) -> None:
    data = world_data()
    for category in (*GENERAL, *EMBODIED, "fast", "fast_reasoning", "fast_ecot"):
        samples = LabSamples(data, {category: 1.0}, 4, 0, fast)
        sample = samples[0]
        assert sample.category == category
        if category.startswith("fast"):
            tokens = rewards.action_tokens(sample.answer)
            assert fast.encode(sample.chunk[None])[0] == tokens
            fast.decode([tokens])
        if category in ("fast_reasoning", "fast_ecot"):
            assert rewards.reward(sample.answer, tokens) == 1.0
            assert sample.system == REASONING_SYSTEM


def test_a_sample_depends_on_seed_and_index_alone(fast: FastTokenizer) -> None:
    data = world_data()
    one, other = (LabSamples(data, MIXTURES["sft"], 30, 4, fast) for _ in range(2))
    forward = [one[i] for i in range(30)]
    backward = [other[i] for i in reversed(range(30))][::-1]
    assert [(s.question, s.answer) for s in forward] == [(s.question, s.answer) for s in backward]
    assert len({s.category for s in forward}) > 5
    with pytest.raises(IndexError):
        one[30]


def test_unknown_categories_are_refused(fast: FastTokenizer) -> None:
    with pytest.raises(ValueError, match="captions"):
        LabSamples(world_data(), {"captions": 1.0}, 1, 0, fast)


def test_held_out_frames_are_whole_rollouts(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    data = world_data(rollouts=5, frames=3)
    monkeypatch.setattr(lab_samples.OtherWorldData, "load", lambda _: data)
    _, kept, held_out = lab_samples.load(tmp_path, held_out=0.3)
    assert sorted([*kept, *held_out]) == list(range(15))
    names = [{data.frames[i].name.partition("#")[0] for i in part} for part in (kept, held_out)]
    assert names[0] and names[1] and not names[0] & names[1]
