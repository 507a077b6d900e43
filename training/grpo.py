"""Stage 2: GRPO with TRL's GRPOTrainer (paper, section 4.2, Eq. 1).

    accelerate launch --use_deepspeed --zero_stage 3 --mixed_precision bf16 --num_processes 8 \\
        -m training.grpo --checkpoint runs/sft/checkpoint --data data --out runs/rl --vllm
    python -m training.grpo --plan

The paper trains with EasyR1. Its numbers, and what they are here and in TRL:

| paper, EasyR1                              | here                  | TRL's `GRPOConfig`        |
|--------------------------------------------|-----------------------|---------------------------|
| 5 samples a prompt (`rollout.n`)           | group                 | num_generations           |
| rollout batch 512 prompts (x 5 responses)  | rollout_prompts       | steps_per_generation [a]  |
| update batch 128 prompts (x 5 responses)   | update_prompts        | gradient_accumulation [a] |
| each response used once (`ppo_epochs` 1)   |                       | num_iterations = 1        |
| lr 1e-6, constant, no warm-up              | learning_rate         | learning_rate [b]         |
| clip 0.2 and 0.3 (`clip_ratio_low`/`high`) | epsilon, epsilon_high | epsilon, epsilon_high     |
| dual clip 3 (`clip_ratio_dual`)            | dual_clip             | delta                     |
| KL as a loss, low variance, 1e-2           | beta                  | beta [c]                  |
| advantage (r - mean) / std of the group    | scale_rewards         | scale_rewards = "group"   |
| Eq. 1: mean of each response, then of all  | loss_type             | loss_type = "grpo" [d]    |
| temperature 1, top-p 1                     | temperature, top_p    | temperature, top_p        |
| response up to 2048 tokens                 | new_tokens            | max_completion_length     |
| AdamW, weight decay 1e-2, gradient norm 1  | weight_decay, ...     | weight_decay, ...         |
| 1 epoch of 12.8 K prompts (8B: 5 K)        | epochs                | num_train_epochs          |

[a] In forward passes of `batch` responses on each GPU: 512 x 5 / (batch x GPUs) passes a rollout,
128 x 5 / (batch x GPUs) an update, so 4 updates a rollout. [b] The schedule is `run_folder`'s.
[c] TRL's KL is the low-variance one. [d] EasyR1's own default averages over all tokens of a batch
("token"); the paper's Eq. 1 averages within each response first, and so do we.
All parameters are trained, the vision tower too.

With one update a rollout, as at lab size, old and new policy are the same and nothing is clipped.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig as TrlConfig
from trl import GRPOTrainer

from training import checkpoints, responses
from training.alternatives import Scorer, scorer
from training.checkpoints import Checkpoint
from training.collation import LAB_STYLE, PromptStyle
from training.guards import MemoryWatch, RolloutWatch, WatchLimits
from training.memory_plan import Load, printed
from training.rehearsal import Rehearsal
from training.responses import Asking, Judge, Kept, Validation
from training.run_folder import Budget, RunCallback, RunFolder, Stopped, stop_signal
from training.run_trainer import MAX_STEPS, RunTrainer, finish, resume, watch
from training.samples import Sample
from training.stage_options import configured, opened, prompts, reported, required, stage_parser

log = logging.getLogger(__name__)

RESPONSES, VALIDATION = "responses.jsonl", "validation.json"
"""Sampled responses with their rewards (Figure 7); greedy ones before and after."""
PROMPT_TOKENS = 2048
"""EasyR1's longest prompt; what the memory plan counts with."""
ROLLOUT_WIDTH = 64
"""Responses that an engine works on at once, in the memory plan."""
OPTIONS = (
    ("reward", str), ("group", int), ("rollout_prompts", int), ("update_prompts", int),
    ("batch", int), ("learning_rate", float), ("epochs", float), ("minutes", float),
    ("max_steps", int), ("beta", float), ("new_tokens", int), ("seed", int),
)  # fmt: skip
"""Fields of GrpoConfig that the command line sets."""


@dataclass(frozen=True)
class GrpoConfig:
    """Stage 2; the defaults are the paper's and EasyR1's (see the module's table)."""

    reward: str = "fast"
    """Name of a reward in `alternatives.SCORERS`."""
    group: int = 5
    rollout_prompts: int = 512
    update_prompts: int = 128
    batch: int = 4
    """Responses a device and forward pass."""
    learning_rate: float = 1e-6
    epochs: float = 1.0
    max_steps: int | None = None
    minutes: float | None = None
    """Wall time instead of epochs."""
    epsilon: float = 0.2
    epsilon_high: float = 0.3
    dual_clip: float | None = 3.0
    beta: float = 1e-2
    temperature: float = 1.0
    top_p: float = 1.0
    new_tokens: int = 2048
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    loss_type: str = "grpo"
    scale_rewards: str = "group"
    style: PromptStyle = field(default_factory=PromptStyle)
    train_vision: bool = True
    vllm: bool = False
    """Rollouts by vLLM on the training GPUs (colocated)."""
    gradient_checkpointing: bool = True
    save_minutes: float = 30.0
    report_steps: int = 1
    keep_every: int = 5
    """Steps between kept responses."""
    validation_batch: int = 32
    watch: WatchLimits = field(default_factory=WatchLimits)
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        scorer(self.reward)
        if self.minutes is not None and self.max_steps is not None:
            raise ValueError("give minutes or max_steps, not both")
        if self.rollout_prompts % self.update_prompts:
            raise ValueError(
                f"a rollout of {self.rollout_prompts} prompts is not a whole number of updates of "
                f"{self.update_prompts}"
            )


def lab_config(**changes: Any) -> GrpoConfig:
    """Stage 2 at lab size: 4 prompts x 5 responses a step, one update a rollout."""
    preset: dict[str, Any] = {
        "rollout_prompts": 4,
        "update_prompts": 4,
        "batch": 20,
        "learning_rate": 2e-5,
        "new_tokens": 64,
        "style": LAB_STYLE,
        "gradient_checkpointing": False,
        "save_minutes": 10.0,
        "watch": WatchLimits(memory_gb=6.0),
        "threads": 1,
    }
    return GrpoConfig(**(preset | changes))


class _Trainer(RunTrainer, GRPOTrainer):
    """GRPOTrainer over rows of our samples; its prompts are the collator's."""

    samples: Sequence[Sample]
    style: PromptStyle

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        filled = []
        for row in inputs:
            sample = self.samples[row["row"]]
            filled.append(
                {
                    "row": row["row"],
                    "prompt": self.style.messages(sample),
                    "images": list(sample.pictures),
                }
            )
        return super()._generate_and_score_completions(filled)


def train(
    checkpoint: Checkpoint | Path,
    samples: Sequence[Sample],
    config: GrpoConfig,
    out: Path,
    reward: Scorer | None = None,
    held_out: Sequence[Sample] = (),
    rehearsal: Rehearsal | None = None,
) -> list[dict[str, Any]]:
    """Train, write `out`/checkpoint and return the curve; an interrupted run is resumed.

    `reward` takes the place of the one that `config.reward` names. `held_out` is answered greedily
    before and after (`out`/validation.json). The model is trained in place.

    Raises what `sft.train` raises.
    """
    run = RunFolder(out, config)
    if run.complete:
        return run.curve()
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else checkpoints.load(checkpoint)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    score = reward or scorer(config.reward)
    _validate(run, "before", checkpoint, held_out, score, config)
    checkpoint.model.model.visual.requires_grad_(config.train_vision)
    budget = Budget(config.minutes, config.max_steps or MAX_STEPS)
    resumable = run.resumable()
    resume(run, resumable, budget, rehearsal)
    with stop_signal() as stop:
        memory = MemoryWatch(config.watch.memory_gb)
        callbacks = [RunCallback(budget, stop, config.save_minutes, "GRPO"), memory]
        kept = Kept(run.path / RESPONSES, config.keep_every, config.group)
        judge = Judge(checkpoint.tokenizer, samples, score, kept)
        trainer = _make(checkpoint, samples, config, run, judge, callbacks)
        watch(trainer, rehearsal)
        trainer.begin(run, checkpoint, budget, (0.0, "constant"), _row_of(config))
        trainer.train(resume_from_checkpoint=str(resumable) if resumable else None)
        if stop.is_set() or memory.exceeded:
            step = trainer.state.global_step
            raise Stopped(f"{out}: stopped at step {step}; run it again to go on")
    checkpoint.model.eval()
    _validate(run, "after", checkpoint, held_out, score, config)
    finish(trainer)
    return run.curve()


def _make(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    config: GrpoConfig,
    run: RunFolder,
    judge: Judge,
    callbacks: list,
) -> _Trainer:
    if config.beta > 0:
        # TRL loads the reference policy by the model's name.
        checkpoint.model.config._name_or_path = str(_reference(checkpoint, run))
    trainer = _Trainer(
        model=checkpoint.model,
        reward_funcs=[judge],
        args=_arguments(config, run),
        train_dataset=Dataset.from_dict(
            {"row": list(range(len(samples))), "prompt": [""] * len(samples)}
        ),
        processing_class=checkpoint.processor,
        callbacks=callbacks,
    )
    trainer.samples, trainer.style = samples, config.style
    return trainer


def _reference(checkpoint: Checkpoint, run: RunFolder) -> Path:
    """Folder of the weights before Stage 2; written here for a checkpoint that has none."""
    if checkpoint.folder is not None:
        return checkpoint.folder
    folder = run.path / "reference"
    if not folder.exists():
        checkpoints.save(checkpoint, folder)
    return folder


def _arguments(config: GrpoConfig, run: RunFolder) -> TrlConfig:
    gpu = torch.cuda.is_available()
    if config.vllm and not gpu:
        raise ValueError("rollouts by vLLM need a GPU: set vllm to False")
    devices = int(torch.distributed.get_world_size()) if torch.distributed.is_initialized() else 1
    width = config.batch * devices
    update, rollout = config.update_prompts * config.group, config.rollout_prompts * config.group
    if update % width:
        raise ValueError(
            f"an update of {config.update_prompts} prompts x {config.group} responses does not "
            f"divide into forward passes of {config.batch} on {devices} devices"
        )
    return TrlConfig(
        output_dir=str(run.path),
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or (MAX_STEPS if config.minutes is not None else -1),
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=update // width,
        steps_per_generation=rollout // width,
        num_generations=config.group,
        num_iterations=1,
        max_completion_length=config.new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        beta=config.beta,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        delta=config.dual_clip,
        loss_type=config.loss_type,
        scale_rewards=config.scale_rewards,
        weight_decay=config.weight_decay,
        max_grad_norm=config.gradient_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        use_vllm=config.vllm,
        vllm_mode="colocate",
        bf16=gpu,
        use_cpu=not gpu,
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=config.report_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
    )


_CURVE = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "format": "format",
    "accuracy": "accuracy",
    "kl": "kl",
    "entropy": "entropy",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "clipped": "clip_ratio/region_mean",
    "zero_spread": "frac_reward_zero_std",
    "gradient_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "step_seconds": "step_time",
}
"""Curve row to TRL's name. `truncated` are responses that did not end, `clipped` policy ratios."""


def _row_of(config: GrpoConfig):
    rollouts = RolloutWatch(config.watch)

    def row(logs: dict[str, Any]) -> dict[str, Any]:
        found = {name: logs.get(source) for name, source in _CURVE.items()}
        if None not in (found["entropy"], found["length"], found["truncated"]):
            for text in rollouts.see(found["entropy"], found["length"], found["truncated"]):
                log.warning("%s", text)
        return found

    return row


def validate(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    config: GrpoConfig,
    score: Scorer | None = None,
) -> tuple[Validation, list[dict[str, Any]]]:
    """Answer greedily; returns the means and a record of each response."""
    asked = Asking(config.style, config.new_tokens, config.validation_batch)
    return responses.validate(checkpoint, samples, score or scorer(config.reward), asked)


def _validate(
    run: RunFolder,
    when: str,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    score: Scorer,
    config: GrpoConfig,
) -> None:
    file = run.path / VALIDATION
    done = json.loads(file.read_text()) if file.exists() else {}
    if not len(samples) or when in done:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        log.warning("not validated here, where the weights are sharded: use --validate")
        return
    means, records = validate(checkpoint, samples, config, score)
    done[when] = asdict(means)
    file.write_text(json.dumps(done, indent=1) + "\n")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (run.path / f"validation-{when}.jsonl").write_text(lines)
    log.info("validation %s: %s", when, means)


def memory_loads(config: GrpoConfig, gpus: int = 8) -> list[tuple[str, Load]]:
    """What an update and a rollout of this stage put on a GPU."""
    tokens = PROMPT_TOKENS + config.new_tokens
    responses = config.rollout_prompts * config.group // gpus
    update = Load(
        gpus=gpus, batch=config.batch, tokens=tokens, train_vision=config.train_vision,
        reference=config.beta > 0,
    )  # fmt: skip
    rollout = replace(update, responses=min(responses, ROLLOUT_WIDTH), rollout_engine=True)
    return [(f"GRPO update, {config.batch} a GPU", update), ("with colocated rollout", rollout)]


def main() -> None:
    parser = stage_parser("Stage 2: GRPO.", OPTIONS)
    parser.add_argument("--vllm", action="store_const", const=True, help="rollouts by vLLM")
    parser.add_argument("--prompts", type=int, default=12_800, help="samples (paper: 12.8 K)")
    parser.add_argument("--validate", action="store_true", help="validate --checkpoint and end")
    parser.add_argument("--held-out", type=int, default=200, help="samples for validation")
    arguments = parser.parse_args()
    config = configured(lab_config if arguments.lab else GrpoConfig, arguments, GrpoConfig)
    if arguments.plan:
        print(printed(memory_loads(config), arguments.checkpoint))
        return
    required(parser, arguments, () if arguments.validate else ("out",))
    with reported():
        checkpoint = opened(arguments)
        samples, held_out = prompts(
            arguments, checkpoint.fast, config.seed, arguments.prompts, arguments.held_out
        )
        if arguments.validate:
            means, _ = validate(checkpoint, held_out, config)
            print(json.dumps(asdict(means)))
            return
        train(checkpoint, samples, config, arguments.out, held_out=held_out)


if __name__ == "__main__":
    main()
