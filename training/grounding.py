"""Trains the lab backbone and its readout from nothing on scene snapshots.

Targets are the simulator's truth: where the object and the target are in each picture, and where
they are from the gripper. Language modelling is not part of this first stage.

    python -m training.grounding --scenes runs/scenes/1 runs/scenes/2 --out runs/backbone
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Qwen2Tokenizer, Qwen3VLForConditionalGeneration

from contracts.bundle import Normalisation
from contracts.task import OBJECTS, TASKS
from training.backbones import (
    LabBackboneConfig,
    Prefix,
    PromptBatch,
    encode_prompts,
    lab_backbone,
    lab_tokenizer,
    mixed_precision,
    to_patches,
)
from training.readout import GroundingReadout

STATE_RANGE = Normalisation(
    low=(0.2, -0.4, 0.0) + (-1.0,) * 6 + (0.0, 0.0),
    high=(0.8, 0.4, 0.4) + (1.0,) * 6 + (1.0, 1.0),
)
"""Fixed range of the state: the workspace, rotation entries and openings."""


@dataclass(frozen=True)
class GroundingConfig:
    """Budget and optimiser of the grounding stage; `minutes` of wall time end it."""

    minutes: float = 40.0
    batch: int = 32
    learning_rate: float = 1e-3
    warm_up_steps: int = 150
    weight_decay: float = 0.01
    held_out: int = 1500
    threads: int = 1
    seed: int = 0


class SceneData:
    """Snapshots of several folders as one indexed set."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._images = [np.load(folder / "images.npy", mmap_mode="r") for folder in folders]
        rows = [np.load(folder / "rows.npz") for folder in folders]
        self.seeds = [int(row["seed"]) for row in rows]
        self._starts = np.cumsum([0] + [len(images) for images in self._images])
        state = np.concatenate([row["state"] for row in rows])
        self.position = torch.from_numpy(state[:, :3].copy())
        self.state = torch.from_numpy(STATE_RANGE.normalise(state).astype(np.float32))
        self.truth = torch.from_numpy(np.concatenate([row["truth"] for row in rows]))
        index = np.concatenate([row["task"] * len(OBJECTS) + row["object"] for row in rows])
        self.prompt = torch.from_numpy(index)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, rows: np.ndarray) -> Tensor:
        """uint8 pictures (len(rows), cameras, size, size, 3)."""
        folder = np.searchsorted(self._starts, rows, side="right") - 1
        picked = [self._images[f][r - self._starts[f]] for f, r in zip(folder, rows, strict=True)]
        return torch.from_numpy(np.stack(picked))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Light, contrast, colour and sensor noise, as a camera would change them; uint8 in and out."""
    count = images.shape[:2]
    shape = (*count, 1, 1, 1)
    x = images.float()
    gain = 1 + 0.15 * torch.randn(shape, generator=generator).clamp(-2, 2)
    tint = 1 + 0.04 * torch.randn((*count, 1, 1, 3), generator=generator).clamp(-2, 2)
    offset = 10 * torch.randn(shape, generator=generator).clamp(-2, 2)
    x = x * gain * tint + offset
    # A soft picture, as an area-averaged one of a larger camera is.
    soft = (x + x.roll(1, 2) + x.roll(1, 3) + x.roll((1, 1), (2, 3))) / 4
    blend = torch.rand(shape, generator=generator).round() * 0.5
    x = x + blend * (
        (soft + soft.roll(-1, 2) + soft.roll(-1, 3) + soft.roll((-1, -1), (2, 3))) / 4 - x
    )
    noise = torch.randn(x.shape[:-1], generator=generator)[..., None] * 3
    return (x + noise).clamp(0, 255).to(torch.uint8)


class GroundedBackbone(nn.Module):
    """Prefix and readout trained together; `prompts` are those of all task and object pairs."""

    def __init__(
        self,
        config: LabBackboneConfig,
        tokenizer: Qwen2Tokenizer | None = None,
        model: Qwen3VLForConditionalGeneration | None = None,
    ) -> None:
        """Random weights, or `model` with its tokenizer, whose vocabulary may be larger."""
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer or lab_tokenizer(config.ranks)
        self.model = model or lab_backbone(config, self.tokenizer)
        instructions = [task.instruction(obj) for task in TASKS.values() for obj in OBJECTS]
        self.prompts: PromptBatch = encode_prompts(
            instructions, self.tokenizer, self.model, config.grid
        )
        self.prefix = Prefix(self.model, config.grid, config.layer)
        is_image = self.prompts.ids[0] == self.model.config.image_token_id
        self.tail = int(is_image.flip(0).int().argmax())
        self.readout = GroundingReadout(config.hidden, self.prefix.vision.tokens, self.tail)

    def hidden(self, prompt: Tensor, images: Tensor) -> Tensor:
        """Hidden states (B, L, C) of prompts (B,) (indices) and pictures (B, cameras, H, W, 3)."""
        batch = self.prompts.select(prompt)
        pixels = to_patches(images, self.config.patch_size)
        return self.prefix(batch.ids, batch.mask, batch.positions, pixels)


def grounding_loss(readout: Tensor, points: Tensor, position: Tensor, truth: Tensor) -> Tensor:
    """Smooth L1 on pointing (inside the picture), relative positions and grasp yaw."""
    wanted_points = truth[:, 10:18].view(points.shape)
    visible = ((wanted_points > 0) & (wanted_points < 1)).all(-1, keepdim=True).expand_as(points)
    pointing = F.smooth_l1_loss(points[visible], wanted_points[visible], beta=0.02)
    relative = relative_truth(position, truth)
    # What is near must be exact; a far goal needs its direction only.
    distance = relative.view(-1, 2, 3)[..., :2].norm(dim=-1, keepdim=True)
    weight = (1.0 / (0.4 + distance / 0.1)).expand(-1, -1, 3).flatten(1)
    error = F.smooth_l1_loss(readout[:, :6] / 0.01, relative / 0.01, beta=1.0, reduction="none")
    turn = F.smooth_l1_loss(readout[:, 6:], truth[:, 6:10], beta=0.1)
    return 20 * pointing + 0.3 * (weight * error).mean() + turn


def relative_truth(position: Tensor, truth: Tensor) -> Tensor:
    """Object and target seen from the end effector (B, 6) [m]."""
    return torch.cat([truth[:, 0:3] - position, truth[:, 3:6] - position], dim=1)


@torch.no_grad()
def evaluate(backbone: GroundedBackbone, data: SceneData, rows: np.ndarray) -> dict[str, float]:
    """Held-out errors: millimetres in the table's plane, near (below 5 cm) and anywhere."""
    backbone.eval()
    found = []
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        with mixed_precision():
            hidden = backbone.hidden(data.prompt[part], data.images(part))
        found.append(backbone.readout(hidden.float(), data.state[part])[0])
    readout = torch.cat(found)
    relative = relative_truth(data.position[rows], data.truth[rows])
    error = (readout[:, :6] - relative).view(-1, 2, 3)[..., :2].norm(dim=-1) * 1e3
    near = relative[:, :2].norm(dim=-1) < 0.05
    turn = (
        torch.rad2deg(
            torch.atan2(readout[:, 7], readout[:, 6])
            - torch.atan2(data.truth[rows, 7], data.truth[rows, 6])
        )
        / 2
    )
    turn = (turn + 90) % 180 - 90
    backbone.train()
    return {
        "object_mm": float(error[:, 0].median()),
        "object_p90_mm": float(error[:, 0].quantile(0.9)),
        "object_near_mm": float(error[near, 0].median()),
        "object_near_p90_mm": float(error[near, 0].quantile(0.9)),
        "target_mm": float(error[:, 1].median()),
        "target_p90_mm": float(error[:, 1].quantile(0.9)),
        "yaw_deg": float(turn[near].abs().median()),
    }


def train(
    backbone: GroundedBackbone, data: SceneData, config: GroundingConfig, out: Path
) -> list[dict[str, float]]:
    """Train for `config.minutes`; saves `backbone.pt` every few minutes and returns the curve."""
    torch.set_num_threads(config.threads)
    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    split = len(data) - config.held_out
    held_out = np.arange(split, len(data))
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters,
        config.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
        fused=True,
    )
    curve: list[dict[str, float]] = []
    started, step, next_report = time.monotonic(), 0, 90.0
    progress = tqdm(total=round(config.minutes * 60), desc="grounding [s]", mininterval=10)
    while (elapsed := time.monotonic() - started) < config.minutes * 60:
        share = elapsed / (config.minutes * 60)
        rate = config.learning_rate * min(1.0, (step + 1) / config.warm_up_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        rows = np.sort(rng.integers(0, split, config.batch))
        images = augment(data.images(rows), generator)
        with mixed_precision():
            hidden = backbone.hidden(data.prompt[rows], images)
        readout, points = backbone.readout(hidden.float(), data.state[rows])
        loss = grounding_loss(readout, points, data.position[rows], data.truth[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        progress.set_postfix(step=step, loss=f"{loss.item():.3f}", refresh=False)
        progress.update(round(elapsed) - progress.n)
        if elapsed > next_report:
            next_report += 180.0
            curve.append(
                {"step": step, "samples": step * config.batch, "loss": loss.item()}
                | evaluate(backbone, data, held_out[:600])
            )
            progress.write(json.dumps({k: round(v, 2) for k, v in curve[-1].items()}))
            save(backbone, out)
    curve.append(
        {"step": step, "samples": step * config.batch, "loss": loss.item()}
        | evaluate(backbone, data, held_out)
    )
    progress.write(json.dumps(curve[-1]))
    save(backbone, out)
    return curve


def save(backbone: GroundedBackbone, out: Path) -> None:
    """Write backbone.pt by way of a temporary name, so that a crash leaves the last good one."""
    temporary = out / "backbone.pt.tmp"
    torch.save({"config": asdict(backbone.config), "weights": backbone.state_dict()}, temporary)
    temporary.replace(out / "backbone.pt")


def load(path: Path) -> GroundedBackbone:
    """Backbone saved by `save`, in evaluation mode."""
    content = torch.load(path, weights_only=True)
    backbone = GroundedBackbone(LabBackboneConfig(**content["config"]))
    backbone.load_state_dict(content["weights"])
    return backbone.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the lab backbone on scene snapshots.")
    parser.add_argument("--scenes", type=Path, nargs="+", required=True)
    parser.add_argument("--minutes", type=float, default=GroundingConfig.minutes)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = GroundingConfig(minutes=arguments.minutes, seed=arguments.seed)
    data = SceneData(arguments.scenes)
    backbone = GroundedBackbone(LabBackboneConfig(seed=arguments.seed))
    curve = train(backbone, data, config, arguments.out)
    scenes = {"samples": len(data), "seeds": data.seeds}
    record = {"grounding": asdict(config), "scenes": scenes, "curve": curve}
    (arguments.out / "grounding.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
