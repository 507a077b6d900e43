"""Rewards of the alignments that the paper compares with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from training import rewards
from training.alternatives import (
    SCORERS,
    Reasoning,
    answer_of,
    chain_of_thought,
    format_of,
    points_of,
    points_text,
    response_text,
    score_fast,
    score_moves,
    score_trajectory,
    scorer,
    visual_reward,
    warping_distance,
)
from training.samples import Sample, SampleError

paths = arrays.arrays(
    np.float64, st.tuples(st.integers(2, 8), st.just(2)), elements=st.floats(0, 1, width=32)
)


def sample(answer):
    return Sample("made#0", "any", (), "What now?", answer)


@given(st.sampled_from(sorted(SCORERS)), st.text(max_size=60))
def test_every_reward_is_between_0_and_1_for_any_text(name, response):
    truth = {
        "fast": rewards.response_text("x", [1, 2]),
        "moves": response_text("x", "left, up"),
        "trajectory": response_text("x", "(1, 2) (30, 40)"),
    }[name]
    score = scorer(name)(response, sample(truth))
    assert all(0 <= value <= 1 for value in (score.reward, score.format, score.accuracy))
    assert scorer(name)(truth, sample(truth)).reward == pytest.approx(1.0)


def test_fast_is_the_paper_s_reward():
    truth = sample(rewards.response_text("x", [1, 2, 3, 4]))
    response = rewards.response_text("other words", [1, 2, 9])
    score = score_fast(response, truth)
    assert score.reward == rewards.reward(response, [1, 2, 3, 4]) == 0.75
    assert (score.format, score.accuracy) == (1.0, 0.5)
    with pytest.raises(SampleError, match="made#0"):
        score_fast(response, sample("left"))


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("<think>hm</think><answer>up, left</answer>", 1.0),
        ("<think>hm</think><answer>Left</answer>", 0.75),
        ("<think>hm</think><answer>right, down</answer>", 0.5),
        ("left, up", 0.5),
        ("", 0.0),
    ],
)
def test_moves_are_rewarded_by_form_and_right_words(response, reward):
    for truth in ("left, up", response_text("so", "left, up")):
        assert score_moves(response, sample(truth)).reward == pytest.approx(reward)


def test_a_choice_is_right_or_wrong():
    truth = sample(response_text("so", "B"))
    assert score_moves(response_text("so", "B"), truth).reward == 1.0
    assert score_moves(response_text("so", "C"), truth).reward == 0.5


@pytest.mark.parametrize(
    ("response", "form"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>a</think>\n<answer>b</answer>\n", 1.0),
        ("<think> </think><answer>b</answer>", 0.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<think>a<think>b</think><answer>c</answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("so <think>a</think><answer>b</answer>", 0.0),
        ("<answer>b</answer>", 0.0),
    ],
)
def test_the_form_is_one_thought_and_one_answer(response, form):
    assert format_of(response) == form


def test_an_answer_that_was_cut_is_still_read():
    assert answer_of("<think>a</think><answer>(1, 2) (3") == "(1, 2) (3"


@given(paths, paths)
def test_warping_is_symmetric_and_no_less_than_its_ends(one, other):
    distance = warping_distance(one, other)
    assert distance == pytest.approx(warping_distance(other, one))
    ends = np.linalg.norm(one[0] - other[0]) + np.linalg.norm(one[-1] - other[-1])
    assert distance >= ends - 1e-9
    assert warping_distance(one, one) == 0


@given(paths)
def test_waiting_on_the_way_costs_nothing(path):
    assert warping_distance(np.repeat(path, 2, axis=0), path) == pytest.approx(0)


def test_the_trajectory_reward_is_thinkact_s():
    truth = np.array([[0.0, 0.0], [0.5, 0.0]])
    path = np.array([[0.0, 0.1], [0.5, 0.2]])
    goal = ((1 - 0.01) + (1 - 0.04)) / 2
    assert visual_reward(path, truth) == pytest.approx((goal + (1 - 0.3)) / 2)
    response = response_text("so", points_text(path))
    score = score_trajectory(response, sample(points_text(truth)))
    assert score.reward == pytest.approx(0.1 + 0.9 * score.accuracy)
    assert score.accuracy == pytest.approx(visual_reward(path, truth))
    assert score_trajectory("no points", sample(points_text(truth))).reward == 0
    with pytest.raises(SampleError, match="no trajectory"):
        score_trajectory(response, sample("(1, 2)"))


@given(paths)
def test_points_come_back_to_a_hundredth(path):
    np.testing.assert_allclose(points_of(points_text(path)), path, atol=0.005 + 1e-9)


def test_a_chain_of_thought_is_a_valid_response_with_all_steps():
    reasoning = Reasoning(
        "put the cube away", ("reach", "grasp"), "reach", "down", "open", {"cube": "(1, 2)"}
    )
    text = chain_of_thought(reasoning, [4, 5])
    assert rewards.format_reward(text) == 1
    assert rewards.action_tokens(text) == [4, 5]
    for part in ("put the cube away", "reach; grasp", "down", "open", "cube (1, 2)"):
        assert part in text


def test_an_unknown_reward_is_named():
    with pytest.raises(ValueError, match=r"no reward 'x'; known are \['fast'"):
        scorer("x")
