"""Exports the prefix of a pretrained Qwen2.5-VL or Qwen3-VL to ONNX, at any size.

    python -m training.export_qwen --checkpoint Qwen2.5-VL-7B-Instruct --layer 18 \
        --image-size 224 --out runs/qwen

One graph serves one picture size; batch and prompt length are dynamic. The model is traced without
its weights, which go from the checkpoint's files into `backbone.onnx.data` one tensor at a time, in
the checkpoint's own type; the graph casts them to float32. So the most memory taken is about that
of the largest tensor. The reference run in eager PyTorch loads one module's weights at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoConfig, PretrainedConfig

from contracts.bundle import BACKBONE, REFERENCE
from training.export import strip_notes
from training.qwen_prefix import QwenPrefix, placeholder, without_weights

DATA = f"{BACKBONE}.data"
ALIGNMENT = 4096
"""Of a tensor in the data file, so that runtimes can map it."""
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
OLD_NAMES = (("model.language_model.", "model."), ("model.visual.", "visual."))
"""Beginnings of parameter names in transformers, and those in checkpoints of Qwen2.5-VL."""
TEXT_TOKENS = 24
"""Of the reference prompt, besides its pictures."""


class Weights(Protocol):
    """Where a model's weights come from, by transformers' parameter names."""

    def read(self, name: str) -> np.ndarray:
        """One weight, in host memory, as float32, float16 or bfloat16."""


class Checkpoint:
    """Weights in safetensors files, read by plain reads: a map of the file would stay in memory."""

    def __init__(self, directory: Path) -> None:
        """Read the headers of the files in `directory`.

        Raises:
            ValueError: there is no safetensors file, or one is damaged.
        """
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise ValueError(f"{directory}: no *.safetensors file there")
        self._places: dict[str, tuple[Path, int, dict[str, object]]] = {}
        for path in files:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                try:
                    header = json.loads(file.read(size))
                    header.pop("__metadata__", None)
                    entries = header.items()
                except (ValueError, TypeError, AttributeError) as error:
                    raise ValueError(f"{path}: not a safetensors file ({error})") from error
            self._places |= {name: (path, 8 + size, entry) for name, entry in entries}

    def read(self, name: str) -> np.ndarray:
        """One weight.

        Raises:
            ValueError: it is not there, or of a type that is no float.
        """
        names = [name, *(old + name.removeprefix(new) for new, old in OLD_NAMES)]
        found = next((n for n in names if n in self._places), None)
        if found is None:
            raise ValueError(f"the checkpoint has no weight {name!r}")
        path, start, entry = self._places[found]
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} is of the type {entry['dtype']}")
        first, last = entry["data_offsets"]
        dtype = DTYPES[entry["dtype"]]
        values = np.fromfile(path, dtype, (last - first) // dtype.itemsize, offset=start + first)
        return values.reshape(entry["shape"])


@dataclass(frozen=True)
class PrefixSpec:
    """What to export: k text layers, square pictures of `image_size` pixels, `cameras` of them."""

    layer: int
    image_size: int
    cameras: int = 2


def export_prefix(
    config: PretrainedConfig, weights: Weights, spec: PrefixSpec, out: Path
) -> dict[str, np.ndarray]:
    """Write backbone.onnx and its weights to `out`; returns eager inputs and hidden states.

    Raises:
        ValueError: a size that the model does not have, or a weight that is missing or misshapen.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = without_weights(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    patch = config.vision_config.patch_size
    if spec.image_size % patch:
        raise ValueError(f"pictures of {spec.image_size} pixels do not divide into {patch} each")
    prefix = QwenPrefix(model, spec.image_size // patch, spec.layer)
    sources = {name: names[id(p)] for name, p in prefix.named_parameters()}
    inputs = reference_inputs(config, model, spec, rows=3)
    graph = _trace(prefix, inputs)
    _stream(graph, sources, weights, out)
    with _streamed(prefix, sources, weights), torch.no_grad():
        hidden = prefix(*inputs.values())
    reference = {f"backbone_in_{name}": value.numpy() for name, value in inputs.items()}
    return reference | {"backbone_out_hidden": hidden.numpy()}


def reference_inputs(
    config: PretrainedConfig, model: nn.Module, spec: PrefixSpec, rows: int
) -> dict[str, Tensor]:
    """Random pictures and prompts of one length, the first row padded on the left."""
    vision, generator = config.vision_config, torch.Generator().manual_seed(0)
    grid = spec.image_size // vision.patch_size
    tokens = (grid // vision.spatial_merge_size) ** 2
    special = (config.vision_start_token_id, config.image_token_id, config.video_token_id)
    low = min(1000, *special)
    text = torch.randint(0, low, (rows, TEXT_TOKENS), generator=generator)
    picture = torch.tensor([config.vision_start_token_id] + [config.image_token_id] * tokens)
    pictures = picture.repeat(spec.cameras).expand(rows, -1)
    half = TEXT_TOKENS // 2
    ids = torch.cat([text[:, :half], pictures, text[:, half:]], dim=1)
    mask = torch.ones_like(ids)
    mask[0, : half // 2] = 0
    positions, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == config.image_token_id).int(),
        image_grid_thw=torch.tensor([[1, grid, grid]] * (rows * spec.cameras)),
        attention_mask=mask,
    )
    values = 3 * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions[-3:].contiguous(),
        "pixel_values": torch.randn(rows, spec.cameras, grid * grid, values, generator=generator),
    }


def _trace(prefix: QwenPrefix, inputs: dict[str, Tensor]) -> onnx_ir.Model:
    rows = torch.export.Dim("batch", min=1, max=32)
    length = torch.export.Dim("length", min=inputs["input_ids"].shape[1] - TEXT_TOKENS, max=8192)
    program = torch.onnx.export(
        prefix,
        tuple(inputs.values()),
        dynamo=True,
        # Folding would compute with the placeholders.
        optimize=False,
        dynamic_shapes=(
            {0: rows, 1: length},
            {0: rows, 1: length},
            {1: rows, 2: length},
            {0: rows},
        ),
        input_names=list(inputs),
        output_names=["hidden"],
        verbose=False,
    )
    return program.model


def _stream(model: onnx_ir.Model, sources: dict[str, str], weights: Weights, out: Path) -> None:
    """Write the weights one by one, then the graph that names their places."""
    initializers = model.graph.initializers
    # A weight under another name, or one that was folded away, would be a placeholder's zeros.
    taken = sources.keys() & initializers.keys()
    strangers = [
        name for name in initializers.keys() - taken if initializers[name].const_value.size > 2**20
    ]
    if strangers:
        raise ValueError(f"large constants that are no weights: {', '.join(strangers)}")
    with (out / DATA).open("wb") as file:
        for name in tqdm(sorted(taken), desc="weights", mininterval=2):
            value = weights.read(sources[name])
            shape = tuple(initializers[name].shape)
            if value.shape != shape:
                raise ValueError(f"{sources[name]} is {value.shape}, the model's is {shape}")
            file.seek(-file.tell() % ALIGNMENT, 1)
            initializers[name].const_value = onnx_ir.ExternalTensor(
                DATA,
                file.tell(),
                value.nbytes,
                onnx_ir.DataType.from_numpy(value.dtype),
                shape=onnx_ir.Shape(shape),
                name=name,
                base_dir=out,
            )
            value.tofile(file)
    proto = onnx_ir.to_proto(model)
    _cast_weights(proto.graph)
    strip_notes(proto.graph)
    onnx.save(proto, out / BACKBONE)


def _cast_weights(graph: onnx.GraphProto) -> None:
    """Casts to float32 after the weights of other types."""
    casts = []
    for weight in graph.initializer:
        if weight.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            name, weight.name = weight.name, f"{weight.name}_stored"
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextmanager
def _streamed(prefix: nn.Module, sources: dict[str, str], weights: Weights) -> Iterator[None]:
    """Each module of `prefix` has its own weights while it runs, and placeholders otherwise."""
    hooks = []
    # The tower's forward reads this one's weights and never calls it.
    proj, path = prefix.vision.tower.patch_embed.proj, "vision.tower.patch_embed.proj"
    for name, _ in list(proj.named_parameters()):
        value = weights.read(sources[f"{path}.{name}"]).astype(np.float32)
        proj.register_parameter(name, nn.Parameter(torch.from_numpy(value), requires_grad=False))
    for path, module in prefix.named_modules():
        own = {name: f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        if not own:
            continue

        def load(module: nn.Module, _: object, own: dict[str, str] = own) -> None:
            for name, full in own.items():
                value = torch.from_numpy(weights.read(sources[full]).astype(np.float32))
                module.register_parameter(name, nn.Parameter(value, requires_grad=False))

        def free(module: nn.Module, _: object, __: object, own: dict[str, str] = own) -> None:
            for name in own:
                module.register_parameter(name, placeholder(getattr(module, name).shape))

        hooks += [module.register_forward_pre_hook(load), module.register_forward_hook(free)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the prefix of a Qwen-VL checkpoint.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="directory with safetensors")
    parser.add_argument("--layer", type=int, required=True, help="text layers to keep")
    parser.add_argument("--image-size", type=int, default=224, help="pixels along a side")
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = AutoConfig.from_pretrained(arguments.checkpoint, local_files_only=True)
    spec = PrefixSpec(arguments.layer, arguments.image_size, arguments.cameras)
    reference = export_prefix(config, Checkpoint(arguments.checkpoint), spec, arguments.out)
    np.savez_compressed(arguments.out / REFERENCE, **reference)
    size = (arguments.out / DATA).stat().st_size
    print(f"{arguments.out / BACKBONE}: weights of {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
