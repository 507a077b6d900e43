"""The ladder's ceiling on pictures: backbone, readout and head trained together on demonstrations.

It goes on from a head on the frozen backbone; nothing is frozen any more, so that what is left to
gain by better features for these demonstrations shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from contracts.bundle import Normalisation
from training.action_head import ActionHead
from training.backbones import mixed_precision
from training.grounding import STATE_RANGE, GroundedBackbone, augment
from training.head import Demonstrations, HeadTraining, schedule


@dataclass(frozen=True)
class EndToEnd:
    """Budget and optimiser."""

    steps: int = 2500
    batch: int = 16
    draws: int = 4
    learning_rate: float = 2e-4
    warm_up_share: float = 0.05
    weight_decay: float = 1e-4
    held_out_every: int = HeadTraining.held_out_every
    threads: int = 1
    seed: int = 0


def train(
    backbone: GroundedBackbone,
    head: ActionHead,
    action_range: Normalisation,
    demonstrations: Demonstrations,
    config: EndToEnd,
) -> list[dict[str, float]]:
    """Train all in place on the episodes that are not held out; returns the losses."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    rows = demonstrations.rows
    usable = np.flatnonzero(rows["episode"] % config.held_out_every)
    state = torch.from_numpy(STATE_RANGE.normalise(rows["state"]).astype(np.float32))
    actions = torch.from_numpy(action_range.normalise(rows["actions"]).astype(np.float32))
    prompt = torch.from_numpy(rows["prompt"])
    parts = nn.ModuleList([backbone.prefix, backbone.readout, head]).train()
    parameters = [p for p in parts.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    curve: list[dict[str, float]] = []
    for step in tqdm(range(1, config.steps + 1), desc="end to end", mininterval=5):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * schedule(step / config.steps, config.warm_up_share)
        picked = np.sort(rng.choice(usable, config.batch, replace=False))
        pictures = augment(torch.from_numpy(demonstrations.images[picked]), generator)
        with mixed_precision():
            hidden = backbone.hidden(prompt[picked], pictures).float()
            readout, _ = backbone.readout(hidden, state[picked])
            mask = backbone.prompts.mask[prompt[picked]].bool()
            loss = head.loss(
                actions[picked], hidden, mask, state[picked], readout, config.draws
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 25 == 0 or step == config.steps:
            curve.append({"step": step, "train": loss.item()})
    parts.eval()
    return curve
