"""What watches a training run: losses that are not finite, entropy, response length, memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

log = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Training keeps on producing losses or gradients that are not finite."""


class NonFiniteGuard(TrainerCallback):
    """Skips an update that is not finite (loss or gradients) and goes back to good weights.

    Good weights are kept in host memory and renewed every `every` updates, so that weights which
    are on their way to infinity are left behind too; the optimiser's moments start anew. After
    `patience` bad updates without a good one between them the run ends, its checkpoint untouched.

    DeepSpeed keeps gradients and weights to itself: there the guard ends the run at the first loss
    that is not finite, and the last checkpoint is the last good one.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], every: int = 20, patience: int = 5):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.every, self.patience = every, patience
        self.rolled_back = 0
        self._bad_in_a_row = 0
        self._loss_is_finite = True
        self._skipped = False
        self._good: list[Tensor] = []

    def see_loss(self, loss: Tensor, sharded: bool = False) -> None:
        """Called with each loss before the update.

        Raises:
            NonFiniteError: the loss is not finite and the weights are out of reach (`sharded`).
        """
        finite = bool(torch.isfinite(loss).all())
        if sharded and not finite:
            raise NonFiniteError("the loss is not finite; resume from the last checkpoint")
        self._loss_is_finite &= finite

    def on_train_begin(self, args, state, control, **_) -> None:
        self._keep()

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_) -> None:
        """Raises NonFiniteError: `patience` is used up."""
        self._skipped = not (self._loss_is_finite and self._gradients_are_finite())
        self._loss_is_finite = True
        if not self._skipped:
            self._bad_in_a_row = 0
            return
        self.rolled_back += 1
        self._bad_in_a_row += 1
        log.warning(
            "step %d: the loss or a gradient is not finite; back to the last good weights",
            state.global_step + 1,
        )
        self.roll_back(optimizer)
        if self._bad_in_a_row >= self.patience:
            raise NonFiniteError(
                f"step {state.global_step + 1}: {self._bad_in_a_row} updates in a row were not "
                "finite. Lower the learning rate or look at the data, then resume."
            )

    def on_step_end(self, args, state, control, **_) -> None:
        if not self._skipped and state.global_step % self.every == 0 and self._weights_are_finite():
            self._keep()

    @torch.no_grad()
    def roll_back(self, optimizer: Any) -> None:
        """Last good weights, no gradients, no moments."""
        for parameter, good in zip(self.parameters, self._good, strict=True):
            parameter.copy_(good)
            parameter.grad = None
        if optimizer is not None:
            inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
            inner.state.clear()

    def _keep(self) -> None:
        if not self._good:
            self._good = [torch.empty_like(p, device="cpu") for p in self.parameters]
        for good, parameter in zip(self._good, self.parameters, strict=True):
            good.copy_(parameter.detach())

    def _gradients_are_finite(self) -> bool:
        return _finite([p.grad for p in self.parameters if p.grad is not None])

    def _weights_are_finite(self) -> bool:
        return _finite([p.detach() for p in self.parameters])


def _finite(tensors: list[Tensor]) -> bool:
    """A norm is finite if and only if every entry is (up to overflow, which is as bad)."""
    if not tensors:
        return True
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(tensors)])
    return bool(torch.isfinite(norms).all())


@dataclass(frozen=True)
class WatchLimits:
    """When the watches speak; entropy in nats, lengths in tokens, memory in gigabytes."""

    window: int = 10
    entropy_share: float = 0.25
    """Warn below this share of the first window's entropy."""
    length_share: float = 2.0
    """Warn above this multiple of the first window's length."""
    truncated_share: float = 0.5
    memory_gb: float | None = None
    """The run ends (and saves) above this much resident memory."""


class RolloutWatch:
    """Tells of entropy collapse and of responses that grow without end."""

    def __init__(self, limits: WatchLimits) -> None:
        self.limits = limits
        self._first: list[tuple[float, float]] = []
        self._last: deque[tuple[float, float, float]] = deque(maxlen=limits.window)
        self._told: set[str] = set()

    def see(self, entropy: float, length: float, truncated: float) -> list[str]:
        """Warnings that are new with this step; `truncated` is the share of cut responses."""
        if len(self._first) < self.limits.window:
            self._first.append((entropy, length))
        self._last.append((entropy, length, truncated))
        if len(self._last) < self.limits.window or len(self._first) < self.limits.window:
            return []
        first_entropy, first_length = (sum(values) for values in zip(*self._first, strict=True))
        entropies, lengths, cut = (sum(values) for values in zip(*self._last, strict=True))
        found = {
            "entropy": entropies < self.limits.entropy_share * first_entropy,
            "length": lengths > self.limits.length_share * first_length,
            "truncated": cut > self.limits.truncated_share * self.limits.window,
        }
        count = self.limits.window
        texts = {
            "entropy": f"entropy collapse: {entropies / count:.3f} nats a token, at first "
            f"{first_entropy / count:.3f}",
            "length": f"responses grow: {lengths / count:.0f} tokens, at first "
            f"{first_length / count:.0f}",
            "truncated": f"{100 * cut / count:.0f} % of the responses do not end in time",
        }
        new = [name for name, seen in found.items() if seen and name not in self._told]
        self._told = {name for name, seen in found.items() if seen}
        return [texts[name] for name in new]


class MemoryWatch(TrainerCallback):
    """Ends the run, saving it, when the process's resident memory passes a limit."""

    def __init__(self, limit_gb: float | None) -> None:
        self.limit_gb = limit_gb
        self.exceeded = False

    def on_step_end(self, args, state, control, **_):
        if self.limit_gb is not None and not self.exceeded and resident_gb() > self.limit_gb:
            self.exceeded = True
            log.error(
                "step %d: %.1f GB resident, the limit is %.1f GB; the run is saved and ends",
                state.global_step, resident_gb(), self.limit_gb,
            )  # fmt: skip
            control.should_save = True
            control.should_training_stop = True
        return control


def resident_gb() -> float:
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss / 1e9
