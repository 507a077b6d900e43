"""Eq. 2 exactly, and the format that the paper's Table 1 shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.rewards import (
    action_tokens,
    format_reward,
    prefix_accuracy,
    response_text,
    reward,
)

tokens = st.lists(st.integers(0, 2047), max_size=30)
targets = st.lists(st.integers(0, 2047), min_size=1, max_size=30)


@given(generated=tokens, target=targets)
def test_prefix_accuracy_is_equation_2(generated: list[int], target: list[int]) -> None:
    common = [
        i for i in range(1, len(target) + 1) if generated[:i] == target[:i] and i <= len(generated)
    ]
    assert prefix_accuracy(generated, target) == (max(common) if common else 0) / len(target)


@given(target=targets, extra=tokens)
def test_a_right_prefix_is_worth_its_share_and_more_tokens_cost_nothing(
    target: list[int], extra: list[int]
) -> None:
    assert prefix_accuracy([*target, *extra], target) == 1.0
    for cut in range(len(target)):
        assert prefix_accuracy(target[:cut], target) == cut / len(target)


@given(target=targets, generated=tokens)
def test_reward_is_the_mean_of_both_and_the_text_is_read_back(
    target: list[int], generated: list[int]
) -> None:
    text = response_text("Move down to the cup.", generated)
    assert action_tokens(text) == generated
    assert reward(text, target) == (1.0 + prefix_accuracy(generated, target)) / 2


@pytest.mark.parametrize(
    "response",
    [
        "",
        "<answer><ACTION_START><action_1><ACTION_END></answer>",
        "<think></think><answer><ACTION_START><action_1><ACTION_END></answer>",
        "<think> \n</think><answer><ACTION_START><action_1><ACTION_END></answer>",
        "<think>go</think><answer><action_1></answer>",
        "<think>go</think><answer><ACTION_START><action_1></answer>",
        "<think>go</think><answer><ACTION_START><action_1><ACTION_END>",
        "<think>go<think></think><answer><ACTION_START><action_1><ACTION_END></answer>",
        "so <think>go</think><answer><ACTION_START><action_1><ACTION_END></answer>",
        "<think>go</think><answer><ACTION_START><action_1>left<ACTION_END></answer>",
        "<think>go</think><answer><ACTION_START><action_1><ACTION_END></answer> more",
    ],
)
def test_every_other_form_earns_no_format_reward(response: str) -> None:
    assert format_reward(response) == 0.0


def test_a_wrong_form_keeps_its_accuracy() -> None:
    assert reward("<ACTION_START><action_5><action_6>", [5, 6]) == 0.5


def test_an_empty_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="no action tokens"):
        prefix_accuracy([1], [])
