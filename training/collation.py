"""Samples to model inputs: chat text, token ids, labels on the answer, pixels.

Training, rollouts and validation build their prompts here, so that they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import ProcessorMixin

from training.backbones import IMAGE_TOKEN, to_patches
from training.grounding import augment
from training.samples import Sample, SampleError, messages

IGNORED: Final = -100
"""Label of a token that is not learned (PyTorch's cross entropy)."""
ANSWER_END: Final = "<|im_end|>"
WINDOW: Final = 16
"""Batches whose samples are sorted by length together."""


@dataclass(frozen=True)
class PromptStyle:
    """How a sample becomes a conversation. Qwen's way: system message, pictures, text."""

    text_first: bool = False
    system: bool = True

    def messages(self, sample: Sample) -> list[dict[str, Any]]:
        turns = messages(sample, text_first=self.text_first)
        return turns if self.system else [turn for turn in turns if turn["role"] != "system"]


LAB_STYLE: Final = PromptStyle(text_first=True, system=False)
"""The lab model's: the question first, as `backbones.PROMPT`, and no system message."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a sample's prompt and of its answer with its end."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


class Collator:
    """Batches of samples for Qwen2.5-VL and Qwen3-VL.

    Called with the features of a data loader, `{"sample": Sample}` or `{"row": index}` into
    `samples`. What cannot be used (longer than `max_length`, no picture that decodes) is left out
    and named in the batch's "skipped": nothing is cut, since a cut answer teaches wrong answers.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        style: PromptStyle,
        max_length: int,
        samples: Sequence[Sample] | None = None,
        augmented: bool = False,
    ) -> None:
        self.processor = processor
        self.style = style
        self.max_length = max_length
        self.samples = samples
        self.augmented = augmented
        self._tokenizer = processor.tokenizer
        self._image_token = self._tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        images = processor.image_processor
        self._fixed = (
            images.temporal_patch_size == 1
            and list(images.image_mean) == list(images.image_std) == [0.5] * 3
        )
        self._generator: torch.Generator | None = None
        self.remember = False
        """Whether rows that were measured are kept until they are used: not with loader workers,
        which measure in one process and use in another."""
        self._measured: dict[int, Sample] = {}

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Inputs with labels, padded on the right.

        Raises:
            SampleError: no sample of the batch can be used.
        """
        samples, encoded, skipped = self._usable(features)
        if not samples:
            raise SampleError(f"no sample of the batch can be used: {'; '.join(skipped)}")
        length = max(row.length for row in encoded)
        shape = (len(samples), length)
        ids = np.full(shape, self._tokenizer.pad_token_id, np.int64)
        mask = np.zeros(shape, np.int64)
        labels = np.full(shape, IGNORED, np.int64)
        for i, row in enumerate(encoded):
            ids[i, : row.length] = row.prompt + row.answer
            mask[i, : row.length] = 1
            labels[i, len(row.prompt) : row.length] = row.answer
        batch = self._inputs(torch.from_numpy(ids), torch.from_numpy(mask))
        batch |= self.pixels(samples)
        return batch | {"labels": torch.from_numpy(labels), "skipped": skipped}

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs for generation: no answer, padded on the left."""
        rows = self.prompt_ids(samples)
        length = max(len(row) for row in rows)
        padding = self._tokenizer.pad_token_id
        ids = torch.tensor([[padding] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        return self._inputs(ids, mask) | self.pixels(samples)

    def prompt_ids(self, samples: Sequence[Sample]) -> list[list[int]]:
        return self._tokenizer(
            [self.prompt_text(sample) for sample in samples], add_special_tokens=False
        )["input_ids"]

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Prompt and answer are tokenised apart, as they are when the model answers itself."""
        return self._encode([self.prompt_text(sample) for sample in samples], samples)

    def _encode(self, prompts: list[str], samples: Sequence[Sample]) -> list[Encoded]:
        texts = prompts + [sample.answer + ANSWER_END for sample in samples]
        ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        pairs = zip(ids[: len(samples)], ids[len(samples) :], strict=True)
        return [Encoded(prompt, answer) for prompt, answer in pairs]

    def lengths(self, features: Sequence[dict[str, Any]]) -> list[int]:
        """Tokens of each sample; 0 for one that cannot be read, which is left out later."""
        found = []
        self._measured = {}
        for feature in features:
            try:
                sample = self._sample(feature)
                found.append(self.encode([sample])[0].length)
            except SampleError:
                found.append(0)
                continue
            if self.remember:
                self._measured[feature["row"]] = sample
        return found

    def prompt_text(self, sample: Sample) -> str:
        """The prompt as the model sees it, with one image token a merged patch."""
        text = self._tokenizer.apply_chat_template(
            self.style.messages(sample),
            chat_template=self.processor.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        head, *parts = text.split(IMAGE_TOKEN)
        if len(parts) != len(sample.pictures):
            raise SampleError(
                f"{sample.name}: {len(parts)} places for pictures, {len(sample.pictures)} pictures"
            )
        for picture, part in zip(sample.pictures, parts, strict=True):
            head += IMAGE_TOKEN * self._tokens(picture) + part
        return head

    def pixels(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """pixel_values (patches of all pictures, C) and image_grid_thw (pictures, 3), or nothing.

        Pictures of the lab model's one size take a short way round PIL; the values are the same.
        """
        pictures = [picture for sample in samples for picture in sample.pictures]
        if not pictures:
            return {}
        images = self.processor.image_processor
        size = pictures[0].shape
        square = size[0] == size[1] and size[0] ** 2 == images.size["shortest_edge"]
        if self._fixed and square and all(picture.shape == size for picture in pictures):
            stack = self._augment(torch.from_numpy(np.stack(pictures)))
            patches = to_patches(stack, images.patch_size, images.merge_size)
            grid = size[0] // images.patch_size
            grids = torch.tensor([[1, grid, grid]] * len(pictures))
            return {"pixel_values": patches.flatten(0, 1), "image_grid_thw": grids}
        found = images(
            images=[self._augment(torch.from_numpy(p[None]))[0].numpy() for p in pictures],
            return_tensors="pt",
        )
        return {"pixel_values": found["pixel_values"], "image_grid_thw": found["image_grid_thw"]}

    def _inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        kinds = (ids == self._image_token).int()
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds}

    def _tokens(self, picture: np.ndarray) -> int:
        images = self.processor.image_processor
        patches = images.get_number_of_image_patches(*picture.shape[:2])
        return patches // images.merge_size**2

    def _augment(self, pictures: Tensor) -> Tensor:
        if not self.augmented:
            return pictures
        if self._generator is None:  # a loader's worker has its own seed
            self._generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        return augment(pictures[:, None], self._generator)[:, 0]

    def _usable(
        self, features: Sequence[dict[str, Any]]
    ) -> tuple[list[Sample], list[Encoded], list[str]]:
        read: list[Sample] = []
        prompts: list[str] = []
        skipped: list[str] = []
        for feature in features:
            try:
                sample = self._sample(feature)
                prompts.append(self.prompt_text(sample))
                read.append(sample)
            except SampleError as error:
                skipped.append(str(error))
        kept: list[tuple[Sample, Encoded]] = []
        for sample, row in zip(read, self._encode(prompts, read) if read else [], strict=True):
            if row.length <= self.max_length:
                kept.append((sample, row))
            else:
                skipped.append(f"{sample.name}: {row.length} tokens, more than {self.max_length}")
        return [sample for sample, _ in kept], [row for _, row in kept], skipped

    def _sample(self, feature: dict[str, Any]) -> Sample:
        if "sample" in feature:
            return feature["sample"]
        if self.samples is None:
            raise ValueError("rows need the collator's samples")
        known = self._measured.pop(feature["row"], None)
        return known or self.samples[feature["row"]]


def grouped(lengths: Sequence[int], batch: int, rng: np.random.Generator) -> list[int]:
    """Order of one window: each `batch` in a row is of like lengths, the batches are shuffled.

    What is left over by whole batches comes last.
    """
    order = rng.permutation(len(lengths))
    whole = len(lengths) - len(lengths) % batch
    kept, rest = order[:whole], order[whole:]
    batches = kept[np.argsort(np.asarray(lengths)[kept], kind="stable")].reshape(-1, batch)
    return [int(i) for i in (*batches[rng.permutation(len(batches))].ravel(), *rest)]


class LengthGroups(torch.utils.data.Sampler[int]):
    """Rows in a new random order each epoch, grouped by length within windows.

    Lengths are looked up window by window, as training goes on: a data set need not be read before
    its first batch.
    """

    def __init__(self, collator: Collator, size: int, batch: int, seed: int) -> None:
        """`size` rows of the collator's samples."""
        self._collator, self._size, self._batch, self._seed = collator, size, batch, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(self._size)
        for start in range(0, self._size, self._batch * WINDOW):
            rows = order[start : start + self._batch * WINDOW].tolist()
            lengths = self._collator.lengths([{"row": row} for row in rows])
            for i in grouped(lengths, self._batch, rng):
                yield rows[i]


def stream_grouped(
    samples: Iterable[Sample], collator: Collator, batch: int, seed: int
) -> Iterator[Sample]:
    """Samples of a stream, grouped by length within windows of it."""

    def emptied(window: list[Sample]) -> Iterator[Sample]:
        lengths = collator.lengths([{"sample": sample} for sample in window])
        yield from (window[i] for i in grouped(lengths, batch, rng))

    rng = np.random.default_rng(seed)
    window: list[Sample] = []
    for sample in samples:
        window.append(sample)
        if len(window) == batch * WINDOW:
            yield from emptied(window)
            window = []
    yield from emptied(window)
