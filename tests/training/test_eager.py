"""The bench's eager side runs the shipped bundle's sizes on the server's own inputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from contracts import bundle
from policy_server.bench import graph_inputs, observation
from training.eager import configs, eager_policy

SHIPPED = Path(__file__).parents[2] / "policy_server" / "bundles" / "shipped"


def test_eager_networks_answer_the_servers_inputs():
    manifest = bundle.read_manifest(SHIPPED)
    seen = observation({camera.name: camera.size for camera in manifest.cameras})
    prompt, head = graph_inputs(SHIPPED, manifest, seen)
    inputs = {name: torch.from_numpy(value) for name, value in (prompt | head).items()}
    torch.set_num_threads(1)
    actions = eager_policy(manifest, inputs)()
    assert actions.shape == (1, manifest.horizon, bundle.ACTION_DIMENSION)
    assert torch.isfinite(actions).all()


def test_sizes_come_from_the_export_and_others_are_refused():
    manifest = bundle.read_manifest(SHIPPED)
    noted = {"backbone": {"hidden": 192, "layer": 4, "vision_depth": 6}}
    backbone, _ = configs(dataclasses.replace(manifest, provenance={"sizes": noted}))
    assert backbone.vision_depth == 6
    noted = {"backbone": {"hidden": 96}}
    with pytest.raises(ValueError, match="not the lab's"):
        configs(dataclasses.replace(manifest, provenance={"sizes": noted}))
