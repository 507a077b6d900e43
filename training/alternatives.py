"""Rewards of Stage 2: RoboAlign's, and those of the alignments the paper compares with (Table 6).

| name         | answer within `<answer>`            | reward                                      |
|--------------|-------------------------------------|---------------------------------------------|
| `fast`       | FAST tokens between their markers   | (r_f + r_a) / 2, Eq. 2 (`training.rewards`) |
| `moves`      | the move in words, or a choice      | (r_f + share of right words) / 2            |
| `trajectory` | the gripper's path as image points  | 0.1 r_f + 0.9 r_visual (ThinkAct)           |

The other alternatives need no reward, only data: *language-only SFT* is Stage 1 on samples without
FAST answers, *action-only SFT* on FAST answers alone, *SFT on embodied chain of thought* on answers
of `chain_of_thought` (Table 7).

The paper asks for moves as multiple-choice questions: with one word or letter as the answer, the
share of right words is 1 or 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training import rewards
from training.samples import Sample, SampleError

POINT_UNIT: Final = 100.0
"""Image points are written in hundredths of the picture's sides."""

_THOUGHT = r"<think>(?P<thought>(?:(?!</?think>|</?answer>).)+)</think>\s*"
_RESPONSE = re.compile(
    _THOUGHT + r"<answer>(?P<answer>(?:(?!</?think>|</?answer>).)+)</answer>\s*", re.DOTALL
)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_POINT = re.compile(r"\(\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\)")
_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Score:
    """Reward of a response with its two parts, each 0..1."""

    reward: float
    format: float
    accuracy: float


Scorer = Callable[[str, Sample], Score]
"""Scores a response to a sample."""


def score_fast(response: str, sample: Sample) -> Score:
    """RoboAlign's reward; the sample's answer holds the target tokens.

    Raises:
        SampleError: it does not.
    """
    target = rewards.action_tokens(sample.answer)
    if not target:
        raise SampleError(f"{sample.name}: the answer has no FAST tokens to compare with")
    accuracy = rewards.prefix_accuracy(rewards.action_tokens(response), target)
    form = rewards.format_reward(response)
    return Score((form + accuracy) / 2, form, accuracy)


def score_moves(response: str, sample: Sample) -> Score:
    """Words in common over all words of both answers, whatever their order."""
    said, right = _words(answer_of(response)), _words(answer_of(sample.answer))
    accuracy = len(said & right) / len(said | right) if right else 0.0
    form = format_of(response)
    return Score((form + accuracy) / 2, form, accuracy)


def score_trajectory(response: str, sample: Sample) -> Score:
    """ThinkAct's reward (Huang et al. 2025): goal and trajectory in equal parts, some format.

    Raises:
        SampleError: the sample's answer has fewer than two points.
    """
    truth = points_of(answer_of(sample.answer))
    if len(truth) < 2:
        raise SampleError(f"{sample.name}: the answer is no trajectory: {sample.answer[:80]!r}")
    path = points_of(answer_of(response))
    accuracy = visual_reward(path, truth) if len(path) >= 2 else 0.0
    form = format_of(response)
    return Score(0.1 * form + 0.9 * accuracy, form, accuracy)


SCORERS: Final[Mapping[str, Scorer]] = {
    "fast": score_fast,
    "moves": score_moves,
    "trajectory": score_trajectory,
}


def scorer(name: str) -> Scorer:
    """Raises ValueError: no reward of this name."""
    if name not in SCORERS:
        raise ValueError(f"no reward {name!r}; known are {sorted(SCORERS)}")
    return SCORERS[name]


def response_text(thought: str, answer: str) -> str:
    """The response that `moves` and `trajectory` ask for."""
    return f"<think>{thought}</think><answer>{answer}</answer>"


def points_text(points: NDArray[np.float64]) -> str:
    """Points (K, 2) in 0..1 of the picture as text in hundredths."""
    shown = np.rint(np.clip(points, 0.0, 1.0) * POINT_UNIT).astype(int)
    return " ".join(f"({x}, {y})" for x, y in shown)


def points_of(text: str) -> NDArray[np.float64]:
    """Points (K, 2) in 0..1 that a text names."""
    found = [(float(x), float(y)) for x, y in _POINT.findall(text)]
    return np.array(found, dtype=np.float64).reshape(-1, 2) / POINT_UNIT


def answer_of(response: str) -> str:
    """What stands in `<answer>`, closed or not; the whole text where there is no such tag."""
    match = _ANSWER.search(response)
    return (match.group(1) if match else response).strip()


def format_of(response: str) -> float:
    """1 if the whole response is one thought and one answer, else 0."""
    match = _RESPONSE.fullmatch(response)
    return float(match is not None and all(part.strip() for part in match.groupdict().values()))


def visual_reward(path: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """r_visual of points (K, 2) and (M, 2): half for start and goal, half for the whole path."""
    ends = (_closeness(path[0], truth[0]) + _closeness(path[-1], truth[-1])) / 2
    whole = max(0.0, 1.0 - warping_distance(path, truth))
    return (ends + whole) / 2


def _closeness(point: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return max(0.0, 1.0 - float(np.sum((point - other) ** 2)))


def warping_distance(path: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Dynamic time warping: least total distance of an alignment that keeps both orders."""
    costs = np.linalg.norm(path[:, None] - truth[None], axis=-1)
    total = np.full((len(path) + 1, len(truth) + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(len(path)):
        for j in range(len(truth)):
            before = min(total[i, j], total[i, j + 1], total[i + 1, j])
            total[i + 1, j + 1] = costs[i, j] + before
    return float(total[-1, -1])


@dataclass(frozen=True)
class Reasoning:
    """The steps of an embodied chain of thought (ECoT, Zawalski et al. 2024)."""

    task: str
    plan: Sequence[str]
    subtask: str
    move: str
    gripper: str
    objects: Mapping[str, str]
    """Name to box or point, as text."""


def chain_of_thought(reasoning: Reasoning, tokens: Sequence[int]) -> str:
    """ECoT's answer in RoboAlign's form: the reasoning in `<think>`, the actions in `<answer>`."""
    objects = " ".join(f"{name} {place}" for name, place in reasoning.objects.items())
    text = (
        f"TASK: {reasoning.task} PLAN: {'; '.join(reasoning.plan)} SUBTASK: {reasoning.subtask} "
        f"MOVE: {reasoning.move} GRIPPER: {reasoning.gripper} OBJECTS: {objects}"
    )
    return rewards.response_text(text, tokens)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
