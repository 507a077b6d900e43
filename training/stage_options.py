"""Command line of the two training stages: options to configs, folders to checkpoints and data.

The mixture with its readers is imported where it is used: the lab runs without them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from training import checkpoints, vocabulary
from training.checkpoints import Checkpoint, CheckpointError
from training.fast_tokenizer import FastTokenizer
from training.guards import NonFiniteError
from training.run_folder import RunError, Stopped
from training.samples import REASONING_SYSTEM, Sample, SampleError

if TYPE_CHECKING:
    from training.mixture import Mixture

STOPPED: Final = 143
"""Exit code after SIGTERM, as of a process that it ends."""
FIT_CHUNKS: Final = 20_000
"""Chunks that a FAST tokenizer is fitted to."""

Config = TypeVar("Config")


def stage_parser(description: str, options: Sequence[tuple[str, type]]) -> argparse.ArgumentParser:
    """Parser with what both stages have; `options` overwrite the config's fields."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--checkpoint", type=Path, help="folder of the model to start from")
    parser.add_argument("--data", type=Path, help="folder of the data mixture (training.mixture)")
    parser.add_argument("--rows", nargs="+", help="rows of the mixture; all without it")
    parser.add_argument(
        "--fast", type=Path, help="FAST tokenizer for a model without one; fitted if not there"
    )
    parser.add_argument("--out", type=Path, help="folder of the run")
    parser.add_argument("--lab", action="store_true", help="settings of the lab size")
    parser.add_argument("--plan", action="store_true", help="print the memory plan and end")
    for name, kind in options:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=kind)
    return parser


def configured(make: Callable[..., Config], arguments: argparse.Namespace, kind: type) -> Config:
    """The preset with the fields that the command line gives."""
    names = {field.name for field in fields(kind)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return make(**{name: value for name, value in given.items() if value is not None})


def required(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    others: Sequence[str] = ("out",),
) -> None:
    """Ends the program where a run lacks one of its folders."""
    names = ("checkpoint", "data", *others)
    missing = [name for name in names if getattr(arguments, name) is None]
    if missing:
        parser.error(f"a run needs {', '.join('--' + name for name in missing)}")


@contextmanager
def reported() -> Iterator[None]:
    """Errors that a person can act on end the program with their text."""
    try:
        yield
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(STOPPED) from stopped
    except (RunError, CheckpointError, SampleError, NonFiniteError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


def opened(arguments: argparse.Namespace) -> Checkpoint:
    """The checkpoint, with action tokens: those of `--fast` where it has none yet.

    Raises:
        CheckpointError: no action tokens, and no `--fast` to make them from.
    """
    # DeepSpeed keeps its own master weights in float32; elsewhere these are the master weights.
    sharded = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    checkpoint = checkpoints.load(
        arguments.checkpoint, torch.bfloat16 if sharded else torch.float32
    )
    if checkpoint.fast is not None:
        return checkpoint
    if arguments.fast is None:
        raise CheckpointError(
            f"{arguments.checkpoint}: the model has no action tokens; give --fast FILE"
        )
    if not arguments.fast.exists():
        fit(arguments.data, arguments.fast)
    checkpoint.fast = FastTokenizer.load(arguments.fast)
    vocabulary.extend(checkpoint.tokenizer, checkpoint.model, checkpoint.fast.vocabulary)
    checkpoint.folder = None  # its weights are no longer the folder's
    return checkpoint


def fit(data: Path, out: Path) -> None:
    """Fit a FAST tokenizer to chunks of the mixture's `bridge_fast`, those that can be read.

    Raises:
        SampleError: none can.
    """
    from training.mixture import paper_rows

    (row,) = paper_rows(data, ["bridge_fast"])
    picked = np.random.default_rng(0).permutation(len(row.samples))[:FIT_CHUNKS]
    chunks, bad = [], []
    for index in tqdm(np.sort(picked).tolist(), desc="FAST chunks", mininterval=5):
        try:
            chunks.append(row.samples[index].chunk)
        except SampleError as error:
            bad.append(str(error))
    if bad:
        print(f"{len(bad)} of {len(picked)} chunks are left out, the first: {bad[0]}")
    if not chunks:
        raise SampleError(f"{data}: no chunk to fit a FAST tokenizer to")
    FastTokenizer.fit(np.stack(chunks)).save(out)


def mixture_parts(
    arguments: argparse.Namespace, fast: FastTokenizer, workers: int, seed: int, epochs: float
) -> list[Callable[[], Mixture]]:
    """The mixture in one part for each loader worker of each device."""
    from training.mixture import Mixture, paper_rows, with_fast_answers

    rows = paper_rows(arguments.data, arguments.rows)
    count = max(1, workers) * int(os.environ.get("WORLD_SIZE", "1"))

    def part(number: int) -> Callable[[], Mixture]:
        return lambda: Mixture(
            rows, seed, epochs=max(1, round(epochs)), worker=number, workers=count,
            finish=lambda sample: with_fast_answers(sample, fast),
        )  # fmt: skip

    return [part(number) for number in range(count)]


class Prompts:
    """Some samples of a row, as Stage 2 asks for them: with the reasoning system message."""

    def __init__(self, samples: Any, rows: Sequence[int], fast: FastTokenizer) -> None:
        self._samples, self._rows, self._fast = samples, list(rows), fast

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        from training.mixture import with_fast_answers

        sample = with_fast_answers(self._samples[self._rows[index]], self._fast)
        return replace(sample, system=REASONING_SYSTEM)


def prompts(
    arguments: argparse.Namespace, fast: FastTokenizer, seed: int, count: int, held_out: int
) -> tuple[Prompts, Prompts]:
    """Random samples of the first of `--rows` for training and for validation.

    Each is read once, so that the run does not meet one that cannot be used; those are counted.

    Raises:
        SampleError: too few can be used.
    """
    from training.mixture import paper_rows, with_fast_answers

    (row,) = paper_rows(arguments.data, (arguments.rows or ["bridge_fast"])[:1])
    order = np.random.default_rng(seed).permutation(len(row.samples))[: count + held_out].tolist()
    good, bad = [], []
    for index in tqdm(order, desc="prompts", mininterval=5):
        try:
            with_fast_answers(row.samples[index], fast)
            good.append(index)
        except SampleError as error:
            bad.append(str(error))
    if bad:
        print(f"{len(bad)} of {len(order)} samples are left out, the first: {bad[0]}")
    if len(good) <= held_out:
        raise SampleError(f"{row.name}: {len(good)} samples can be used, {held_out} are held out")
    return Prompts(row.samples, good[held_out:], fast), Prompts(row.samples, good[:held_out], fast)
