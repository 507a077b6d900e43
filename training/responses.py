"""Responses of a model: generated, cut at their end, scored, and kept as records (Figure 7)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from training.alternatives import Score, Scorer
from training.checkpoints import Checkpoint
from training.collation import ANSWER_END, Collator, PromptStyle
from training.run_folder import is_main
from training.samples import Sample


@dataclass(frozen=True)
class Asking:
    """How samples are put to a model, and how long it may answer."""

    style: PromptStyle
    new_tokens: int
    batch: int = 32


@dataclass(frozen=True)
class Validation:
    """Greedy answers to held-out samples: means of their scores."""

    count: int
    reward: float
    format: float
    accuracy: float
    length: float
    """Tokens."""
    truncated: float
    """Share that did not end."""


def response_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of generated ids up to the answer's end, action tokens included."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.partition(ANSWER_END)[0].replace(tokenizer.pad_token, "")


def response_record(
    sample: Sample, texts: Sequence[str], scores: Sequence[Score]
) -> dict[str, Any]:
    """Prompt, truth and scored responses of one sample, for JSON."""
    responses = [
        {"text": text, "reward": s.reward, "format": s.format, "accuracy": s.accuracy}
        for text, s in zip(texts, scores, strict=True)
    ]
    return {
        "sample": sample.name,
        "system": sample.system,
        "question": sample.question,
        "truth": sample.answer,
        "responses": responses,
    }


@torch.no_grad()
def greedy(checkpoint: Checkpoint, samples: Sequence[Sample], asking: Asking) -> list[list[int]]:
    """Ids of the greedy answers, the end token included where the model wrote it."""
    collator = Collator(checkpoint.processor, asking.style, asking.new_tokens)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = checkpoint.model.eval().to(device), checkpoint.tokenizer
    end = tokenizer.convert_tokens_to_ids(ANSWER_END)
    answers: list[list[int]] = []
    for start in range(0, len(samples), asking.batch):
        last = min(start + asking.batch, len(samples))
        inputs = collator.prompts([samples[i] for i in range(start, last)])
        found = model.generate(
            **{name: value.to(device) for name, value in inputs.items()},
            max_new_tokens=asking.new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=[model.config.image_token_id],
        )
        for ids in found[:, inputs["input_ids"].shape[1] :].tolist():
            answers.append(ids[: ids.index(end) + 1] if end in ids else ids)
    return answers


def validate(
    checkpoint: Checkpoint, samples: Sequence[Sample], score: Scorer, asking: Asking
) -> tuple[Validation, list[dict[str, Any]]]:
    """Means of the greedy answers' scores, and a record of each."""
    tokenizer, scores, records = checkpoint.tokenizer, [], []
    end = tokenizer.convert_tokens_to_ids(ANSWER_END)
    answers = greedy(checkpoint, samples, asking)
    for i, ids in enumerate(answers):
        text = response_of(tokenizer, ids)
        scores.append(score(text, samples[i]))
        records.append(response_record(samples[i], [text], scores[-1:]))
    count = len(answers)
    means = Validation(
        count=count,
        reward=sum(s.reward for s in scores) / count,
        format=sum(s.format for s in scores) / count,
        accuracy=sum(s.accuracy for s in scores) / count,
        length=sum(map(len, answers)) / count,
        truncated=sum(end not in ids for ids in answers) / count,
    )
    return means, records


@dataclass(frozen=True)
class Kept:
    """Where and how often responses are kept: each `every` steps those of one prompt."""

    file: Path
    every: int
    group: int


class Judge:
    """TRL's reward function: scores responses and keeps some of them."""

    __name__ = "reward"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        samples: Sequence[Sample],
        score: Scorer,
        kept: Kept,
    ) -> None:
        self._tokenizer, self._samples, self._score, self._kept = tokenizer, samples, score, kept

    def __call__(
        self, completion_ids: list[list[int]], row: list[int], trainer_state, log_metric, **_: Any
    ) -> list[float]:
        """Rewards of responses to the samples of `row`; TRL's texts lack the action tokens."""
        samples = [self._samples[i] for i in row]
        texts = [response_of(self._tokenizer, ids) for ids in completion_ids]
        scores = [self._score(text, s) for text, s in zip(texts, samples, strict=True)]
        log_metric("format", sum(score.format for score in scores) / len(scores))
        log_metric("accuracy", sum(score.accuracy for score in scores) / len(scores))
        if trainer_state.global_step % self._kept.every == 0 and is_main():
            group = slice(0, self._kept.group)
            record = response_record(samples[0], texts[group], scores[group])
            with self._kept.file.open("a") as file:
                file.write(json.dumps({"step": trainer_state.global_step, **record}) + "\n")
        return [score.reward for score in scores]
