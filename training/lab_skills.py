"""What a lab model can say: greedy answers to held-out questions of each category, scored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch

from training.checkpoints import Checkpoint
from training.collation import LAB_STYLE, Collator
from training.lab_samples import LabSamples
from training.rewards import action_tokens, format_reward, prefix_accuracy
from training.samples import Sample

NEW_TOKENS: Final = 110
BATCH: Final = 24
NEAR: Final = 8.0
"""Largest distance in hundredths of the picture's side that counts as right."""
OVERLAP: Final = 0.5
STATE_TOLERANCE: Final = np.array([4.0, 4.0, 4.0, 15.0, 15.0])
"""Centimetres, degrees and hundredths of the opening."""

_NUMBER = re.compile(r"-?\d+")
_CHOICE = re.compile(r"<answer>([A-D])</answer>")


def numbers(text: str) -> np.ndarray:
    return np.array([float(n) for n in _NUMBER.findall(text)])


def is_near(answer: str, truth: str) -> float:
    found, wanted = numbers(answer), numbers(truth)
    return float(found.shape == wanted.shape and float(np.linalg.norm(found - wanted)) <= NEAR)


def overlaps(answer: str, truth: str) -> float:
    """Whether two boxes have an intersection over union of at least OVERLAP."""
    found, wanted = numbers(answer), numbers(truth)
    if found.shape != (4,) or wanted.shape != (4,):
        return 0.0
    size = np.minimum(found[2:], wanted[2:]) - np.maximum(found[:2], wanted[:2])
    common = float(np.prod(np.maximum(size, 0.0)))
    areas = [float(np.prod(np.maximum(box[2:] - box[:2], 0.0))) for box in (found, wanted)]
    total = sum(areas) - common
    return float(total > 0 and common / total >= OVERLAP)


def same_state(answer: str, truth: str) -> float:
    found, wanted = numbers(answer), numbers(truth)
    return float(
        found.shape == wanted.shape and bool((np.abs(found - wanted) <= STATE_TOLERANCE).all())
    )


def same_choice(answer: str, truth: str) -> float:
    found, wanted = _CHOICE.search(answer), _CHOICE.search(truth)
    return float(bool(found and wanted) and found.group(1) == wanted.group(1))


def same_text(answer: str, truth: str) -> float:
    return float(answer.strip() == truth.strip())


SCORES: Final[Mapping[str, Callable[[str, str], float]]] = {
    "caption": same_text,
    "pointing": is_near,
    "box": overlaps,
    "relation": same_text,
    "move": same_text,
    "state": same_state,
    "affordance": is_near,
    "reasoning": same_choice,
}


@torch.no_grad()
def answers(checkpoint: Checkpoint, samples: list[Sample], new_tokens: int) -> list[str]:
    """Greedy answers, special tokens of the actions included."""
    collator = Collator(checkpoint.processor, LAB_STYLE, 2048)
    tokenizer, texts = checkpoint.tokenizer, []
    checkpoint.model.eval()
    for start in range(0, len(samples), BATCH):
        inputs = collator.prompts(samples[start : start + BATCH])
        found = checkpoint.model.generate(
            **inputs,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        )
        for row in found[:, inputs["input_ids"].shape[1] :].tolist():
            texts.append(clean(tokenizer.decode(row, skip_special_tokens=False)))
    return texts


def clean(text: str) -> str:
    """The answer up to its end."""
    return text.partition("<|im_end|>")[0].replace("<|endoftext|>", "")


def score(checkpoint: Checkpoint, questions: LabSamples, count: int) -> dict[str, float]:
    """Share of right answers in each category, and format and prefix accuracy of FAST answers."""
    found: dict[str, float] = {}
    for category, right in SCORES.items():
        samples = _questions(questions, category, count)
        said = answers(checkpoint, samples, NEW_TOKENS if category == "reasoning" else 32)
        pairs = zip(said, samples, strict=True)
        found[category] = float(np.mean([right(text, s.answer) for text, s in pairs]))
    samples = _questions(questions, "fast_reasoning", count)
    said = answers(checkpoint, samples, NEW_TOKENS)
    targets = [action_tokens(sample.answer) for sample in samples]
    found["format"] = float(np.mean([format_reward(text) for text in said]))
    found["prefix_accuracy"] = float(
        np.mean([prefix_accuracy(action_tokens(t), w) for t, w in zip(said, targets, strict=True)])
    )
    return found


def _questions(samples: LabSamples, category: str, count: int) -> list[Sample]:
    """The same questions for every model."""
    rng = np.random.default_rng([77, len(category)])
    rows = rng.choice(len(samples.rows), count, replace=count > len(samples.rows))
    return [samples.sample(category, samples.rows[int(row)], rng) for row in rows]
