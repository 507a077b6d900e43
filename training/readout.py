"""Grounding readout: where the object and the target are, read from the backbone's image tokens.

A deviation from the paper, which gives the head hidden states alone: a backbone of lab size is too
weak for 240 demonstrations to find the objects in its features by themselves (see the report).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contracts.bundle import STATE_DIMENSION

CAMERAS = 2
ENTITIES = 2
"""The object to move, and the target container."""
READOUT_DIMENSION = 10
"""Object and target from the end effector (3 + 3) [m], grasp yaw as cos and sin of 2x and 4x."""


class GroundingReadout(nn.Module):
    """Pools each camera's tokens by attention, one query an entity, and regresses positions."""

    def __init__(
        self, hidden: int, tokens: int, tail: int, features: int = 32, width: int = 256
    ) -> None:
        """`tokens` a camera; `tail` tokens stand after the last image token of the prompt."""
        super().__init__()
        self.tokens, self.tail, self.features = tokens, tail, features
        side = int(tokens**0.5)
        centres = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer(
            "centres", torch.stack([x.flatten(), y.flatten()], -1), persistent=False
        )
        self.norm = nn.LayerNorm(hidden)
        self.score = nn.Linear(hidden, ENTITIES)
        self.offset = nn.Linear(hidden, ENTITIES * 2)
        self.value = nn.Linear(hidden, ENTITIES * features)
        pooled = CAMERAS * ENTITIES * (2 + features)
        self.regress = nn.Sequential(
            nn.Linear(pooled + STATE_DIMENSION, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, READOUT_DIMENSION),
        )  # fmt: skip
        # Outputs in decimetres train at the scale of the other outputs.
        self.register_buffer("scale", torch.tensor([0.1] * 6 + [1.0] * 4), persistent=False)

    @property
    def span(self) -> int:
        """Tokens from the first image token to the prompt's end: all that the readout reads."""
        return self.tail + 2 * self.tokens + 2

    def forward(self, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (B, L, C) with left padding, normalised state (B, 11) -> readout (B, 10), points.

        points (B, cameras, entities, 2) are picture coordinates 0..1.
        """
        tokens = self.norm(self._image_tokens(hidden))
        weights = self.score(tokens).softmax(dim=2)
        offset = self.offset(tokens).unflatten(-1, (ENTITIES, 2)) * 0.25
        points = (weights[..., None] * (self.centres[None, None, :, None] + offset)).sum(2)
        values = self.value(tokens).unflatten(-1, (ENTITIES, self.features))
        pooled = (weights[..., None] * values).sum(2)
        inputs = torch.cat([points.flatten(1), pooled.flatten(1), state], dim=1)
        return self.regress(inputs) * self.scale, points

    def _image_tokens(self, hidden: Tensor) -> Tensor:
        """(B, cameras, tokens, C): two runs of image tokens, vision end and start between."""
        end = hidden.shape[1] - self.tail
        second = hidden[:, end - self.tokens : end]
        first_end = end - self.tokens - 2
        first = hidden[:, first_end - self.tokens : first_end]
        return torch.stack([first, second], dim=1)
