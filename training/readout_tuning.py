"""Trains the readout further on the frozen backbone's features: cheap steps, large batches.

python -m training.readout_tuning --backbone runs/backbone --scenes runs/scenes/1 runs/scenes/2
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from training import grounding
from training.grounding import GroundedBackbone, SceneData, augment, evaluate, grounding_loss


@dataclass(frozen=True)
class TuningConfig:
    """Budget and optimiser; the held-out scenes are those of the grounding stage.

    every: of how many scenes one is used; features take a while.
    """

    minutes: float = 5.0
    batch: int = 256
    learning_rate: float = 1e-3
    every: int = 2
    held_out: int = 1500
    threads: int = 2
    seed: int = 0


@torch.no_grad()
def image_features(backbone: GroundedBackbone, data: SceneData, rows: np.ndarray) -> Tensor:
    """Hidden states (rows, L', C) from the first image token on, bfloat16, pictures augmented."""
    generator = torch.Generator().manual_seed(1)
    kept = []
    for start in tqdm(range(0, len(rows), 64), desc="features", mininterval=5):
        part = rows[start : start + 64]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = backbone.hidden(data.prompt[part], augment(data.images(part), generator))
        kept.append(hidden[:, -backbone.readout.span :].bfloat16())
    return torch.cat(kept)


def tune(
    backbone: GroundedBackbone,
    data: SceneData,
    features: Tensor,
    rows: np.ndarray,
    config: TuningConfig,
) -> dict[str, float]:
    """Train `backbone.readout` in place on `features` of the scenes `rows`; held-out errors."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    readout, scenes = backbone.readout.train(), torch.from_numpy(rows)
    optimiser = torch.optim.AdamW(readout.parameters(), config.learning_rate, weight_decay=0.01)
    started, step = time.monotonic(), 0
    progress = tqdm(total=round(config.minutes * 60), desc="readout [s]", mininterval=5)
    while (elapsed := time.monotonic() - started) < config.minutes * 60:
        share = elapsed / (config.minutes * 60)
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 50)
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))
        picked = torch.randint(len(features), (config.batch,))
        scene = scenes[picked]
        state = data.state[scene] + 0.004 * torch.randn_like(data.state[scene])
        found, points = readout(features[picked].float(), state)
        loss = grounding_loss(found, points, data.position[scene], data.truth[scene])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(readout.parameters(), 1.0)
        optimiser.step()
        step += 1
        progress.set_postfix(step=step, loss=f"{loss.item():.3f}", refresh=False)
        progress.update(round(elapsed) - progress.n)
    backbone.eval()
    held_out = np.arange(len(data) - config.held_out, len(data))
    return {"steps": float(step), **evaluate(backbone, data, held_out)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the readout on frozen features.")
    parser.add_argument("--backbone", type=Path, required=True, help="folder of the backbone")
    parser.add_argument("--scenes", type=Path, nargs="+", required=True)
    parser.add_argument("--minutes", type=float, default=TuningConfig.minutes)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = TuningConfig(minutes=arguments.minutes, seed=arguments.seed)
    torch.set_num_threads(config.threads)
    backbone = grounding.load(arguments.backbone / "backbone.pt")
    data = SceneData(arguments.scenes)
    rows = np.arange(0, len(data) - config.held_out, config.every)
    features = image_features(backbone, data, rows)
    result = tune(backbone, data, features, rows, config)
    print(json.dumps(result))
    grounding.save(backbone, arguments.backbone)
    record = {"readout": asdict(config), "held_out": result}
    (arguments.backbone / "readout.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
