"""What the trainers of both stages share: schedule, curve, atomic checkpoints, skipped samples."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback

from training.checkpoints import PARTIAL, READOUT, Checkpoint, replacing, save, write_companions
from training.guards import NonFiniteGuard, resident_gb
from training.rehearsal import Rehearsal
from training.run_folder import BUDGET_STATE, STATE, Budget, RunFolder, rate_factor

log = logging.getLogger(__name__)

MAX_STEPS = 2**31 - 1
"""transformers' trainers want a number of steps; a run by wall time ends before this one."""


class RunTrainer:
    """Mixed into a TRL trainer, before it in the bases; `begin` is called before `train`."""

    run: RunFolder
    checkpoint: Checkpoint
    budget: Budget
    guard: NonFiniteGuard
    rehearsal: Rehearsal | None = None
    _rehearsed, _rehearsals = 0.0, 0
    _readout_joined = False

    def begin(
        self,
        run: RunFolder,
        checkpoint: Checkpoint,
        budget: Budget,
        schedule: tuple[float, str],
        row: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        """`schedule` is warm-up share and kind; `row` makes a curve row of the trainer's logs."""
        self.run, self.checkpoint, self.budget = run, checkpoint, budget
        self._warm_up, self._kind = schedule
        self._row = row
        self.skipped: list[str] = []
        self._waited = self._reported_wait = 0.0
        self._reported = time.monotonic()

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """The learning rate follows the budget, be it time or steps."""
        if self.lr_scheduler is None:
            if self.budget.seconds is None:
                self.budget.steps = num_training_steps
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: rate_factor(self.budget.share(step), self._warm_up, self._kind),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        started = time.monotonic()
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.monotonic() - started
        for batch in batches:
            for text in batch.pop("skipped", []) if isinstance(batch, dict) else []:
                log.warning("left out: %s", text)
                self.skipped.append(text)
        return batches, items

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.guard.see_loss(loss, sharded=self.is_deepspeed_enabled)
        return loss

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        if self.rehearsal is not None and not self._readout_joined:
            optimizer.add_param_group({"params": list(self.rehearsal.readout.parameters())})
            self._readout_joined = True
        return optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if self.rehearsal is None or return_outputs or not self.model.training:
            return loss
        rehearsed = self.rehearsal.loss()
        self._rehearsed += float(rehearsed.detach())
        self._rehearsals += 1
        return loss + rehearsed / self.current_gradient_accumulation_steps

    def rehearsed(self) -> float:
        """Mean rehearsal loss since the last call."""
        mean = self._rehearsed / max(1, self._rehearsals)
        self._rehearsed, self._rehearsals = 0.0, 0
        return mean

    def _clip_grad_norm(self, model):
        if self.rehearsal is not None:
            nn.utils.clip_grad_norm_(self.rehearsal.readout.parameters(), self.args.max_grad_norm)
        return super()._clip_grad_norm(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" not in logs or not self.is_world_process_zero():
            return
        now = time.monotonic()
        seconds = max(now - self._reported, 1e-9)
        row = {"step": self.state.global_step, "seconds": round(self.budget.elapsed, 1)}
        row |= self._row(logs)
        if self.rehearsal is not None:
            row["rehearsal"] = self.rehearsed()
            row["loss"] -= row["rehearsal"]
        row["wait_share"] = round((self._waited - self._reported_wait) / seconds, 4)
        row["memory_gb"] = round(resident_gb(), 2)
        row["rolled_back"] = self.guard.rolled_back
        row["skipped"] = len(self.skipped)
        self._reported, self._reported_wait = now, self._waited
        self.run.add_row(row)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights and what belongs to them, without transformers' pickled arguments."""
        if self.rehearsal is not None:
            self.rehearsal.store()
        folder = Path(output_dir or self.args.output_dir)
        self.model.save_pretrained(
            folder, state_dict=state_dict, is_main_process=self.args.should_save
        )
        if self.args.should_save:
            write_companions(self.checkpoint, folder)
            (folder / BUDGET_STATE).write_text(json.dumps({"seconds": self.budget.elapsed}))

    def _save_checkpoint(self, model, trial) -> None:
        """As transformers', but whole or not at all; older checkpoints go after it is there."""
        target = self.run.path / f"checkpoint-{self.state.global_step}"
        if self.args.world_size > 1:
            # Every rank writes its part, so that there is no one temporary folder to rename; a
            # folder without the state file, which comes last, is not resumed from.
            Trainer._save_checkpoint(self, model, trial)
            return
        with replacing(target) as partial:
            self.save_model(str(partial), _internal_call=True)
            self._save_optimizer_and_scheduler(str(partial))
            self._save_rng_state(str(partial))
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, TrainerCallback) and hasattr(callback, "state"):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            self.state.stateful_callbacks["TrainerControl"] = self.control.state()
            self.state.save_to_json(str(partial / STATE))
        self.run.remove_resumable(keep=target)


def resumed_seconds(folder: Path | None) -> float:
    """Seconds that a run had taken when the checkpoint was written."""
    file = None if folder is None else folder / BUDGET_STATE
    return float(json.loads(file.read_text())["seconds"]) if file and file.exists() else 0.0


def resume(
    run: RunFolder, folder: Path | None, budget: Budget, rehearsal: Rehearsal | None
) -> None:
    """Bring curve, budget and readout to where the checkpoint `folder` was written."""
    budget.spent = resumed_seconds(folder)
    run.drop_rows_after(int(folder.name.rpartition("-")[2]) if folder else 0)
    if folder and rehearsal is not None:
        weights = torch.load(folder / READOUT, weights_only=True)
        rehearsal.readout.load_state_dict(weights)


def watch(trainer: RunTrainer, rehearsal: Rehearsal | None) -> None:
    """Join the rehearsal and the guard against what is not finite."""
    trainer.remove_callback(PrinterCallback)
    trainer.rehearsal = rehearsal
    parameters = list(trainer.model.parameters())
    parameters += list(rehearsal.readout.parameters()) if rehearsal else []
    trainer.guard = NonFiniteGuard(parameters)
    trainer.add_callback(trainer.guard)


def finish(trainer: RunTrainer) -> None:
    """Write the result and tidy up; the model loses what TRL attached to it."""
    if trainer.rehearsal is not None:
        trainer.rehearsal.store()
    checkpoint = trainer.checkpoint
    if hasattr(trainer.model, "merge_and_unload"):
        checkpoint.model = trainer.model.merge_and_unload()
    if trainer.args.world_size > 1:
        partial = trainer.run.result.with_name(trainer.run.result.name + PARTIAL)
        trainer.save_model(str(partial))
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            partial.rename(trainer.run.result)
    else:
        save(checkpoint, trainer.run.result)
    checkpoint.model.__dict__.pop("forward", None)  # TRL's fused language model head
    checkpoint.model.eval()
    if trainer.args.should_save:
        trainer.run.remove_resumable()
    if trainer.skipped:
        log.warning(
            "%d samples were left out, the first: %s", len(trainer.skipped), trainer.skipped[0]
        )
