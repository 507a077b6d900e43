"""Statistics of a LeRobot data set's features, each over all data.

Per-episode quantiles cannot be averaged to those of the whole, so the whole is computed from every
value; of pictures, from the counts of every channel value.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

QUANTILES: Final = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
LEVELS: Final = np.arange(256) / 255.0


class PictureCounts:
    """How often each channel (3) takes each of 256 levels."""

    def __init__(self) -> None:
        self.counts = np.zeros((3, 256), np.int64)
        self.pictures = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        for channel in range(3):
            self.counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
        self.pictures += 1

    def merge(self, other: PictureCounts) -> None:
        self.counts += other.counts
        self.pictures += other.pictures

    def statistics(self) -> dict[str, Any]:
        """LeRobot's statistics of a picture feature: (3, 1, 1) each, levels in 0..1."""
        total = self.counts.sum(axis=1, keepdims=True)
        mean = (self.counts * LEVELS).sum(axis=1, keepdims=True) / total
        square = (self.counts * LEVELS**2).sum(axis=1, keepdims=True) / total
        reached = self.counts.cumsum(axis=1) / total
        found = {
            "min": [LEVELS[np.flatnonzero(c)[0]] for c in self.counts],
            "max": [LEVELS[np.flatnonzero(c)[-1]] for c in self.counts],
            "mean": mean[:, 0],
            "std": np.sqrt(np.maximum(square - mean**2, 0.0))[:, 0],
        }
        for name, share in QUANTILES.items():
            found[name] = [LEVELS[int(np.argmax(r >= share))] for r in reached]
        shaped = {name: np.reshape(value, (3, 1, 1)).tolist() for name, value in found.items()}
        return shaped | {"count": [self.pictures]}


def column_statistics(values: NDArray[Any]) -> dict[str, Any]:
    """LeRobot's statistics of a numeric column (T,) or (T, dimension): (dimension,) each."""
    table = np.asarray(values, np.float64).reshape(len(values), -1)
    found = {
        "min": table.min(axis=0),
        "max": table.max(axis=0),
        "mean": table.mean(axis=0),
        "std": table.std(axis=0),
    }
    for name, share in QUANTILES.items():
        found[name] = np.quantile(table, share, axis=0)
    return {name: value.tolist() for name, value in found.items()} | {"count": [len(table)]}
