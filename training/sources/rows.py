"""Rows of a mixture, and the order in which an epoch goes through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.samples import Sample


class Indexable(Protocol):
    """Samples by index; reading one that cannot be used raises SampleError.

    An `order(rng)` method, where there is one, gives all indices in a random order that is cheap to
    read (`Records.order`).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Row:
    """What a mixture draws from: `weight` times all samples in an epoch, below 1 a part of them,
    which changes from epoch to epoch. An iterable of samples is read into memory."""

    name: str
    category: str
    weight: float
    samples: Indexable

    def __post_init__(self) -> None:
        if not np.isfinite(self.weight) or self.weight < 0:
            raise ValueError(f"row {self.name!r}: the weight {self.weight} is no share")
        if not hasattr(self.samples, "__getitem__"):
            object.__setattr__(self, "samples", tuple(self.samples))

    @property
    def draws(self) -> int:
        """Samples an epoch, including those that turn out unusable."""
        return round(self.weight * len(self.samples))


def plan(rows: Sequence[Row], seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row index and sample index at each place (total draws,) of an epoch.

    Which row has which place is shuffled; a row's own order may be the one that is cheap to read.
    """
    draws = [row.draws for row in rows]
    rng = np.random.default_rng([seed, epoch])
    places = rng.permutation(np.repeat(np.arange(len(rows)), draws))
    items = np.empty(len(places), dtype=np.int64)
    for i, row in enumerate(rows):
        if draws[i]:
            own = np.random.default_rng([seed, epoch, i + 1])
            items[places == i] = _row_order(row.samples, draws[i], own)
    return places, items


def _row_order(samples: Indexable, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices (draws,): each sample once before any comes again."""
    order = getattr(samples, "order", None) or (lambda rng: rng.permutation(len(samples)))
    rounds = -(-draws // len(samples))
    return np.concatenate([order(rng) for _ in range(rounds)])[:draws]
