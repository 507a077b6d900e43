"""Trains the grounding readout alone on frozen features of scenes: cheap steps, large batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from training import features
from training.grounding import GroundedBackbone, SceneData, grounding_loss
from training.head import STATE_NOISE, schedule


@dataclass(frozen=True)
class TuningConfig:
    """Budget and optimiser."""

    steps: int = 1500
    batch: int = 128
    learning_rate: float = 1e-3
    warm_up_share: float = 0.05
    weight_decay: float = 0.01
    threads: int = 1
    seed: int = 0


def tune(
    backbone: GroundedBackbone,
    data: SceneData,
    hidden: np.ndarray,
    rows: np.ndarray,
    config: TuningConfig,
) -> None:
    """Train `backbone.readout` in place on cached features `hidden` of the scenes `rows`."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    readout, scenes = backbone.readout.train(), torch.from_numpy(rows)
    optimiser = torch.optim.AdamW(
        readout.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    for step in tqdm(range(1, config.steps + 1), desc="readout", mininterval=5):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * schedule(step / config.steps, config.warm_up_share)
        picked = torch.randint(len(hidden), (config.batch,))
        scene = scenes[picked]
        state = data.state[scene] + STATE_NOISE * torch.randn_like(data.state[scene])
        found, points = readout(features.rows_of(hidden, picked.numpy()), state)
        loss = grounding_loss(found, points, data.position[scene], data.truth[scene])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(readout.parameters(), 1.0)
        optimiser.step()
    backbone.eval()
