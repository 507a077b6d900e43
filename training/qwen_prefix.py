"""Prefix of any Qwen2.5-VL or Qwen3-VL: vision tower for one picture grid, and the first k layers.

The models are transformers' own; here they are built without weights (`without_weights`), so that
a graph of any size can be made on any machine.
"""

from __future__ import annotations

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    vision_utils,
)

from training.backbones import FixedGridVision, Prefix

FAMILIES = {
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}


def without_weights(config: PretrainedConfig) -> PreTrainedModel:
    """The model of `config` whose parameters are zeros that take no memory.

    They have the right shapes, and one shared element each; tables that are no parameters are real.

    Raises:
        ValueError: `config` is of neither family.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(f"{config.model_type!r} is not one of {', '.join(FAMILIES)}")
    config._attn_implementation = "sdpa"
    with init_empty_weights(include_buffers=False):
        model = FAMILIES[config.model_type](config)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, placeholder(parameter.shape))
    return model.eval()


def placeholder(shape: torch.Size) -> nn.Parameter:
    """A parameter of zeros without memory."""
    return nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)


class WindowedVision(nn.Module):
    """Qwen2.5-VL's vision tower for square pictures of one grid, no data-dependent shapes.

    Most of its blocks attend within windows only: the tokens are sorted by window, as in
    transformers, and a constant mask holds the windows apart.
    """

    def __init__(self, tower: nn.Module, grid: int) -> None:
        super().__init__()
        self.tower = tower
        self.patches, self.unit = grid * grid, tower.config.spatial_merge_size**2
        self.tokens = self.patches // self.unit
        size, merge = torch.tensor([[1, grid, grid]]), tower.config.spatial_merge_size
        cos, sin = tower.rotary_pos_emb(
            torch.zeros(1), vision_utils.get_vision_position_ids(size, merge)
        )
        order, bounds = vision_utils.get_vision_window_index(
            size,
            spatial_merge_size=merge,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
        bounds = torch.unique_consecutive(bounds)
        window = torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff().long())
        for name, value in (
            ("order", order.long()),
            ("back", torch.argsort(order).long()),
            ("cos", self._by_window(cos, order)[:, None]),
            ("sin", self._by_window(sin, order)[:, None]),
            ("windows", window[:, None] == window[None]),
        ):
            self.register_buffer(name, value.detach(), persistent=False)

    def _by_window(self, rows: Tensor, order: Tensor) -> Tensor:
        """Rows (patches, ...) in the order of the windows; merged patches stay together."""
        return rows.reshape(self.tokens, self.unit, -1)[order].reshape(rows.shape)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Patches (N, P, C) -> tokens (N, T, hidden); Qwen2.5-VL has no deepstack features."""
        tower, count = self.tower, pixels.shape[0]
        kernel = tower.patch_embed.proj.weight
        x = pixels @ kernel.reshape(kernel.shape[0], -1).T
        x = x.view(count, self.tokens, self.unit, -1)[:, self.order].reshape(x.shape)
        for i, block in enumerate(tower.blocks):
            mask = None if i in tower.fullatt_block_indexes else self.windows
            x = x + self._attention(block.attn, block.norm1(x), mask)
            x = x + block.mlp(block.norm2(x))
        return tower.merger(x).view(count, self.tokens, -1)[:, self.back], []

    def _attention(self, attention: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
        count = x.shape[0]
        qkv = attention.qkv(x).view(count, self.patches, 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 1, 3, 4).unbind(0)
        query, key = self._rotate(query), self._rotate(key)
        out = nn.functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            scale=attention.scaling,
        )
        return attention.proj(out.transpose(1, 2).reshape(count, self.patches, -1))

    def _rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat((-second, first), -1) * self.sin


class QwenPrefix(Prefix):
    """`Prefix` of either family; for what `hidden_states[layer]` holds, see there."""

    def __init__(self, model: PreTrainedModel, grid: int, layer: int) -> None:
        """grid: patches along a picture's side.

        Raises:
            ValueError: the grid does not divide into merged patches, or there is no such layer.
        """
        nn.Module.__init__(self)
        tower, layers = model.model.visual, len(model.model.language_model.layers)
        if grid < 1 or grid % tower.config.spatial_merge_size:
            raise ValueError(
                f"a grid of {grid} patches is no multiple of {tower.config.spatial_merge_size}"
            )
        if not 1 <= layer <= layers:
            raise ValueError(f"layer {layer} is not in 1..{layers}")
        windowed = model.config.model_type == "qwen2_5_vl"
        self.vision = (WindowedVision if windowed else FixedGridVision)(tower, grid)
        self.text = model.model.language_model
        self.layer = layer
        self.image_token = model.config.image_token_id
