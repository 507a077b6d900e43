"""Speed and memory of training, both sides of each ratio measured in this run.

    python -m training.bench --json

The last line is one JSON object:

- cached_features_speedup: samples a second of head training on cached features over the same with
  the backbone run for every batch (GR00T's batch 32, one noise draw; backbone and head of the
  evening study);
- fast_speedup: FAST encoding and decoding in batches over a plain implementation a chunk at a time;
- loader_wait_share: share of SFT's time that the trainer waits for data;
- peak_gb: largest resident memory of any stage of a lab study that runs here at its real batches.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from scipy.fft import dct, idct
from tokenizers import Tokenizer, decoders
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from contracts.bundle import ACTION_DIMENSION, STATE_DIMENSION
from contracts.geometry import Vector
from training import features
from training.action_head import ActionHead, HeadConfig
from training.backbones import LabBackboneConfig, mixed_precision
from training.fast_tokenizer import FIRST_LETTER, OVERSHOOT, FastTokenizer
from training.grounding import GroundedBackbone
from training.head import HeadTraining
from training.lab_sizes import SIZES
from training.readout import READOUT_DIMENSION

BATCH = 32
POOL = 256
"""Distinct frames that batches are drawn from."""
CHUNKS = 4000


def rate(work: Callable[[], None], seconds: float) -> float:
    """Calls a second, after one that warms up."""
    work()
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        work()
        count += 1
    return count / elapsed


def alternately(
    sides: Sequence[Callable[[], None]], seconds: float, rounds: int = 3
) -> list[float]:
    """Median rate of each side; they take turns, so that a busy neighbour troubles both."""
    found = [[rate(side, seconds) for side in sides] for _ in range(rounds)]
    return [float(np.median(column)) for column in zip(*found, strict=True)]


def cached_features_speedup(seconds: float) -> float:
    """One training step of the head, features from the file or from the backbone."""
    generator = torch.Generator().manual_seed(0)
    backbone = GroundedBackbone(LabBackboneConfig()).eval()
    size = backbone.config.image_size
    shape = (POOL, 2, size, size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    prompt = torch.arange(POOL) % len(backbone.prompts.ids)
    state = torch.rand(POOL, STATE_DIMENSION, generator=generator) * 2 - 1
    actions = torch.rand(POOL, 16, ACTION_DIMENSION, generator=generator) * 2 - 1
    config = HeadConfig(
        hidden=backbone.config.hidden,
        image_tail=backbone.readout.span,
        dropout=SIZES["evening"].head_dropout,
    )
    head = ActionHead(config)
    optimiser = torch.optim.AdamW(head.parameters(), HeadTraining.learning_rate, fused=True)

    def step(rows: np.ndarray, hidden: Tensor, readout: Tensor) -> None:
        mask = backbone.prompts.mask[prompt[rows]].bool()
        with mixed_precision():
            loss = head.loss(actions[rows], hidden, mask, state[rows], readout, draws=1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        cache = features.cache(backbone, images.numpy(), prompt, path)
        cached_readout = torch.zeros(POOL, READOUT_DIMENSION)

        def cached() -> None:
            rows = rng.integers(0, POOL, BATCH)
            step(rows, features.rows_of(cache, rows), cached_readout[rows])

        def recomputed() -> None:
            rows = rng.integers(0, POOL, BATCH)
            with torch.no_grad(), mixed_precision():
                hidden = backbone.hidden(prompt[rows], images[rows]).float()
                readout, _ = backbone.readout(hidden, state[rows])
            step(rows, hidden, readout)

        fast, slow = alternately((cached, recomputed), seconds)
    return fast / slow


def smooth_chunks(count: int, seed: int = 0) -> Vector:
    """Chunks (count, 16, 7) like those of demonstrations: sums of a few slow waves."""
    rng = np.random.default_rng(seed)
    steps = np.linspace(0, 1, 16)[None, :, None]
    amplitude = rng.normal(0, 0.1, (count, 1, ACTION_DIMENSION))
    phase = rng.uniform(0, np.pi, (count, 1, ACTION_DIMENSION))
    return amplitude * np.sin(2 * steps + phase) + 0.3 * amplitude * steps


def fast_speedup(seconds: float) -> float:
    """Encoding and decoding CHUNKS chunks, in one batch or one by one."""
    chunks = smooth_chunks(CHUNKS)
    tokenizer = FastTokenizer.fit(chunks)
    tokens = tokenizer.encode(chunks)
    plain = PlainFast(tokenizer)
    assert [plain.encode(chunk) for chunk in chunks[:50]] == tokens[:50]
    assert np.allclose(plain.decode(tokens[0]), tokenizer.decode(tokens[:1])[0])

    def batched() -> None:
        tokenizer.decode(tokenizer.encode(chunks))

    def one_by_one() -> None:
        for chunk in chunks:
            plain.decode(plain.encode(chunk))

    ours, theirs = alternately((batched, one_by_one), seconds)
    return ours / theirs


class PlainFast:
    """The algorithm as published (Pertsch et al. 2025): a chunk at a time, BPE by transformers."""

    def __init__(self, tokenizer: FastTokenizer) -> None:
        self._ours = tokenizer
        bpe = Tokenizer.from_str(tokenizer.bpe.to_str())
        bpe.decoder = decoders.Fuse()
        self._bpe = PreTrainedTokenizerFast(
            tokenizer_object=bpe, clean_up_tokenization_spaces=False
        )

    def encode(self, chunk: Vector) -> list[int]:
        ours = self._ours
        normalised = np.clip(ours.action_range.normalise(chunk), -OVERSHOOT, OVERSHOOT)
        coefficients = np.around(ours.scale * dct(normalised, axis=0, norm="ortho"))
        clamped = np.clip(coefficients, ours.lowest, ours.highest) - ours.lowest
        text = "".join(chr(FIRST_LETTER + int(value)) for value in clamped.flatten())
        return self._bpe(text)["input_ids"]

    def decode(self, tokens: list[int]) -> Vector:
        ours = self._ours
        text = self._bpe.decode(tokens)
        values = np.array([ord(letter) - FIRST_LETTER + ours.lowest for letter in text])
        shaped = values.reshape(ours.horizon, ours.dimension) / ours.scale
        return ours.action_range.denormalise(idct(shaped, axis=0, norm="ortho"))


def study_figures(out: Path) -> tuple[float, float]:
    """Share of time that SFT waits for data, and largest memory [GB] of a stage, of a smoke study.

    Raises:
        subprocess.CalledProcessError: the study failed; its words are on the terminal.
    """
    command = [sys.executable, "-m", "training.lab", "--smoke", "--workers", "1", "--out", str(out)]
    subprocess.run(command, check=True)
    rows = [json.loads(line) for line in (out / "models/sft/curve.jsonl").read_text().splitlines()]
    stages = [json.loads(path.read_text()) for path in (out / "stages").glob("*.json")]
    wait = float(np.mean([row["wait_share"] for row in rows]))
    return wait, max(stage["peak_gb"] for stage in stages)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of training.")
    parser.add_argument("--json", action="store_true", help="only the last line")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each side and round")
    parser.add_argument("--study", type=Path, help="a smoke study's folder, run or to be run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(stderr=True, quiet=arguments.json)
    figures: dict[str, float] = {}
    for name, measure in (
        ("cached_features_speedup", cached_features_speedup),
        ("fast_speedup", fast_speedup),
    ):
        with console.status(name):
            figures[name] = round(measure(arguments.seconds), 2)
        console.print(f"{name}: {figures[name]}")
    with tempfile.TemporaryDirectory() as folder:
        wait, peak = study_figures(arguments.study or Path(folder) / "study")
    figures |= {"loader_wait_share": round(wait, 4), "peak_gb": peak}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
