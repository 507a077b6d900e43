"""The folder of a training run: its config, its curve, its checkpoints, and when it ends.

    config.json       the whole config; a run is resumed with the same one only
    curve.jsonl       one row a report
    checkpoint-N/     the last resumable state, gone when the run is complete
    checkpoint/       the result
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

CONFIG, CURVE, RESULT = "config.json", "curve.jsonl", "checkpoint"
BUDGET_STATE, STATE = "budget.json", "trainer_state.json"
_RESUMABLE = re.compile(r"checkpoint-(\d+)")


class RunError(ValueError):
    """A run that cannot start or go on; the text says why and what to do."""


class Stopped(RuntimeError):
    """The run was asked to stop and has saved its state."""


def is_main() -> bool:
    """Whether this process is the one of a run that reports; `torchrun` numbers them."""
    return os.environ.get("RANK", "0") == "0"


class RunFolder:
    """Opens a run: new, to be resumed, or complete."""

    def __init__(self, path: Path, config: Any) -> None:
        """`config` is a dataclass.

        Raises:
            RunError: the folder belongs to a run with another config.
        """
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(asdict(config), default=str))
        file = self.path / CONFIG
        if file.exists():
            self._compare(json.loads(file.read_text()), wanted)
        else:
            partial = file.with_name(f"{CONFIG}.{os.getpid()}")  # each process of a run writes it
            partial.write_text(json.dumps(wanted, indent=1) + "\n")
            partial.replace(file)

    @property
    def result(self) -> Path:
        return self.path / RESULT

    @property
    def complete(self) -> bool:
        return self.result.is_dir()

    def resumable(self) -> Path | None:
        """The newest checkpoint to go on from; its state file is written last."""
        found = self.path.glob("checkpoint-*")
        whole = [p for p in found if _RESUMABLE.fullmatch(p.name) and (p / STATE).exists()]
        return max(whole, key=_step, default=None)

    def curve(self) -> list[dict[str, Any]]:
        file = self.path / CURVE
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def add_row(self, row: dict[str, Any]) -> None:
        with (self.path / CURVE).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def drop_rows_after(self, step: int) -> None:
        """Forget what a resumed run does again."""
        if not is_main():
            return
        rows = [row for row in self.curve() if row["step"] <= step]
        (self.path / CURVE).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def remove_resumable(self, keep: Path | None = None) -> None:
        for folder in self.path.glob("checkpoint-*"):
            if folder != keep:
                shutil.rmtree(folder)

    def _compare(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise RunError(
                    f"{self.path}: the run was started with {name}={before.get(name)!r}, now it is "
                    f"{now.get(name)!r}. Resume with the same config or choose another folder."
                )


def _step(folder: Path) -> int:
    match = _RESUMABLE.fullmatch(folder.name)
    return int(match.group(1)) if match else -1


class Budget:
    """How much of a run is done: by wall time where `minutes` is set, else by steps."""

    def __init__(self, minutes: float | None, steps: int) -> None:
        self.seconds = None if minutes is None else 60.0 * minutes
        self.steps = steps
        self.spent = 0.0
        """Seconds that earlier parts of a resumed run took."""
        self._started = time.monotonic()

    def start(self) -> None:
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of the run, its earlier parts included."""
        return self.spent + time.monotonic() - self._started

    def share(self, step: int) -> float:
        """0 at the start, 1 at the end."""
        done = self.elapsed / self.seconds if self.seconds else step / max(1, self.steps)
        return min(1.0, done)


def rate_factor(share: float, warm_up: float, schedule: str) -> float:
    """Learning rate over its peak: linear warm-up, then "cosine" to zero or "constant"."""
    if share < warm_up:
        return share / warm_up
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (share - warm_up) / (1.0 - warm_up)))


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM sets while the block runs; a second SIGTERM acts as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, previous)
        event.set()

    signal.signal(signal.SIGTERM, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)


class RunCallback(TrainerCallback):
    """Ends a run at its budget or on request, saves now and then, and shows the time left."""

    def __init__(
        self, budget: Budget, stop: threading.Event, save_minutes: float, description: str
    ) -> None:
        self.budget, self.stop, self.description = budget, stop, description
        self.save_seconds = 60.0 * save_minutes
        self._saved = time.monotonic()
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **_) -> None:
        self.budget.start()
        self._saved = time.monotonic()
        total, unit = (
            (round(self.budget.seconds), "s") if self.budget.seconds else (state.max_steps, "step")
        )
        self.bar = tqdm(total=total, unit=unit, desc=self.description, mininterval=5)
        self._advance(state)

    def on_step_end(self, args, state, control, **_):
        self._advance(state)
        if self.budget.share(state.global_step) >= 1.0 or self.stop.is_set():
            control.should_training_stop = True
            control.should_log = True
        due = time.monotonic() - self._saved > self.save_seconds
        if self.stop.is_set() or (due and not control.should_training_stop):
            control.should_save = True
            self._saved = time.monotonic()
        return control

    def on_train_end(self, args, state, control, **_) -> None:
        if self.bar is not None:
            self.bar.close()

    def _advance(self, state) -> None:
        if self.bar is not None:
            done = round(self.budget.elapsed) if self.budget.seconds else state.global_step
            self.bar.update(min(done, self.bar.total) - self.bar.n)
