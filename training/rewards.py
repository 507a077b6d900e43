"""GRPO's reward (paper, section 4.2): right format and right action prefix, in equal parts.

A response is `<think>...</think><answer><ACTION_START>...<ACTION_END></answer>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.vocabulary import ACTION_END, ACTION_START, action_token

_RESPONSE = re.compile(
    r"<think>(?P<thought>(?:(?!</?think>|</?answer>).)+)</think>\s*"
    rf"<answer>{ACTION_START}(?P<actions>(?:<action_\d+>)*){ACTION_END}</answer>\s*",
    re.DOTALL,
)
_ACTION = re.compile(r"<action_(\d+)>")


def action_tokens(response: str) -> list[int]:
    """FAST tokens after the first <ACTION_START>, up to the first thing that is none.

    Eq. 2 rewards a right prefix whatever the format; the format has its own reward.
    """
    _, found, rest = response.partition(ACTION_START)
    tokens: list[int] = []
    position = 0
    while found and (match := _ACTION.match(rest, position)):
        tokens.append(int(match.group(1)))
        position = match.end()
    return tokens


def format_reward(response: str) -> float:
    """r_f: 1 if the whole response has the required form with some thought in it, else 0."""
    match = _RESPONSE.fullmatch(response)
    return float(match is not None and bool(match.group("thought").strip()))


def prefix_accuracy(generated: Sequence[int], target: Sequence[int]) -> float:
    """r_a of Eq. 2: length of the common prefix over the target's length m; 0 if none is common.

    Raises:
        ValueError: the target is empty.
    """
    if not target:
        raise ValueError("the target has no action tokens")
    common = 0
    for ours, theirs in zip(generated, target, strict=False):
        if ours != theirs:
            break
        common += 1
    return common / len(target)


def reward(response: str, target: Sequence[int]) -> float:
    """r = (r_f + r_a) / 2."""
    return (format_reward(response) + prefix_accuracy(action_tokens(response), target)) / 2


def response_text(thought: str, tokens: Sequence[int]) -> str:
    """The response that `reward` asks for."""
    actions = "".join(action_token(token) for token in tokens)
    return f"<think>{thought}</think><answer>{ACTION_START}{actions}{ACTION_END}</answer>"
