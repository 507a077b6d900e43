"""Trains the action head on demonstrations, with the backbone frozen.

The head reads the backbone's hidden states from a cache (`features.py`), so that a step costs the
head's own work alone.

    python -m training.head --backbone runs/backbone --demonstrations runs/demonstrations \
        --out runs/head
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from contracts.bundle import Normalisation
from training import features
from training.action_head import ActionHead, HeadConfig
from training.backbones import mixed_precision
from training.grounding import STATE_RANGE, GroundedBackbone, load, relative_truth
from training.readout import READOUT_DIMENSION

STATE_NOISE = 0.004
"""Standard deviation of the noise on the normalised state, about 1 to 2 mm."""
EXECUTED = 6
"""Steps of a chunk that are executed before the next one comes: the error that counts."""


@dataclass(frozen=True)
class HeadTraining:
    """Budget and optimiser (GR00T N1.5's AdamW) of head training.

    copies: versions of each picture in the cache, the first one clean. draws: noise samples of each
    example in a batch. `readout_noise_m` blurs the grounding readout, as new scenes will.
    """

    steps: int = 4000
    batch: int = 32
    draws: int = 4
    copies: int = 2
    learning_rate: float = 2e-3
    warm_up_share: float = 0.05
    betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: float = 1e-5
    ema: float = 0.998
    readout_noise_m: float = 0.003
    held_out_every: int = 12
    report_every: int = 250
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class HeadData:
    """Cached inputs and targets, one row a frame and copy.

    hidden (N, L, C) float16; readout (N, 10); frame (N,) maps rows to frames; prompt (M,),
    normalised state (M, 11) and actions (M, horizon, 7), one a frame; held_out (M,) marks frames of
    held-out episodes.
    """

    hidden: np.ndarray
    readout: Tensor
    frame: Tensor
    prompt: Tensor
    state: Tensor
    actions: Tensor
    held_out: Tensor
    action_range: Normalisation


@dataclass(frozen=True)
class Demonstrations:
    """What `training.demonstrations` wrote: images stay in their file, rows are in memory."""

    images: np.ndarray
    rows: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: Path) -> Demonstrations:
        with np.load(folder / "rows.npz") as rows:
            return cls(np.load(folder / "images.npy", mmap_mode="r"), dict(rows))


def head_data(
    demonstrations: Demonstrations, hidden: np.ndarray, readout: Tensor, config: HeadTraining
) -> HeadData:
    """Training data from cached hidden states (copies * frames, L, C) and readouts likewise."""
    rows = demonstrations.rows
    frames = len(rows["state"])
    actions = rows["actions"].astype(np.float64)
    action_range = Normalisation.fit(actions.reshape(-1, actions.shape[-1]))
    return HeadData(
        hidden=hidden,
        readout=readout,
        frame=torch.arange(len(hidden)) % frames,
        prompt=torch.from_numpy(rows["prompt"]),
        state=torch.from_numpy(STATE_RANGE.normalise(rows["state"]).astype(np.float32)),
        actions=torch.from_numpy(action_range.normalise(actions).astype(np.float32)),
        held_out=torch.from_numpy(rows["episode"] % config.held_out_every == 0),
        action_range=action_range,
    )


@torch.no_grad()
def readouts(backbone: GroundedBackbone, hidden: np.ndarray, state: Tensor) -> Tensor:
    """The frozen readout (N, 10) of cached hidden states; state (M, 11) repeats a copy."""
    backbone.eval()
    found = []
    for start in range(0, len(hidden), 256):
        rows = np.arange(start, min(start + 256, len(hidden)))
        part = features.rows_of(hidden, rows)
        found.append(backbone.readout(part, state[rows % len(state)])[0])
    return torch.cat(found)


def readout_error(readout: Tensor, rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Median error [mm] in the plane of the clean readout on the demonstrations' frames."""
    position = torch.from_numpy(rows["state"][:, :3])
    relative = relative_truth(position, torch.from_numpy(rows["truth"]))
    error = (readout[: len(relative), :6] - relative).view(-1, 2, 3)[..., :2].norm(dim=-1) * 1e3
    return {"object_mm": float(error[:, 0].median()), "target_mm": float(error[:, 1].median())}


def truth_data(demonstrations: Demonstrations, config: HeadTraining, width: int) -> HeadData:
    """The ladder's ceiling: the simulator's truth in the readout's place, and nothing to see."""
    rows = demonstrations.rows
    truth, position = torch.from_numpy(rows["truth"]), torch.from_numpy(rows["state"][:, :3])
    readout = torch.cat([relative_truth(position, truth), truth[:, 6:10]], dim=1)
    assert readout.shape[1] == READOUT_DIMENSION
    blind = np.zeros((len(truth), 1, width), np.float16)
    return head_data(demonstrations, blind, readout.float(), config)


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
    slow, fast = list(average.parameters()), list(head.parameters())
    curve: list[dict[str, float]] = []
    losses: list[float] = []
    progress = tqdm(range(1, config.steps + 1), desc="head", mininterval=5)
    for step in progress:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * schedule(step / config.steps, config.warm_up_share)
        picked = rows[torch.randint(len(rows), (config.batch,))]
        with mixed_precision():
            loss = _loss(head, data, mask, picked, config, noisy=True)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(slow, fast, 1 - min(config.ema, step / (step + 10)))
        losses.append(loss.item())
        if step % config.report_every == 0 or step == config.steps:
            curve.append(_report(average, data, mask, held_out, config, step, losses))
            progress.set_postfix(curve[-1], refresh=False)
    head.load_state_dict(average.state_dict())
    return curve


def schedule(share: float, warm_up_share: float) -> float:
    """Factor on the learning rate at `share` 0..1 of the training: warm-up, then cosine to 1 %."""
    warm = min(1.0, share / warm_up_share) if warm_up_share else 1.0
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def _report(
    head: ActionHead,
    data: HeadData,
    mask: Tensor,
    held_out: Tensor,
    config: HeadTraining,
    step: int,
    losses: list[float],
) -> dict[str, float]:
    state = torch.random.get_rng_state()
    torch.manual_seed(1234)
    picked = held_out[torch.randperm(len(held_out))[:512]]
    with torch.no_grad(), mixed_precision():
        loss = float(_loss(head, data, mask, picked, config, noisy=False))
        error = action_error_mm(head, data, mask, picked)
    torch.random.set_rng_state(state)
    return {
        "step": step,
        "train": float(np.mean(losses[-config.report_every :])),
        "held_out": loss,
        "action_mm": error,
    }


@torch.no_grad()
def action_error_mm(head: ActionHead, data: HeadData, mask: Tensor, rows: Tensor) -> float:
    """Median distance [mm] of sampled waypoints from the demonstrated ones, executed steps only."""
    frame = data.frame[rows]
    noise = torch.randn(len(rows), *data.actions.shape[1:])
    hidden = features.rows_of(data.hidden, rows.numpy())
    visible = mask[data.prompt[frame]].bool()
    sampled = head.sample(noise, hidden, visible, data.state[frame], data.readout[rows], 4)
    scale = np.subtract(data.action_range.high, data.action_range.low)[:3] / 2
    difference = (sampled - data.actions[frame])[:, :EXECUTED, :3] * torch.from_numpy(scale)
    return float(difference.norm(dim=-1).median() * 1e3)


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
        features.rows_of(data.hidden, rows.numpy()),
        mask[data.prompt[frame]].bool(),
        state,
        readout,
        config.draws,
    )


def save(
    head: ActionHead, action_range: Normalisation, record: dict[str, object], out: Path
) -> None:
    """Write head.pt and its record head.json, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "config": asdict(head.config),
        "weights": head.state_dict(),
        "action_low": list(action_range.low),
        "action_high": list(action_range.high),
    }
    torch.save(content, out / "head.pt.new")
    (out / "head.pt.new").replace(out / "head.pt")
    (out / "head.json.new").write_text(json.dumps(record, indent=1) + "\n")
    (out / "head.json.new").replace(out / "head.json")


def train_on_cache(
    backbone: GroundedBackbone,
    demonstrations: Demonstrations,
    hidden: np.ndarray,
    config: HeadTraining,
    out: Path,
    dropout: float = HeadConfig.dropout,
) -> list[dict[str, float]]:
    """A new head on cached hidden states, saved to `out`; returns its curve."""
    rows = demonstrations.rows
    state = torch.from_numpy(STATE_RANGE.normalise(rows["state"]).astype(np.float32))
    readout = readouts(backbone, hidden, state)
    data = head_data(demonstrations, hidden, readout, config)
    torch.manual_seed(config.seed)
    sizes = HeadConfig(
        hidden=backbone.config.hidden, image_tail=backbone.readout.span, dropout=dropout
    )
    head = ActionHead(sizes)
    curve = train(head.train(), data, backbone.prompts.mask, config)
    record = {
        "head": asdict(config),
        "sizes": asdict(head.config),
        "frames": len(state),
        "seed": int(rows["seed"]),
        "episodes": int(rows["episode"].max()) + 1,
        "readout": readout_error(readout, rows),
        "curve": curve,
    }
    save(head, data.action_range, record, out)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the action head on demonstrations.")
    parser.add_argument("--backbone", type=Path, required=True, help="folder of the backbone")
    parser.add_argument("--demonstrations", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=HeadTraining.steps)
    parser.add_argument("--threads", type=int, default=HeadTraining.threads)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = replace(
        HeadTraining(), steps=arguments.steps, threads=arguments.threads, seed=arguments.seed
    )
    torch.set_num_threads(config.threads)
    backbone = load(arguments.backbone / "backbone.pt")
    demonstrations = Demonstrations.load(arguments.demonstrations)
    hidden = features.cache(
        backbone,
        demonstrations.images,
        torch.from_numpy(demonstrations.rows["prompt"]),
        arguments.out / "features.npy",
        copies=config.copies,
        seed=config.seed,
    )
    curve = train_on_cache(backbone, demonstrations, hidden, config, arguments.out)
    print(json.dumps(curve[-1]))


if __name__ == "__main__":
    main()
