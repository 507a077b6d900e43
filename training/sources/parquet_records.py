"""Parquet shards as the Hugging Face hub stores them: pictures inside, many rows a row group."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUPS_KEPT: Final = 2
"""Row groups held in memory, over all shards: a group can be hundreds of megabytes."""


class ParquetShard:
    """Rows of a parquet file as dictionaries. A row costs its row group, hence the blocks."""

    damage = ""

    def __init__(self, path: Path, name: str) -> None:
        """Read the footer. Raises ValueError: not a parquet file, or one cut short."""
        self.path, self.name = path, name
        with pq.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            self.blocks = tuple(file.metadata.row_group(i).num_rows for i in groups)
        self._ends = np.cumsum(self.blocks)

    def __len__(self) -> int:
        return int(sum(self.blocks))

    def __getitem__(self, index: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[group]) - self.blocks[group]
        return _row_group(self.path, group).slice(index - start, 1).to_pylist()[0]


@lru_cache(maxsize=GROUPS_KEPT)
def _row_group(path: Path, group: int) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group)
