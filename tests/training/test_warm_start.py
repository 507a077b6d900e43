"""A study's start from the shipped bundle is that bundle's network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training import grounding, scenes, warm_start
from training.backbones import LabBackboneConfig

SHIPPED = Path(__file__).parents[2] / "policy_server/bundles/shipped"


def test_the_backbone_answers_as_the_graph_does(tmp_path: Path) -> None:
    warm_start.start(SHIPPED, tmp_path)
    backbone = grounding.load(tmp_path / "backbone.pt")
    reference = np.load(SHIPPED / "reference.npz")
    names = ("input_ids", "attention_mask", "position_ids", "pixel_values")
    inputs = [torch.from_numpy(reference[f"backbone_in_{name}"]) for name in names]
    with torch.no_grad():
        hidden = backbone.prefix(*inputs).numpy()
    wanted = reference["backbone_out_hidden"]
    assert np.abs(hidden - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden size"):
        warm_start.grounded_backbone(SHIPPED, LabBackboneConfig(hidden=96, heads=3))


def test_the_readout_still_finds_the_objects(tmp_path: Path) -> None:
    scenes.generate(tmp_path, samples=16, seed=4)
    data = grounding.SceneData([tmp_path])
    backbone = warm_start.grounded_backbone(SHIPPED, LabBackboneConfig())
    error = grounding.evaluate(backbone, data, np.arange(16))
    assert error["object_mm"] < 12
    assert error["target_mm"] < 12
