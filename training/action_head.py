"""Diffusion action head: a flow-matching transformer on frozen hidden states (GR00T N1.5).

Bjorck et al. 2025 and the paper's Appendix A.2, at a size set by the config. Even blocks attend to
the backbone's tokens, odd blocks to the action tokens; time enters by adaptive layer norm.
Differences from GR00T, each for the lab size: `pack` actions share a token (a small transformer
learns far sooner), and a grounding readout joins the state token (see `readout.py`). Unlike GR00T,
padding is masked in the attention.

`sample` can go on from an earlier chunk (real-time chunking, Black et al. 2025) by guided
inpainting without a backward pass. The paper corrects the velocity by c * VJP(e), where
e = weight * (previous - estimate of the final actions). Here the Jacobian is taken for the
identity, so that VJP(e) = e, and c = 1 / (1 - t): a step of weight 1 then moves on the straight
line from its noise to the previous action, as actions do in training, and ends on it; the paper's
own c would lead it off that line. A weight between blends both velocities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop

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


Keys = tuple[Tensor, Tensor]
"""Keys and values that an attention layer made of its context."""


class Attention(nn.Module):
    """Multi-head attention from x (B, T, width) to a context (B, S, context width)."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(context, 2 * width)

    def keys(self, context: Tensor) -> Keys:
        """Keys and values (B, heads, S, width / heads) of a context (B, S, context width)."""
        # Copies: as two views of one tensor they could not enter the exported loop.
        key, value = (self._split(part).clone() for part in self.key_value(context).chunk(2, -1))
        return key, value

    def forward(self, x: Tensor, keys: Keys, mask: Tensor | None) -> Tensor:
        """mask (B, 1, 1, S) is True where the context may be attended.

        x may hold several rows for each row of the context, side by side: they share its keys.
        """
        (key, value), shape = keys, x.shape
        query = self._split(self.query(x).reshape(key.shape[0], -1, shape[-1]))
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

    def forward(self, x: Tensor, time: Tensor, keys: Keys | None, mask: Tensor) -> Tensor:
        """`keys` are the context's for a cross block; a self block makes its own and has None."""
        shift, scale = self.modulation(F.silu(time))[:, None].chunk(2, -1)
        normed = self.norm(x) * (1 + scale) + shift
        attended = (
            self.attention(normed, keys, mask)
            if keys is not None
            else self.attention(normed, self.attention.keys(normed), None)
        )
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class ActionHead(nn.Module):
    """Velocity field of the flow from noise (t = 0) to normalised actions (t = 1)."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        width, packed = config.width, ACTION_DIMENSION * config.pack
        # Its scale and shift would only repeat what the keys' and values' matrices can do; without
        # them no gradient has to go back through the cached features.
        self.context_norm = nn.LayerNorm(config.hidden, elementwise_affine=False)
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

    def context_keys(self, hidden: Tensor) -> list[Keys | None]:
        """What each block attends to in hidden states (B', L, C): the same at all flow times."""
        context = self.context_norm(hidden)
        return [block.attention.keys(context) if block.cross else None for block in self.blocks]

    def velocity(
        self,
        noisy: Tensor,
        t: Tensor,
        keys: Sequence[Keys | None],
        mask: Tensor,
        state_tokens: Tensor,
    ) -> Tensor:
        """Velocity (B, horizon, 7) at `noisy` actions and times t (B,) in 0..1.

        keys: `context_keys` of B' rows; mask (B', 1, 1, L) is True where real; B is a multiple of
        B' (several noise draws of one example stand side by side).
        """
        time = self._embed_time(t)
        actions = self.action_in(noisy.reshape(noisy.shape[0], self.positions.shape[1], -1))
        timed = torch.cat([actions, time[:, None].expand_as(actions)], dim=-1)
        actions = self.action_mix(F.silu(self.action_time(timed))) + self.positions
        x = torch.cat([state_tokens, actions], dim=1)
        for block, block_keys in zip(self.blocks, keys, strict=True):
            x = block(x, time, block_keys, mask)
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
        predicted = self.velocity(noisy, t, self.context_keys(hidden), visible, tokens)
        return F.mse_loss(predicted.float(), actions - noise)

    def sample(
        self,
        noise: Tensor,
        hidden: Tensor,
        mask: Tensor,
        state: Tensor,
        readout: Tensor,
        steps: int | Tensor,
        previous: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Normalised actions (B, horizon, 7) by `steps` Euler steps from `noise`.

        previous (B, horizon, 7): normalised actions to go on from; weight (B, horizon): how firmly
        each holds, 0 not at all .. 1 fully. A tensor of `steps` stays one input of an export.
        """
        keys, visible = self.context_keys(hidden), mask.bool()[:, None, None, :]
        tokens = self.encode_state(state, readout)
        count = torch.as_tensor(steps)

        def step(i: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
            t = (i / count).to(actions.dtype)
            velocity = self.velocity(actions, t.expand(actions.shape[0]), keys, visible, tokens)
            if previous is not None and weight is not None:
                estimate = actions + (1 - t) * velocity
                error = weight[..., None] * (previous - estimate)
                velocity = velocity + error / (1 - t)
            return i + 1, actions + velocity / count

        i, actions = torch.zeros_like(count), noise
        if isinstance(steps, Tensor):
            return while_loop(lambda i, _: i < count, step, (i, actions))[1]
        for _ in range(steps):
            i, actions = step(i, actions)
        return actions

    def _embed_time(self, t: Tensor) -> Tensor:
        angles = torch.floor(t * TIME_BUCKETS)[:, None] * self.frequencies
        return self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
