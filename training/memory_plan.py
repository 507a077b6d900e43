"""How much memory the two stages need on a GPU, worked out from the shapes of the model's config.

    python -m training.sft --plan
    python -m training.grpo --plan

Weights, gradients and AdamW's states are counted from the model built without memory (PyTorch's
meta device) and shared out by ZeRO-3. Activations are those of gradient checkpointing: each layer's
input, and one layer's interior while it is run again. An estimate: fragmentation and communication
buffers come on top.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import AutoConfig, PreTrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from training.checkpoints import family

BF16, FP32 = 2, 4
ADAM: Final = 3 * FP32
"""Master weight and two moments of a parameter that is trained in mixed precision."""
LOGIT_ROWS: Final = 256
"""Positions whose logits TRL's fused head holds at once."""
GIB: Final = 2**30


def published(name: str) -> PreTrainedConfig:
    """Config of a published model by its shapes: `Qwen2.5-VL-7B` or `Qwen3-VL-8B`."""
    if name == "Qwen2.5-VL-7B":
        text = {
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24],
            },
        }  # fmt: skip
        vision = {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 3584, "patch_size": 14, "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        }  # fmt: skip
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    if name == "Qwen3-VL-8B":
        text = {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
            "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        }  # fmt: skip
        vision = {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
            "out_hidden_size": 4096, "patch_size": 16, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        }  # fmt: skip
        return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    raise ValueError(f"no published shapes of {name!r}; known: {PUBLISHED}")


PUBLISHED: Final = ("Qwen2.5-VL-7B", "Qwen3-VL-8B")


@dataclass(frozen=True)
class Load:
    """What a stage puts on each GPU.

    tokens a sample, answer included; responses are kept in the cache at once (0: no rollouts).
    """

    gpus: int = 8
    batch: int = 4
    tokens: int = 2048
    pictures: int = 2
    patches: int = 1024
    train_vision: bool = False
    reference: bool = False
    responses: int = 0
    rollout_engine: bool = False
    """Whether a colocated engine keeps a whole copy of the weights."""


@dataclass(frozen=True)
class Plan:
    """Bytes on each GPU; the totals of parameters are of the whole model."""

    parameters: int
    trained: int
    weights: int
    gradients: int
    adam: int
    gathered: int
    activations: int
    reference: int
    rollouts: int

    @property
    def total(self) -> int:
        parts = asdict(self)
        return sum(v for k, v in parts.items() if k not in ("parameters", "trained"))


def plan(config: PreTrainedConfig, load: Load) -> Plan:
    """Memory of one training step, and of its rollouts where there are any."""
    with torch.device("meta"):
        model = family(config.model_type)[0](config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    total = sum(sizes.values())
    vision = sum(n for name, n in sizes.items() if ".visual." in name)
    trained = total if load.train_vision else total - vision
    text = config.text_config
    cache = load.responses * load.tokens * text.num_hidden_layers * _cache_width(text) * BF16
    return Plan(
        parameters=total,
        trained=trained,
        weights=BF16 * total // load.gpus,
        gradients=BF16 * trained // load.gpus,
        adam=ADAM * trained // load.gpus,
        gathered=BF16 * _gathered(sizes),
        activations=_activations(config, load),
        reference=BF16 * total // load.gpus if load.reference else 0,
        rollouts=cache + (BF16 * total if load.rollout_engine else 0),
    )


def _gathered(sizes: dict[str, int]) -> int:
    """Two layers whole (the running one and the next), and the embedding or head."""
    layers: dict[str, int] = {}
    for name, size in sizes.items():
        match = re.search(r"language_model\.layers\.\d+\.", name)
        if match:
            layers[match.group()] = layers.get(match.group(), 0) + size
    others = [n for name, n in sizes.items() if "embed_tokens" in name or "lm_head" in name]
    return 2 * max(layers.values()) + max(others)


def _cache_width(text: PreTrainedConfig) -> int:
    """Keys and values of a token in a layer."""
    return 2 * text.num_key_value_heads * _head(text)


def _head(text: PreTrainedConfig) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _activations(config: PreTrainedConfig, load: Load) -> int:
    text, vision = config.text_config, config.vision_config
    tokens = load.batch * load.tokens
    kept = tokens * text.hidden_size * text.num_hidden_layers
    attention = (2 * text.num_attention_heads) * _head(text) + _cache_width(text)
    interior = tokens * (4 * text.hidden_size + attention + 3 * text.intermediate_size)
    logits = 2 * FP32 * LOGIT_ROWS * text.vocab_size + FP32 * tokens
    patches = load.batch * load.pictures * load.patches
    width = vision.hidden_size
    seen = patches * (8 * width + 3 * vision.intermediate_size)
    if load.train_vision:
        seen += patches * width * vision.depth
    return BF16 * (kept + max(interior, seen)) + logits


def table(rows: Iterable[tuple[str, Load]], configs: dict[str, PreTrainedConfig]) -> str:
    """Plans of several loads for several models, in GiB a GPU."""
    columns = ["weights", "gradients", "adam", "gathered", "activations", "reference", "rollouts"]
    head = f"{'model':15s} {'stage':24s} {'params':>7s} {'trained':>7s} "
    lines = [head + " ".join(f"{name:>11s}" for name in [*columns, "total"])]
    for name, config in configs.items():
        for stage, load in rows:
            found = plan(config, load)
            values = [getattr(found, column) for column in columns] + [found.total]
            shown = " ".join(f"{value / GIB:11.1f}" for value in values)
            counts = f"{found.parameters / 1e9:6.2f}B {found.trained / 1e9:6.2f}B"
            lines.append(f"{name:15s} {stage:24s} {counts} {shown}")
    lines.append("GiB on each GPU; ZeRO-3 over the GPUs, bf16, gradient checkpointing.")
    return "\n".join(lines)


def printed(rows: Iterable[tuple[str, Load]], folder: Path | None = None) -> str:
    """The table for the two published models, or for the checkpoint in `folder`."""
    if folder is None:
        return table(rows, {name: published(name) for name in PUBLISHED})
    return table(rows, {Path(folder).name[:15]: AutoConfig.from_pretrained(folder)})
