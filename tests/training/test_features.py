"""The cache of frozen features holds what the backbone says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training import features
from training.backbones import LabBackboneConfig
from training.grounding import GroundedBackbone


@pytest.fixture(scope="module")
def backbone() -> GroundedBackbone:
    return GroundedBackbone(LabBackboneConfig(layers=1, layer=1)).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 2, 128, 128, 3), dtype=np.uint8)


def test_the_clean_copy_is_the_backbones_answer(
    backbone: GroundedBackbone, images: np.ndarray, tmp_path: Path
) -> None:
    prompt = torch.arange(5)
    cache = features.cache(backbone, images, prompt, tmp_path / "f.npy", copies=2)
    assert cache.shape[0] == 10
    with torch.no_grad():
        wanted = backbone.hidden(prompt, torch.from_numpy(images))
    scale = float(wanted.abs().max())
    found = features.rows_of(cache, np.arange(5))
    torch.testing.assert_close(found, wanted, atol=2e-3 * scale, rtol=0)
    assert not np.array_equal(cache[:5], cache[5:])  # the second copy is augmented


def test_the_tail_is_the_end_of_the_prompt(
    backbone: GroundedBackbone, images: np.ndarray, tmp_path: Path
) -> None:
    prompt = torch.zeros(5, dtype=torch.long)
    whole = features.cache(backbone, images, prompt, tmp_path / "whole.npy")
    tail = features.cache(backbone, images, prompt, tmp_path / "tail.npy", tail=9)
    np.testing.assert_array_equal(tail, whole[:, -9:])


def test_an_interrupted_cache_is_written_anew(
    backbone: GroundedBackbone, images: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "f.npy"
    path.with_suffix(".unfinished").write_bytes(b"half of it")
    cache = features.cache(backbone, images, torch.arange(5), path)
    assert np.isfinite(cache).all()
    again = features.cache(backbone, np.zeros_like(images), torch.arange(5), path)
    np.testing.assert_array_equal(again, cache)  # complete: used as it is


def test_rows_come_in_the_order_asked(tmp_path: Path) -> None:
    stored = np.arange(12, dtype=np.float16).reshape(6, 2)
    rows = np.array([4, 0, 4, 2])
    assert features.rows_of(stored, rows).tolist() == stored[rows].tolist()
