"""The frozen backbone's hidden states, computed once into a memory-mapped file.

Copy 0 of each picture is clean; the others are augmented, with changes chosen here and now, so that
training on the file sees the same pictures whatever its batches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from training.backbones import mixed_precision
from training.grounding import GroundedBackbone, augment

BATCH = 64


@torch.no_grad()
def cache(
    backbone: GroundedBackbone,
    images: np.ndarray,
    prompt: Tensor,
    path: Path,
    *,
    copies: int = 1,
    clean_first: bool = True,
    tail: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Hidden states (copies * pictures, L, C) float16 of images (pictures, cameras, H, W, 3).

    `prompt` (pictures,) are indices of the backbone's prompts; `tail` keeps the last tokens only.
    A complete file is used as it is; an unfinished one has another name and is written anew.
    """
    if path.is_file():
        return np.load(path, mmap_mode="r")
    path.parent.mkdir(parents=True, exist_ok=True)
    length = backbone.prompts.ids.shape[1] if tail is None else tail
    shape = (copies * len(images), length, backbone.config.hidden)
    unfinished = path.with_suffix(".unfinished")
    file = open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
    generator = torch.Generator().manual_seed(seed)
    for copy in range(copies):
        clean = copy == 0 and clean_first
        starts = range(0, len(images), BATCH)
        for start in tqdm(starts, desc=f"features, copy {copy}", mininterval=5):
            part = slice(start, start + BATCH)
            pictures = torch.from_numpy(np.ascontiguousarray(images[part]))
            if not clean:
                pictures = augment(pictures, generator)
            with mixed_precision():
                hidden = backbone.hidden(prompt[part], pictures)
            row = copy * len(images) + start
            file[row : row + len(pictures)] = hidden[:, -length:].float().numpy()
    file.flush()
    del file
    unfinished.rename(path)
    return np.load(path, mmap_mode="r")


def rows_of(features: np.ndarray, rows: np.ndarray) -> Tensor:
    """Some rows of a cache as float32; sorted reading is kind to the disk."""
    order = np.argsort(rows, kind="stable")
    picked = np.empty((len(rows), *features.shape[1:]), np.float16)
    picked[order] = features[rows[order]]
    return torch.from_numpy(picked).float()
