"""A lab checkpoint of a few thousand weights, samples and scenes for it."""

import copy
import dataclasses
import functools
import os
import signal

import numpy as np
import torch

from training import checkpoints
from training.backbones import LabBackboneConfig
from training.fast_tokenizer import FastTokenizer
from training.grounding import GroundedBackbone
from training.rewards import response_text
from training.samples import Sample

CONFIG = LabBackboneConfig(
    ranks=300, hidden=32, layers=2, layer=2, heads=2, key_value_heads=1,
    vision_hidden=32, vision_depth=2, vision_heads=2, image_size=64,
)  # fmt: skip


def make_fast(vocabulary: int = 64) -> FastTokenizer:
    rng = np.random.default_rng(0)
    chunks = np.cumsum(rng.normal(size=(200, 4, 7)), axis=1) * 0.01
    return FastTokenizer.fit(chunks, scale=2, vocabulary=vocabulary)


@functools.cache
def _checkpoint(seed: int) -> checkpoints.Checkpoint:
    torch.manual_seed(seed)
    backbone = GroundedBackbone(dataclasses.replace(CONFIG, seed=seed))
    return checkpoints.from_lab(backbone, make_fast())


def make_checkpoint(seed: int = 0) -> checkpoints.Checkpoint:
    """A checkpoint of its own, in memory; building one reads the whole Qwen vocabulary."""
    return copy.deepcopy(_checkpoint(seed))


def make_sample(index: int, size: int = CONFIG.image_size, answer: str | None = None) -> Sample:
    rng = np.random.default_rng(index)
    pictures = tuple(rng.integers(0, 255, (2, size, size, 3), dtype=np.uint8))
    answer = answer or response_text("up", [index % 5, 3, 7])
    return Sample(f"made#{index}", "fast", pictures, f"Task {index % 7}?", answer)


def make_samples(count: int) -> list[Sample]:
    return [make_sample(i) for i in range(count)]


class Scenes:
    """What Rehearsal needs of grounding.SceneData."""

    def __init__(self, count: int = 12) -> None:
        generator = torch.Generator().manual_seed(0)
        self.count = count
        self.prompt = torch.zeros(count, dtype=torch.long)
        self.state = torch.rand(count, 11, generator=generator)
        self.position = torch.rand(count, 3, generator=generator)
        self.truth = torch.rand(count, 18, generator=generator)

    def __len__(self) -> int:
        return self.count

    def images(self, rows):
        size = CONFIG.image_size
        rng = np.random.default_rng(int(rows.sum()))
        return torch.from_numpy(rng.integers(0, 255, (len(rows), 2, size, size, 3), dtype=np.uint8))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


class StopsAt:
    """Samples; reading the n-th time sends this process SIGTERM."""

    def __init__(self, samples, reads):
        self.samples, self.reads = samples, reads

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.reads -= 1
        if self.reads == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.samples[index]
