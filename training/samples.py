"""One sample of the training mixture, whatever its source: pictures, a question, its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SYSTEM: Final = (
    "You are an embodied vision-language robotic assistant for multi-object manipulation."
)
REASONING_SYSTEM: Final = (
    f"{SYSTEM} The assistant first thinks about the reasoning process in the mind and then "
    "provides the user with the answer. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively."
)
ACTION_PROMPT: Final = (
    "Your current task is {instruction}. Output the robot's actions to perform this task through "
    "Fast tokens."
)
"""The three texts of the paper's Figure 5."""


@dataclass(frozen=True)
class Sample:
    """A question about pictures and its answer.

    name says where the sample comes from ("robopoint/part-0.json#17") and stands in every message
    about it. category is a row of the mixture table. pictures are uint8 RGB (H, W, 3). chunk, where
    there is one, is the action chunk (horizon, 7) that the answer stands for: position deltas [m],
    rotation vector [rad], gripper opening 0..1; FAST writes it out (`mixture.with_fast_answers`).
    """

    name: str
    category: str
    pictures: tuple[NDArray[np.uint8], ...] = field(compare=False)
    question: str
    answer: str
    system: str = SYSTEM
    chunk: NDArray[np.float64] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for i, picture in enumerate(self.pictures):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise SampleError(
                    f"{self.name}: picture {i} must be uint8 (H, W, 3), "
                    f"got {picture.dtype} {picture.shape}"
                )
        if self.chunk is not None and not np.isfinite(self.chunk).all():
            raise SampleError(f"{self.name}: the action chunk holds values that are not finite")
        if not self.question.strip() or not (self.answer.strip() or self.chunk is not None):
            raise SampleError(f"{self.name}: empty question or answer")


class SampleError(ValueError):
    """A sample that cannot be used; the text begins with its name."""


def messages(sample: Sample, *, text_first: bool = False) -> list[dict[str, Any]]:
    """The sample as a conversation of transformers' chat templates, without the answer.

    `text_first` puts the question before the pictures, so that a causal model's image tokens know
    it; the lab model learns that way, Qwen's own order is pictures first.
    """
    pictures = [{"type": "image"} for _ in sample.pictures]
    text = [{"type": "text", "text": sample.question}]
    content = text + pictures if text_first else pictures + text
    user = {"role": "user", "content": content}
    if not sample.system:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": sample.system}]}, user]
