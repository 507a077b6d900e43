"""The training mixture: one table of all sources (paper, Appendix A.3), streamed in one order.

    python -m training.mixture --folder DATA --table
    python -m training.mixture --folder DATA --check

The order of an epoch follows from the seed alone. Every row gives its share of samples, spread
evenly; a sample that cannot be used is left out, counted and named. Workers take every n-th place
of the order. A run resumes from `state()`, a small dictionary.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from tqdm import tqdm

from training.fast_tokenizer import FastTokenizer
from training.samples import Sample, SampleError
from training.sources.paper import PAPER, PaperRow, paper_rows, table
from training.sources.rows import Row, plan

__all__ = ["PAPER", "Mixture", "Row", "check", "paper_rows", "table", "with_fast_answers"]

EXAMPLES: Final = 3
"""Messages kept and logged for each row and reason; all are counted."""
OTHER_REASON: Final = "invalid sample"
TABLE_WIDTH: Final = 140

logger = logging.getLogger(__name__)


def with_fast_answers(sample: Sample, tokenizer: FastTokenizer) -> Sample:
    """The sample with its chunk written out as `<ACTION_START>...<ACTION_END>`; samples without a
    chunk are returned as they are.

    Raises:
        SampleError: the chunk has another shape than the tokenizer, or is not finite.
    """
    # Importing transformers takes ten seconds that reading data does not need.
    from training.vocabulary import ACTION_END, ACTION_START, action_token

    if sample.chunk is None:
        return sample
    try:
        tokens = tokenizer.encode(sample.chunk[None])[0]
    except ValueError as error:
        raise SampleError(f"{sample.name}: {error}") from error
    actions = "".join(action_token(token) for token in tokens)
    return replace(sample, answer=f"{ACTION_START}{actions}{ACTION_END}")


class Mixture:
    """Samples of all rows in one order; iterating goes on where the last iteration stopped."""

    def __init__(
        self,
        rows: Sequence[Row],
        seed: int,
        *,
        epochs: int = 1,
        worker: int = 0,
        workers: int = 1,
        finish: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """`finish` is applied to each sample (`with_fast_answers`); it may reject one too.

        Raises:
            ValueError: duplicate names, nothing to draw, or no such worker.
        """
        names = [row.name for row in rows]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows named twice: {', '.join(doubled)}")
        if not 0 <= worker < workers or epochs < 1:
            raise ValueError(f"worker {worker} of {workers}, {epochs} epochs")
        self._draws = [row.draws for row in rows]
        if not sum(self._draws):
            raise ValueError(f"nothing to draw from the rows {names}: all empty, or of weight 0")
        self.rows = tuple(rows)
        self._seed, self._epochs, self._worker, self._workers = seed, epochs, worker, workers
        self._finish = finish
        self._slots = len(range(worker, sum(self._draws), workers))
        self._position = 0
        self._used: Counter[str] = Counter()
        self._rejected: dict[str, Counter[str]] = {name: Counter() for name in names}
        self._examples: dict[str, list[str]] = {name: [] for name in names}
        self._plan: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._report_broken_shards()

    def __len__(self) -> int:
        """Places of this worker in all epochs, the unusable samples included."""
        return self._epochs * self._slots

    def __iter__(self) -> Iterator[Sample]:
        while self._position < len(self):
            epoch, slot = divmod(self._position, self._slots)
            rows, items = self._epoch_plan(epoch)
            row = self.rows[rows[slot]]
            self._position += 1
            try:
                sample = row.samples[int(items[slot])]
                if self._finish is not None:
                    sample = self._finish(sample)
            except SampleError as error:
                self._reject(row.name, error)
                continue
            self._used[row.name] += 1
            yield sample

    def state(self) -> dict[str, Any]:
        """What `from_state` needs; JSON-able. It stands after the last sample that was given out,
        so a consumer that fetches ahead must not ask a mixture that runs ahead of it."""
        return {
            "seed": self._seed,
            "epochs": self._epochs,
            "worker": self._worker,
            "workers": self._workers,
            "position": self._position,
            "rows": _fingerprint(self.rows),
            "used": dict(self._used),
            "rejected": {name: dict(counts) for name, counts in self._rejected.items() if counts},
        }

    @classmethod
    def from_state(
        cls,
        rows: Sequence[Row],
        state: Mapping[str, Any],
        *,
        finish: Callable[[Sample], Sample] | None = None,
    ) -> Mixture:
        """The mixture as it stood.

        Raises:
            ValueError: the rows are not those of the state.
        """
        before, now = list(map(list, state["rows"])), _fingerprint(rows)
        if before != now:
            gone = [row for row in before if row not in now]
            new = [row for row in now if row not in before]
            raise ValueError(
                "the mixture changed since the run was saved, its order would be another one: "
                f"[name, samples, weight] was {gone or before}, is {new or now}; restore the data "
                "or start anew"
            )
        mixture = cls(
            rows,
            state["seed"],
            epochs=state["epochs"],
            worker=state["worker"],
            workers=state["workers"],
            finish=finish,
        )
        mixture._position = state["position"]
        mixture._used.update(state["used"])
        for name, counts in state["rejected"].items():
            mixture._rejected[name].update(counts)
        return mixture

    def report(self) -> dict[str, dict[str, Any]]:
        """For each row: samples, draws, used so far, rejections by reason, the first messages and
        shards that did not open."""
        return {
            row.name: {
                "category": row.category,
                "samples": len(row.samples),
                "draws": draws,
                "used": self._used[row.name],
                "rejected": dict(self._rejected[row.name]),
                "examples": list(self._examples[row.name]),
                "broken_shards": [str(error) for error in getattr(row.samples, "broken", ())],
            }
            for row, draws in zip(self.rows, self._draws, strict=True)
        }

    def _reject(self, name: str, error: SampleError) -> None:
        reason = str(getattr(error, "reason", OTHER_REASON))
        self._rejected[name][reason] += 1
        if self._rejected[name][reason] <= EXAMPLES:
            self._examples[name].append(str(error))
            logger.warning("left out: %s", error)

    def _report_broken_shards(self) -> None:
        for row in self.rows:
            for error in getattr(row.samples, "broken", ()):
                logger.warning("left out: %s", error)

    def _epoch_plan(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and item at each of this worker's places of an epoch."""
        if self._plan is None or self._plan[0] != epoch:
            rows, items = plan(self.rows, self._seed, epoch)
            mine = slice(self._worker, None, self._workers)
            self._plan = (epoch, rows[mine].copy(), items[mine].copy())
        return self._plan[1:]


def _fingerprint(rows: Sequence[Row]) -> list[list[Any]]:
    return [[row.name, len(row.samples), row.weight] for row in rows]


def check(folder: Path) -> dict[str, Any]:
    """Read every sample of every row that is present: counts, rejections and missing folders.

    Raises:
        FileNotFoundError: no row is present.
    """
    present = [row for row in PAPER if (folder / row.folder).is_dir()]
    if not present:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(row.folder for row in PAPER)}")
    missing = [row.name for row in PAPER if row not in present]
    return {"rows": {row.name: _checked(row, folder) for row in present}, "missing": missing}


def _checked(row: PaperRow, folder: Path) -> dict[str, Any]:
    try:
        records = row.read(folder / row.folder)
    except FileNotFoundError as error:
        return {"error": str(error)}
    if not len(records):
        return {"samples": 0, "broken_shards": [str(error) for error in records.broken]}
    mixture = Mixture([Row(row.name, row.category, 1.0, records)], seed=0)
    for _ in tqdm(mixture, desc=row.name, total=len(mixture), mininterval=5):
        pass
    return mixture.report()[row.name]


def main() -> None:
    parser = argparse.ArgumentParser(description="Show or check the data mixture.")
    parser.add_argument("--folder", type=Path, required=True)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--table", action="store_true")
    action.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        Console(width=max(Console().width, TABLE_WIDTH)).print(table(arguments.folder))
        return
    try:
        print(json.dumps(check(arguments.folder), indent=1))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
