"""How answers are scored."""

from __future__ import annotations

import pytest

from training import lab_skills
from training.lab_samples import EMBODIED, GENERAL


@pytest.mark.parametrize(
    ("score", "answer", "truth", "wanted"),
    [
        (lab_skills.is_near, "(40, 50)", "(44, 53)", 1.0),
        (lab_skills.is_near, "(40, 50)", "(44, 60)", 0.0),
        (lab_skills.is_near, "nothing", "(44, 60)", 0.0),
        (lab_skills.overlaps, "(10, 10, 30, 30)", "(12, 10, 32, 30)", 1.0),
        (lab_skills.overlaps, "(10, 10, 30, 30)", "(25, 25, 45, 45)", 0.0),
        (lab_skills.overlaps, "(30, 30, 10, 10)", "(10, 10, 30, 30)", 0.0),
        (lab_skills.same_state, "44 -20 19 -36 98", "45 -19 20 -30 100", 1.0),
        (lab_skills.same_state, "44 20 19 -36 98", "45 -19 20 -30 100", 0.0),
        (lab_skills.same_choice, "<think>so</think><answer>B</answer>", "<answer>B</answer>", 1.0),
        (lab_skills.same_choice, "B", "<answer>B</answer>", 0.0),
        (lab_skills.same_text, " yes", "yes", 1.0),
        (lab_skills.same_text, "no", "yes", 0.0),
    ],
)
def test_scores(score, answer: str, truth: str, wanted: float) -> None:
    assert score(answer, truth) == wanted


def test_an_answer_ends_at_its_end_token() -> None:
    assert lab_skills.clean("yes<|im_end|><|endoftext|>") == "yes"


def test_every_scored_category_is_asked_in_training() -> None:
    assert set(lab_skills.SCORES) <= {*GENERAL, *EMBODIED}
