"""Exports backbone and head to a policy bundle and checks the graphs against eager PyTorch.

    python -m training.export --backbone runs/backbone --head runs/head --name lab-grounded \
        --out policy_server/bundles/shipped
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from contracts.bundle import (
    ACTION_DIMENSION,
    STATE_DIMENSION,
    BackboneInfo,
    CameraInput,
    Manifest,
    Normalisation,
    write_manifest,
)
from simulation.cameras import CAMERAS
from simulation.expert import TIME_STEP
from training import graph_template, grounding
from training.action_head import ActionHead, HeadConfig
from training.backbones import IMAGE_TOKEN, PROMPT, VISION_END, VISION_START, to_patches
from training.grounding import STATE_RANGE, GroundedBackbone

DENOISING_STEPS = 4
EXECUTE_STEPS = 6
HALF_THRESHOLD = 256
"""Weights with more elements than this are stored as float16 and computed in float32."""
PARITY = {"backbone": 1e-5, "head": 3e-5}
"""Largest allowed difference between ONNX Runtime and eager PyTorch on the reference inputs, as a
share of the largest output. In the head, going on from a chunk multiplies float32's rounding by
1 / (1 - t), which is 4 in the last of four steps."""


class HeadGraph(nn.Module):
    """Readout and the whole denoising loop as one graph, with the number of steps as an input."""

    def __init__(self, readout: nn.Module, head: ActionHead) -> None:
        super().__init__()
        self.readout, self.head = readout, head

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor,
        state: Tensor,
        noise: Tensor,
        steps: Tensor,
        previous: Tensor,
        weight: Tensor,
    ) -> Tensor:
        grounded, _ = self.readout(hidden, state)
        return self.head.sample(
            noise, hidden, mask, state, grounded, steps, previous=previous, weight=weight
        )


@dataclass(frozen=True)
class Graph:
    """A module with example inputs by name, and which of their axes are dynamic."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, Any]]
    output: str


def load_head(path: Path) -> tuple[ActionHead, Normalisation]:
    """Head saved by `training.head` and the range of its actions."""
    content = torch.load(path, weights_only=True)
    head = ActionHead(HeadConfig(**content["config"]))
    head.load_state_dict(content["weights"])
    return head.eval(), Normalisation(tuple(content["action_low"]), tuple(content["action_high"]))


def round_weights(module: nn.Module) -> None:
    """Round weights as the bundle will store them, so that parity compares equal weights."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() > HALF_THRESHOLD:
                parameter.copy_(parameter.half().float())


def graphs(backbone: GroundedBackbone, head: ActionHead) -> list[Graph]:
    """Both graphs with inputs of the first prompts and random pictures."""
    generator = torch.Generator().manual_seed(0)
    # Three rows: two would be taken for the number of cameras, and the batch for a constant.
    prompt = torch.tensor([4, 9, 14])
    size = backbone.config.image_size
    pictures = torch.randint(
        0, 256, (len(prompt), len(CAMERAS), size, size, 3), dtype=torch.uint8, generator=generator
    )
    batch = backbone.prompts.select(prompt)
    pixels = to_patches(pictures, backbone.config.patch_size)
    with torch.no_grad():
        hidden = backbone.prefix(batch.ids, batch.mask, batch.positions, pixels)
    rows, length = (
        torch.export.Dim("batch", min=1, max=32),
        torch.export.Dim("length", min=40, max=1024),
    )
    state = torch.rand(len(prompt), STATE_DIMENSION, generator=generator) * 2 - 1
    noise = torch.randn(len(prompt), head.config.horizon, ACTION_DIMENSION, generator=generator)
    previous = torch.rand(noise.shape, generator=generator) * 2 - 1
    # One row goes on from nothing, the others from a chunk of which some steps are left.
    weight = torch.zeros(noise.shape[:2])
    weight[1:, : head.config.horizon // 2] = torch.linspace(1, 0, head.config.horizon // 2)
    return [
        Graph(
            "backbone",
            backbone.prefix,
            {
                "input_ids": batch.ids,
                "attention_mask": batch.mask,
                "position_ids": batch.positions,
                "pixel_values": pixels,
            },
            {
                "input_ids": {0: rows, 1: length},
                "attention_mask": {0: rows, 1: length},
                "position_ids": {1: rows, 2: length},
                "pixel_values": {0: rows},
            },
            "hidden",
        ),
        Graph(
            "head",
            HeadGraph(backbone.readout, head),
            {
                "hidden": hidden,
                "mask": batch.mask,
                "state": state,
                "noise": noise,
                "steps": torch.tensor(DENOISING_STEPS),
                "previous": previous,
                "weight": weight,
            },
            {
                "hidden": {0: rows, 1: length},
                "mask": {0: rows, 1: length},
                "state": {0: rows},
                "noise": {0: rows},
                "steps": {},
                "previous": {0: rows},
                "weight": {0: rows},
            },
            "actions",
        ),
    ]


def export_graph(
    graph: Graph, directory: Path, templates: Path | None = None
) -> dict[str, np.ndarray]:
    """Write `<name>.onnx` with float16 weights; returns reference inputs and outputs.

    `templates` is a folder of graphs of the same shape (`graph_template`), filled on first use.

    Raises:
        RuntimeError: ONNX Runtime's answer differs from eager PyTorch's by more than PARITY.
    """
    path = directory / f"{graph.name}.onnx"

    def trace(module: nn.Module, to: Path) -> None:
        program = torch.onnx.export(
            module.eval(),
            tuple(graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple(graph.dynamic[name] for name in graph.inputs),
            input_names=list(graph.inputs),
            output_names=[graph.output],
            verbose=False,
        )
        program.save(str(to), external_data=False)

    if templates is None:
        trace(graph.module, path)
    else:
        graph_template.fill(templates / path.name, graph.module, path, trace)
    _store_half(path)
    with torch.no_grad():
        expected = graph.module.eval()(*graph.inputs.values()).numpy()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answer = session.run(
        [graph.output], {name: value.numpy() for name, value in graph.inputs.items()}
    )[0]
    difference = float(np.abs(answer - expected).max() / np.abs(expected).max())
    bound = PARITY[graph.name]
    if difference > bound:
        raise RuntimeError(
            f"{path.name}: ONNX Runtime and eager PyTorch differ by {difference:.1e} ({bound})"
        )
    print(
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, differs from eager by {difference:.1e}"
    )
    reference = {f"{graph.name}_in_{name}": value.numpy() for name, value in graph.inputs.items()}
    return reference | {f"{graph.name}_out_{graph.output}": expected}


def _store_half(path: Path) -> None:
    """Store large float32 weights as float16 with a cast in front; the runtime folds the casts."""
    model = onnx.load(path)
    kept, casts = [], []
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        with np.errstate(over="ignore", invalid="ignore"):  # integer masks hold huge values
            half = array.astype(np.float16)
        # Rotary tables and the like are constants that were not rounded: they stay as they are.
        lossless = weight.data_type == TensorProto.FLOAT and np.array_equal(half, array)
        if not lossless or array.size <= HALF_THRESHOLD:
            kept.append(weight)
            continue
        kept.append(numpy_helper.from_array(half, weight.name + "_half"))
        casts.append(
            helper.make_node("Cast", [weight.name + "_half"], [weight.name], to=TensorProto.FLOAT)
        )
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    strip_notes(model.graph)
    onnx.save(model, path)


def strip_notes(graph: onnx.GraphProto) -> None:
    """Remove the exporter's notes: they double the file and name the exporting machine's paths."""
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:  # a loop's body
                strip_notes(attribute.g)


def export(
    backbone_dir: Path,
    head_dir: Path,
    name: str,
    notes: str,
    out: Path,
    templates: Path | None = None,
) -> None:
    """Write the whole bundle to `out`, replacing what was there.

    Many bundles of the same sizes share the folder `templates`, which saves tracing each.
    """
    backbone = grounding.load(backbone_dir / "backbone.pt")
    head, action_range = load_head(head_dir / "head.pt")
    for module in (backbone, head):
        round_weights(module)
    staging = out.with_name(out.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    reference: dict[str, np.ndarray] = {}
    for graph in graphs(backbone, head):
        reference |= export_graph(graph, staging, templates)
    np.savez_compressed(staging / "reference.npz", **reference)
    backbone.tokenizer.backend_tokenizer.save(str(staging / "tokenizer.json"))
    provenance = {
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "notes": notes,
        "sizes": {"backbone": asdict(backbone.config), "head": asdict(head.config)},
        "backbone": json.loads((backbone_dir / "grounding.json").read_text()),
        "readout": json.loads((backbone_dir / "readout.json").read_text()),
        "head": json.loads((head_dir / "head.json").read_text()),
    }
    write_manifest(staging, _manifest(name, backbone, head, action_range, provenance))
    shutil.rmtree(out, ignore_errors=True)
    staging.rename(out)
    total = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {total / 1e6:.1f} MB")


def _manifest(
    name: str,
    backbone: GroundedBackbone,
    head: ActionHead,
    action_range: Normalisation,
    provenance: dict[str, Any],
) -> Manifest:
    config = backbone.config
    info = BackboneInfo(
        family="qwen3_vl",
        layer=config.layer,
        hidden_size=config.hidden,
        final_norm=False,
        patch_size=config.patch_size,
        merge_size=2,
        temporal_patch_size=1,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        prompt=PROMPT,
        image_token=IMAGE_TOKEN,
        vision_start=VISION_START,
        vision_end=VISION_END,
    )
    return Manifest(
        name=name,
        horizon=head.config.horizon,
        time_step=TIME_STEP,
        execute_steps=EXECUTE_STEPS,
        denoising_steps=DENOISING_STEPS,
        cameras=tuple(CameraInput(camera, config.image_size) for camera in CAMERAS),
        backbone=info,
        state=STATE_RANGE,
        action=action_range,
        provenance=provenance,
    )


def _commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Export a trained policy to a bundle.")
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--head", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--notes", default="", help="provenance in words: data, stages, deviations")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.backbone, arguments.head, arguments.name, arguments.notes, arguments.out)
