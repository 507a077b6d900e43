"""Trains the action head on demonstrations, with the backbone frozen.

The backbone's hidden states are computed once for every frame and for `copies` augmented versions
of it, then the head trains on that cache.

    python -m training.head --backbone runs/backbone/backbone.pt \
        --demonstrations runs/demonstrations --out runs/head
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from contracts.bundle import Normalisation
from training.action_head import ActionHead, HeadConfig
from training.grounding import STATE_RANGE, GroundedBackbone, augment, load, relative_truth

STATE_NOISE = 0.004
"""Standard deviation of the noise on the normalised state, about 1 to 2 mm."""


@dataclass(frozen=True)
class HeadTraining:
    """Budget and optimiser (GR00T N1.5's AdamW) of head training; `minutes` of wall time end it.

    `readout_noise_m` blurs the grounding readout while training, as new scenes will.
    """

    minutes: float = 8.0
    batch: int = 64
    draws: int = 2
    copies: int = 2
    learning_rate: float = 1e-3
    warm_up_share: float = 0.05
    betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: float = 1e-5
    ema: float = 0.998
    readout_noise_m: float = 0.003
    held_out_every: int = 12
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class HeadData:
    """Cached inputs and targets, one row a frame and copy.

    hidden (N, L, C) bfloat16; readout (N, 10); normalised state (M, 11), actions (M, horizon, 7);
    frame (N,) maps rows to frames; held_out (M,) marks frames of held-out episodes.
    """

    hidden: Tensor
    readout: Tensor
    frame: Tensor
    prompt: Tensor
    state: Tensor
    actions: Tensor
    held_out: Tensor
    action_range: Normalisation


@torch.no_grad()
def build_cache(backbone: GroundedBackbone, folder: Path, config: HeadTraining) -> HeadData:
    """Run the frozen backbone over all frames; copy 0 is clean, the others are augmented."""
    rows = np.load(folder / "rows.npz")
    images = np.load(folder / "images.npy", mmap_mode="r")
    generator = torch.Generator().manual_seed(config.seed)
    state = torch.from_numpy(STATE_RANGE.normalise(rows["state"]).astype(np.float32))
    action_range = Normalisation.fit(
        rows["actions"].reshape(-1, rows["actions"].shape[-1]).astype(np.float64)
    )
    actions = torch.from_numpy(action_range.normalise(rows["actions"]).astype(np.float32))
    prompt = torch.from_numpy(rows["prompt"])
    hidden, readouts, frames = [], [], []
    for copy_index in range(config.copies):
        for start in tqdm(
            range(0, len(images), 64), desc=f"features, copy {copy_index}", mininterval=5
        ):
            part = slice(start, start + 64)
            pictures = torch.from_numpy(np.ascontiguousarray(images[part]))
            if copy_index:
                pictures = augment(pictures, generator)
            with torch.autocast("cpu", torch.bfloat16):
                h = backbone.hidden(prompt[part], pictures)
            readouts.append(backbone.readout(h.float(), state[part])[0])
            hidden.append(h.bfloat16())
            frames.append(torch.arange(start, start + len(pictures)))
    held_out = torch.from_numpy(rows["episode"] % config.held_out_every == 0)
    return HeadData(
        torch.cat(hidden),
        torch.cat(readouts),
        torch.cat(frames),
        prompt,
        state,
        actions,
        held_out,
        action_range,
    )


def readout_error(data: HeadData, truth: np.ndarray, position: np.ndarray) -> dict[str, float]:
    """Median error [mm] in the plane of the clean readout on the demonstrations' frames."""
    clean = data.readout[: len(data.state)]
    relative = relative_truth(torch.from_numpy(position), torch.from_numpy(truth))
    error = (clean[:, :6] - relative).view(-1, 2, 3)[..., :2].norm(dim=-1) * 1e3
    return {"object_mm": float(error[:, 0].median()), "target_mm": float(error[:, 1].median())}


def train(
    head: ActionHead, data: HeadData, mask: Tensor, config: HeadTraining
) -> list[dict[str, float]]:
    """Train `head` in place (it ends with its EMA weights); returns the curve of losses.

    mask (prompts, L) says which tokens of each prompt are real.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    is_held_out = data.held_out[data.frame]
    rows, held_out = torch.where(~is_held_out)[0], torch.where(is_held_out)[0]
    optimiser = torch.optim.AdamW(
        head.parameters(),
        config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    average = copy.deepcopy(head).eval()
    curve: list[dict[str, float]] = []
    started, step, next_report, losses = time.monotonic(), 0, 30.0, []
    progress = tqdm(total=round(config.minutes * 60), desc="head [s]", mininterval=5)
    while (elapsed := time.monotonic() - started) < config.minutes * 60:
        share = elapsed / (config.minutes * 60)
        warm = min(1.0, share / config.warm_up_share, (step + 1) / 100)
        for group in optimiser.param_groups:
            group["lr"] = (
                config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
            )
        picked = rows[torch.randint(len(rows), (config.batch,))]
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(head, data, mask, picked, config, noisy=True)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(config.ema, step / (step + 10))
        for slow, fast in zip(average.parameters(), head.parameters(), strict=True):
            slow.data.lerp_(fast.data, 1 - decay)
        losses.append(loss.item())
        progress.set_postfix(step=step, loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
        progress.update(round(elapsed) - progress.n)
        if elapsed > next_report:
            next_report += 60.0
            curve.append(
                {
                    "step": step,
                    "train": float(np.mean(losses[-200:])),
                    "held_out": held_out_loss(average, data, mask, held_out, config),
                }
            )
            progress.write(json.dumps(curve[-1]))
    head.load_state_dict(average.state_dict())
    curve.append(
        {
            "step": step,
            "train": float(np.mean(losses[-200:])),
            "held_out": held_out_loss(average, data, mask, held_out, config),
        }
    )
    progress.write(json.dumps(curve[-1]))
    return curve


@torch.no_grad()
def held_out_loss(
    head: ActionHead, data: HeadData, mask: Tensor, rows: Tensor, config: HeadTraining
) -> float:
    """Flow-matching loss on held-out episodes with fixed noise."""
    state = torch.random.get_rng_state()
    torch.manual_seed(1234)
    picked = rows[torch.randperm(len(rows))[:512]]
    with torch.autocast("cpu", torch.bfloat16):
        loss = _loss(head, data, mask, picked, config, noisy=False)
    torch.random.set_rng_state(state)
    return float(loss)


def _loss(
    head: ActionHead,
    data: HeadData,
    mask: Tensor,
    rows: Tensor,
    config: HeadTraining,
    *,
    noisy: bool,
) -> Tensor:
    frame = data.frame[rows]
    state, readout = data.state[frame], data.readout[rows]
    if noisy:
        state = state + STATE_NOISE * torch.randn_like(state)
        blur = torch.cat([torch.full((6,), config.readout_noise_m), torch.full((4,), 0.03)])
        readout = readout + blur * torch.randn_like(readout)
    return head.loss(
        data.actions[frame],
        data.hidden[rows].float(),
        mask[data.prompt[frame]].bool(),
        state,
        readout,
        config.draws,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the action head on demonstrations.")
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--demonstrations", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=HeadTraining.minutes)
    parser.add_argument("--threads", type=int, default=HeadTraining.threads)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = HeadTraining(minutes=arguments.minutes, threads=arguments.threads, seed=arguments.seed)
    torch.set_num_threads(config.threads)
    backbone = load(arguments.backbone)
    data = build_cache(backbone, arguments.demonstrations, config)
    rows = np.load(arguments.demonstrations / "rows.npz")
    error = readout_error(data, rows["truth"], rows["state"][:, :3])
    print("readout on the demonstrations:", error)
    torch.manual_seed(config.seed)
    head_config = HeadConfig(hidden=backbone.config.hidden, image_tail=backbone.readout.span)
    head = ActionHead(head_config)
    curve = train(head.train(), data, backbone.prompts.mask, config)
    content = {
        "config": asdict(head_config),
        "weights": head.state_dict(),
        "action_low": list(data.action_range.low),
        "action_high": list(data.action_range.high),
    }
    torch.save(content, arguments.out / "head.pt")
    record = {
        "head": asdict(config),
        "sizes": asdict(head_config),
        "frames": len(data.state),
        "seed": int(rows["seed"]),
        "episodes": int(rows["episode"].max()) + 1,
        "readout": error,
        "curve": curve,
    }
    (arguments.out / "head.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
