"""Diffusion action head: a flow-matching transformer on frozen hidden states (GR00T N1.5).

Bjorck et al. 2025 and the paper's Appendix A.2, at a size set by the config. Even blocks attend to
the backbone's tokens, odd blocks to the action tokens; time enters by adaptive layer norm.
Differences from GR00T, each for the lab size: `pack` actions share a token (a small transformer
learns far sooner), and a grounding readout joins the state token (see `readout.py`). Unlike GR00T,
padding is masked in the attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.bundle import ACTION_DIMENSION, STATE_DIMENSION
from training.readout import READOUT_DIMENSION

TIME_BUCKETS = 1000
NOISE_S = 0.999
BETA_ALPHA, BETA_BETA = 1.5, 1.0


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the head.

    hidden: the backbone's width. image_tail: tokens of a prompt from the first picture to its end;
    `backbone_dropout` is the share of training examples in which the head does not see them.
    """

    hidden: int = 192
    width: int = 128
    depth: int = 4
    heads: int = 4
    horizon: int = 16
    pack: int = 4
    dropout: float = 0.1
    image_tail: int = 42
    backbone_dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.horizon % self.pack or self.width % self.heads:
            raise ValueError("horizon must be a multiple of pack, and width of heads")


class Attention(nn.Module):
    """Multi-head attention from x (B, T, width) to a context (B, S, context width)."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(context, 2 * width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """mask (B, 1, 1, S) is True where the context may be attended.

        x may hold several rows for each row of the context, side by side: they share its keys.
        """
        shape = x.shape
        query = self._split(self.query(x).reshape(context.shape[0], -1, shape[-1]))
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, -1))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(out.transpose(1, 2).reshape(shape))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention (cross or self), then a feed-forward layer, both modulated by time."""

    def __init__(self, config: HeadConfig, cross: bool) -> None:
        super().__init__()
        width = config.width
        self.cross = cross
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.attention = Attention(width, config.hidden if cross else width, config.heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Dropout(config.dropout),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, time: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(time))[:, None].chunk(2, -1)
        normed = self.norm(x) * (1 + scale) + shift
        attended = (
            self.attention(normed, context, mask)
            if self.cross
            else self.attention(normed, normed, None)
        )
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class ActionHead(nn.Module):
    """Velocity field of the flow from noise (t = 0) to normalised actions (t = 1)."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        width, packed = config.width, ACTION_DIMENSION * config.pack
        self.context_norm = nn.LayerNorm(config.hidden)
        self.state = nn.Sequential(
            nn.Linear(STATE_DIMENSION + 3 * READOUT_DIMENSION, width),
            nn.SiLU(),
            nn.Linear(width, 2 * width),
        )
        self.action_in = nn.Linear(packed, width)
        self.action_time = nn.Linear(2 * width, width)
        self.action_mix = nn.Linear(width, width)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.positions = nn.Parameter(torch.randn(1, config.horizon // config.pack, width) * 0.02)
        self.blocks = nn.ModuleList(Block(config, cross=i % 2 == 0) for i in range(config.depth))
        self.out_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, packed)
        frequencies = torch.exp(torch.arange(32) * (-math.log(10_000.0) / 31))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def encode_state(self, state: Tensor, readout: Tensor) -> Tensor:
        """Two tokens (B, 2, width) of the state (B, 11) and the readout (B, 10) at three scales."""
        coarse, fine = readout / 0.2, (readout / 0.03).clamp(-1.5, 1.5)
        finest = (readout / 0.008).clamp(-1.5, 1.5)
        return self.state(torch.cat([state, coarse, fine, finest], dim=1)).unflatten(1, (2, -1))

    def velocity(
        self, noisy: Tensor, t: Tensor, hidden: Tensor, mask: Tensor, state_tokens: Tensor
    ) -> Tensor:
        """Velocity (B, horizon, 7) at `noisy` actions and times t (B,) in 0..1.

        hidden (B', L, C) must have passed `context_norm`; mask (B', 1, 1, L) is True where real;
        B is a multiple of B' (several noise draws of one example stand side by side).
        """
        time = self._embed_time(t)
        actions = self.action_in(noisy.reshape(noisy.shape[0], self.positions.shape[1], -1))
        timed = torch.cat([actions, time[:, None].expand_as(actions)], dim=-1)
        actions = self.action_mix(F.silu(self.action_time(timed))) + self.positions
        x = torch.cat([state_tokens, actions], dim=1)
        for block in self.blocks:
            x = block(x, time, hidden, mask)
        return self.out(self.out_norm(x[:, state_tokens.shape[1] :])).reshape(noisy.shape)

    def loss(
        self,
        actions: Tensor,
        hidden: Tensor,
        mask: Tensor,
        state: Tensor,
        readout: Tensor,
        draws: int,
    ) -> Tensor:
        """Flow-matching loss over `draws` noise samples of each example."""
        context = self.context_norm(hidden)
        visible = mask[:, None, None, :]
        if self.training:
            # Hiding the picture in some examples keeps the head from learning the scenes by heart.
            # What stands before the first picture knows the instruction only, and stays.
            keep = torch.rand(len(hidden), 1, 1, 1) > self.config.backbone_dropout
            text = torch.arange(hidden.shape[1]) < hidden.shape[1] - self.config.image_tail
            visible = visible & (keep | text)
        tokens = self.encode_state(state, readout)
        actions, tokens = (x.repeat_interleave(draws, 0) for x in (actions, tokens))
        beta = torch.distributions.Beta(BETA_ALPHA, BETA_BETA).sample((len(actions),))
        t = (NOISE_S - beta) / NOISE_S
        noise = torch.randn_like(actions)
        noisy = (1 - t[:, None, None]) * noise + t[:, None, None] * actions
        predicted = self.velocity(noisy, t, context, visible, tokens)
        return F.mse_loss(predicted.float(), actions - noise)

    def sample(
        self,
        noise: Tensor,
        hidden: Tensor,
        mask: Tensor,
        state: Tensor,
        readout: Tensor,
        steps: int,
    ) -> Tensor:
        """Normalised actions (B, horizon, 7) by `steps` Euler steps from `noise`."""
        context, visible = self.context_norm(hidden), mask.bool()[:, None, None, :]
        tokens, actions = self.encode_state(state, readout), noise
        for i in range(steps):
            t = torch.full_like(noise[:, 0, 0], i / steps)
            actions = actions + self.velocity(actions, t, context, visible, tokens) / steps
        return actions

    def _embed_time(self, t: Tensor) -> Tensor:
        angles = torch.floor(t * TIME_BUCKETS)[:, None] * self.frequencies
        return self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
