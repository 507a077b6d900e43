"""Stage 1: supervised fine-tuning with TRL's SFTTrainer (paper, section 4.1).

    accelerate launch --use_deepspeed --zero_stage 3 --mixed_precision bf16 --num_processes 8 \\
        -m training.sft --checkpoint Qwen2.5-VL-7B-Instruct --fast fast.json --data data --out run
    python -m training.sft --plan

The loss is on the answers only. The vision tower is frozen, as in the paper; at lab size it is
trained, since nothing pretrained exists. Language-only and action-only SFT, which the paper
compares with, are this stage on other data: samples without, or with nothing but, FAST answers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from datasets.iterable_dataset import ExamplesIterable
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from training import checkpoints
from training.checkpoints import Checkpoint
from training.collation import (
    LAB_STYLE,
    Collator,
    LengthGroups,
    PromptStyle,
    stream_grouped,
)
from training.guards import MemoryWatch
from training.memory_plan import Load, printed
from training.rehearsal import Rehearsal, RehearsalConfig
from training.run_folder import Budget, RunCallback, RunFolder, Stopped, stop_signal
from training.run_trainer import MAX_STEPS, RunTrainer, finish, resume, watch
from training.samples import Sample
from training.stage_options import (
    configured,
    mixture_parts,
    opened,
    reported,
    required,
    stage_parser,
)

__all__ = ["Rehearsal", "RehearsalConfig", "SftConfig", "lab_config", "train"]

log = logging.getLogger(__name__)


OPTIONS = (
    ("learning_rate", float), ("epochs", float), ("minutes", float), ("max_steps", int),
    ("batch", int), ("accumulation", int), ("lora_rank", int), ("workers", int), ("seed", int),
)  # fmt: skip
"""Fields of SftConfig that the command line sets."""


@dataclass(frozen=True)
class Parts:
    """A stream in several independent parts, one for each loader worker of each device.

    Each is opened anew by whoever reads it.
    """

    parts: Sequence[Callable[[], Iterable[Sample]]]


@dataclass(frozen=True)
class SftConfig:
    """Stage 1; the defaults are the paper's (section 5.1) for 7B and 8B on 8 GPUs."""

    learning_rate: float = 2e-5
    warm_up: float = 0.03
    """Share of the run."""
    epochs: float = 1.0
    max_steps: int | None = None
    """Ends the run before its epochs; needed for samples without a length."""
    minutes: float | None = None
    """Wall time instead of epochs; the cosine follows it."""
    batch: int = 4
    """Samples a device and step."""
    accumulation: int = 4
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    gradient_norm: float = 1.0
    max_length: int = 4096
    style: PromptStyle = field(default_factory=PromptStyle)
    train_vision: bool = False
    lora_rank: int | None = None
    group_by_length: bool = True
    augmented: bool = False
    """Light, colour and noise of the pictures vary (`grounding.augment`)."""
    gradient_checkpointing: bool = True
    workers: int = 4
    save_minutes: float = 30.0
    report_steps: int = 10
    memory_gb: float | None = None
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes is not None and self.max_steps is not None:
            raise ValueError("give minutes or max_steps, not both")
        if self.lora_rank is not None and self.train_vision:
            raise ValueError("LoRA trains the language model's adapters: train_vision must be off")


def lab_config(**changes: Any) -> SftConfig:
    """Stage 1 at lab size: one thread, the vision tower trained, no accumulation."""
    preset: dict[str, Any] = {
        "learning_rate": 1e-3,
        "batch": 16,
        "accumulation": 1,
        "weight_decay": 0.01,
        "adam_beta2": 0.95,
        "max_length": 512,
        "style": LAB_STYLE,
        "train_vision": True,
        "group_by_length": False,
        "augmented": True,
        "gradient_checkpointing": False,
        "workers": 0,
        "save_minutes": 10.0,
        "memory_gb": 6.0,
        "threads": 1,
    }
    return SftConfig(**(preset | changes))


class _Trainer(RunTrainer, SFTTrainer):
    """SFTTrainer with our schedule, curve, rehearsal, checkpoints and grouping by length."""

    grouped = False

    def _get_train_sampler(self, train_dataset=None):
        if not self.grouped:
            return super()._get_train_sampler(train_dataset)
        return LengthGroups(
            self.data_collator, len(self.train_dataset), _group(self.args), self.args.seed
        )


def _group(arguments: TrlConfig) -> int:
    """Samples of like length: those of one update on all devices."""
    return (
        arguments.per_device_train_batch_size
        * arguments.gradient_accumulation_steps
        * arguments.world_size
    )


def train(
    checkpoint: Checkpoint | Path,
    samples: Sequence[Sample] | Iterable[Sample] | Parts,
    config: SftConfig,
    out: Path,
    rehearsal: Rehearsal | None = None,
) -> list[dict[str, Any]]:
    """Train, write `out`/checkpoint and return the curve; an interrupted run is resumed.

    `samples` with a length and an index are shuffled (and grouped by length); others are taken in
    their own order. `rehearsal` belongs to the same `checkpoint` object, whose model is trained in
    place. A complete run is not run again.

    Raises:
        RunError: `out` belongs to a run with another config.
        Stopped: SIGTERM or the memory limit ended the run; its state is saved.
        CheckpointError: a checkpoint could not be written; the last good one is there.
        NonFiniteError: losses that are not finite, again and again.
    """
    run = RunFolder(out, config)
    if run.complete:
        return run.curve()
    checkpoint = _opened(checkpoint)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = checkpoint.model
    model.model.visual.requires_grad_(config.train_vision)
    budget = Budget(config.minutes, config.max_steps or MAX_STEPS)
    resumable = run.resumable()
    resume(run, resumable, budget, rehearsal)
    with stop_signal() as stop:
        memory = MemoryWatch(config.memory_gb)
        callbacks = [RunCallback(budget, stop, config.save_minutes, "SFT"), memory]
        trainer = _make(checkpoint, samples, config, run, rehearsal, callbacks)
        trainer.begin(run, checkpoint, budget, (config.warm_up, "cosine"), _row_of(trainer, config))
        trainer.train(resume_from_checkpoint=str(resumable) if resumable else None)
        if stop.is_set() or memory.exceeded:
            step = trainer.state.global_step
            raise Stopped(f"{out}: stopped at step {step}; run it again to go on")
    finish(trainer)
    return run.curve()


def _opened(checkpoint: Checkpoint | Path) -> Checkpoint:
    return checkpoint if isinstance(checkpoint, Checkpoint) else checkpoints.load(checkpoint)


def _make(
    checkpoint: Checkpoint,
    samples: Sequence[Sample] | Iterable[Sample] | Parts,
    config: SftConfig,
    run: RunFolder,
    rehearsal: Rehearsal | None,
    callbacks: list,
) -> _Trainer:
    indexed = hasattr(samples, "__getitem__") and hasattr(samples, "__len__")
    collator = Collator(
        checkpoint.processor,
        config.style,
        config.max_length,
        samples if indexed else None,
        config.augmented,
    )
    arguments = _arguments(config, run, indexed)
    trainer = _Trainer(
        model=checkpoint.model,
        args=arguments,
        data_collator=collator,
        train_dataset=_rows(samples if indexed else [None]),
        processing_class=checkpoint.processor,
        callbacks=callbacks,
        peft_config=_lora(config, checkpoint.model.config.tie_word_embeddings),
    )
    if not indexed:  # TRL looks at a first sample, which a stream would lose
        trainer.train_dataset = _stream(samples, collator, arguments, config)
    trainer.grouped = config.group_by_length and indexed
    collator.remember = trainer.grouped and config.workers == 0
    watch(trainer, rehearsal)
    return trainer


def _arguments(config: SftConfig, run: RunFolder, indexed: bool) -> TrlConfig:
    gpu = torch.cuda.is_available()
    steps = config.max_steps or (MAX_STEPS if config.minutes is not None else -1)
    if not indexed and steps == -1:
        raise ValueError("samples without a length need minutes or max_steps")
    return TrlConfig(
        output_dir=str(run.path),
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=steps,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulation,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.gradient_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=gpu,
        use_cpu=not gpu,
        max_length=None,
        packing=False,
        accelerator_config={"dispatch_batches": None if indexed else False},
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=config.workers,
        dataloader_drop_last=True,
        dataloader_persistent_workers=config.workers > 0,
        save_strategy="no",
        logging_steps=config.report_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
    )


def _rows(samples: Sequence[Any]) -> Dataset:
    """Rows that the collator looks up, so that pictures stay where they are."""
    return Dataset.from_dict({"row": list(range(len(samples)))})


def _stream(
    samples: Iterable[Sample], collator: Collator, arguments: TrlConfig, config: SftConfig
) -> IterableDataset:
    """A stream in as many parts as it has: loader workers and devices share them out."""
    parts = samples.parts if isinstance(samples, Parts) else [lambda: samples]

    def features(part: list[int]) -> Iterator[tuple[int, dict[str, Sample]]]:
        for number in part:
            ordered = parts[number]()
            if config.group_by_length:
                group = _group(arguments)
                ordered = stream_grouped(ordered, collator, group, config.seed + number)
            yield from ((i, {"sample": sample}) for i, sample in enumerate(ordered))

    # `IterableDataset.from_generator` would pickle all samples to make a fingerprint.
    return IterableDataset(ExamplesIterable(features, {"part": list(range(len(parts)))}))


def _lora(config: SftConfig, tied: bool) -> Any:
    """`tied`: the model's input and output embeddings are one matrix."""
    if config.lora_rank is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("lora_rank needs the package peft: pip install peft") from error
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        # New action tokens have to be learned whole, to be read and to be written.
        modules_to_save=["embed_tokens"] if tied else ["embed_tokens", "lm_head"],
        ensure_weight_tying=tied,
        task_type="CAUSAL_LM",
    )


def _row_of(trainer: _Trainer, config: SftConfig):
    per_step = config.batch * config.accumulation * trainer.args.world_size
    started: list[tuple[int, float]] = [(trainer.state.global_step, 0.0)]

    def row(logs: dict[str, Any]) -> dict[str, Any]:
        step, seconds = trainer.state.global_step, trainer.budget.elapsed
        last_step, last_seconds = started[0]
        started[0] = (step, seconds)
        return {
            "loss": logs["loss"],
            "token_accuracy": logs.get("mean_token_accuracy"),
            "gradient_norm": logs.get("grad_norm"),
            "learning_rate": logs.get("learning_rate"),
            "samples_per_second": (step - last_step) * per_step / max(seconds - last_seconds, 1e-9),
        }

    return row


def memory_loads(config: SftConfig, gpus: int = 8) -> list[tuple[str, Load]]:
    """What a step of this stage puts on a GPU."""
    load = Load(gpus=gpus, batch=config.batch, train_vision=config.train_vision)
    return [(f"SFT, {config.batch} a GPU", load)]


def main() -> None:
    parser = stage_parser("Stage 1: supervised fine-tuning.", OPTIONS)
    arguments = parser.parse_args()
    config = configured(lab_config if arguments.lab else SftConfig, arguments, SftConfig)
    if arguments.plan:
        print(printed(memory_loads(config), arguments.checkpoint))
        return
    required(parser, arguments)
    with reported():
        checkpoint = opened(arguments)
        parts = mixture_parts(
            arguments, checkpoint.fast, config.workers, config.seed, config.epochs
        )
        config = bounded(config, sum(len(part()) for part in parts))
        train(checkpoint, Parts(parts), config, arguments.out)


def bounded(config: SftConfig, samples: int) -> SftConfig:
    """A stream has no length: the steps of its epochs, where the config gives no other bound."""
    if config.minutes is not None or config.max_steps is not None:
        return config
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    steps = samples // (config.batch * config.accumulation * devices)
    return replace(config, max_steps=max(1, steps))


if __name__ == "__main__":
    main()
