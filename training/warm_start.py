"""Weights of a lab bundle, read back from its ONNX graphs: where a shorter study starts.

    python -m training.warm_start --bundle policy_server/bundles/shipped --out runs/lab/vision

Most weights keep their names in a graph. The matrices of linear layers are folded into products and
lose theirs; they stand in the graph in the order in which the modules are called.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from contracts import bundle
from training.backbones import LabBackboneConfig, to_patches
from training.grounding import GroundedBackbone, save


def grounded_backbone(directory: Path, config: LabBackboneConfig) -> GroundedBackbone:
    """Backbone and readout of the bundle in `directory`, in evaluation mode.

    Raises:
        ValueError: the bundle is of another size than `config`, or its graphs are not the lab's.
    """
    manifest = bundle.read_manifest(directory)
    backbone = GroundedBackbone(config).eval()
    found = (manifest.backbone.hidden_size, manifest.backbone.layer)
    if found != (config.hidden, config.layer):
        raise ValueError(
            f"{directory}: hidden size and layer {found}, the lab's are "
            f"{(config.hidden, config.layer)}"
        )
    prompt, size = torch.tensor([0]), config.image_size
    pictures = torch.zeros(1, 2, size, size, 3, dtype=torch.uint8)
    batch = backbone.prompts.select(prompt)
    pixels = to_patches(pictures, config.patch_size)
    inputs = (batch.ids, batch.mask, batch.positions, pixels)
    _fill(backbone.prefix, inputs, directory / "backbone.onnx", "")
    hidden = torch.zeros(1, backbone.prompts.ids.shape[1], config.hidden)
    _fill(
        backbone.readout, (hidden, torch.zeros(1, 11)), directory / "head.onnx", "readout."
    )
    return backbone


@torch.no_grad()
def _fill(module: nn.Module, inputs: tuple, graph: Path, prefix: str) -> None:
    """Copy the graph's weights into the module's parameters."""
    model = onnx.load(graph)
    casts = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "Cast"}
    weights = {
        casts.get(w.name, w.name): numpy_helper.to_array(w).astype(np.float32)
        for w in model.graph.initializer
        if w.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    folded = _folded_matrices(model.graph, weights)
    for name, linear in _linears_in_order(module, inputs):
        if f"{prefix}{name}.weight" not in weights:
            matrix = folded.popleft() if folded else np.zeros(0)
            if matrix.T.shape != linear.weight.shape:
                raise ValueError(f"{graph}: no matrix of shape {tuple(linear.weight.shape)}")
            weights[f"{prefix}{name}.weight"] = matrix.T
    for name, parameter in module.named_parameters():
        if f"{prefix}{name}" in weights:
            value = torch.from_numpy(weights[f"{prefix}{name}"].copy())
            parameter.copy_(value.reshape(parameter.shape))
        elif _is_used(name):
            raise ValueError(f"{graph}: the weight {name} is not in it")


def _folded_matrices(graph: onnx.GraphProto, weights: dict[str, np.ndarray]) -> deque[np.ndarray]:
    return deque(
        weights[node.input[1]]
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm")
        and node.input[1] in weights
        and node.input[1].startswith("val_")
    )


def _linears_in_order(module: nn.Module, inputs: tuple) -> list[tuple[str, nn.Linear]]:
    called: list[tuple[str, nn.Linear]] = []
    handles = [
        part.register_forward_hook(lambda m, *_, name=name: called.append((name, m)))
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
    ]
    module(*inputs)
    for handle in handles:
        handle.remove()
    return called


def _is_used(name: str) -> bool:
    """The norm after the last layer and layers beyond k are no part of a graph."""
    return not name.startswith("text.norm")


def start(directory: Path, out: Path) -> None:
    """Write backbone.pt and grounding.json, which names the bundle, to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    save(grounded_backbone(directory, LabBackboneConfig()), out)
    manifest = bundle.read_manifest(directory)
    record = {"bundle": manifest.name, "hash": bundle.bundle_hash(directory)}
    (out / "grounding.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Lab backbone and readout from a bundle.")
    parser.add_argument("--bundle", type=Path, default=Path("policy_server/bundles/shipped"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    start(arguments.bundle, arguments.out)
