"""The sources of the paper's Appendix A.3 as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.table import Table

from training.sources import (
    bridge,
    droid,
    egoplan,
    llava_onevision,
    reasoning,
    refspatial,
    robopoint,
    robovqa,
    sharerobot,
    vqa_lines,
)
from training.sources.records import Records
from training.sources.rows import Row


@dataclass(frozen=True)
class PaperRow:
    """A source as the paper uses it. folder is below the data folder; `samples` of it are drawn in
    an epoch, times weight; fewer where the source holds fewer."""

    name: str
    category: str
    samples: int
    licence: str
    folder: str
    read: Callable[[Path], Records]
    weight: float = 1.0


_OPEN = "Apache-2.0 (card)"
_OWN = "own"
PAPER: Final = (
    PaperRow("llava_onevision", "general", 100_000, _OPEN, "llava_onevision", llava_onevision.read),
    PaperRow("refspatial", "embodied", 300_000, _OPEN, "refspatial", refspatial.read),
    PaperRow("robopoint", "embodied", 200_000, _OPEN, "robopoint", robopoint.read),
    PaperRow(
        "egoplan", "embodied", 50_000,
        "annotations BSD-3 (repository); EPIC-KITCHENS CC BY-NC 4.0; Ego4D agreement",
        "egoplan", egoplan.read,
    ),
    PaperRow("multi_view", "embodied", 500_000, _OWN, "multi_view", vqa_lines.read_multi_view),
    PaperRow(
        "sharerobot", "robot", 100_000, "those of its Open X-Embodiment parts",
        "sharerobot", sharerobot.read,
    ),
    PaperRow("robovqa", "robot", 100_000, "LICENSE.txt of its bucket", "robovqa", robovqa.read),
    PaperRow("roboalign_vqa", "robot", 150_000, _OWN, "roboalign_vqa", vqa_lines.read_vqa),
    PaperRow("bridge_qa", "robot", 150_000, "CC BY 4.0", "bridge", bridge.read_qa),
    PaperRow("droid_qa", "robot", 150_000, "CC BY 4.0", "droid", droid.read),
    PaperRow("reasoning", "reasoning", 76_000, "own; SAM 2's data", "reasoning", reasoning.read),
    PaperRow("bridge_fast", "action", 400_000, "CC BY 4.0", "bridge", bridge.read_fast),
)  # fmt: skip
"""1.88 M questions and 400 K action chunks. The paper gives 300 K for BridgeV2 and DROID together,
equal halves are our choice; reasoning is what augmentation and filtering made of 100 K."""


def paper_rows(folder: Path, names: Iterable[str] | None = None) -> list[Row]:
    """Rows of the paper's table from a data folder; `names` picks some of them.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: folders are missing; all of them are named.
    """
    wanted = [row.name for row in PAPER] if names is None else list(names)
    known = {row.name: row for row in PAPER}
    if unknown := sorted(set(wanted) - set(known)):
        raise ValueError(f"unknown rows {unknown}; known: {', '.join(known)}")
    rows = [known[name] for name in wanted]
    if missing := sorted({row.folder for row in rows if not (folder / row.folder).is_dir()}):
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: put them there, or choose rows without them"
        )
    return [_opened(row, folder) for row in rows]


def _opened(row: PaperRow, folder: Path) -> Row:
    records = row.read(folder / row.folder)
    share = min(1.0, row.samples / len(records)) if len(records) else 0.0
    return Row(row.name, row.category, row.weight * share, records)


def table(folder: Path) -> Table:
    """The table with what is present in a data folder."""
    shown = Table(title="Data mixture (paper, Appendix A.3)")
    shown.add_column("name", no_wrap=True)
    shown.add_column("samples", justify="right", no_wrap=True)
    shown.add_column("licence", overflow="fold")
    shown.add_column("loader", no_wrap=True)
    shown.add_column("weight", justify="right")
    shown.add_column("folder", no_wrap=True)
    shown.add_column("present")
    for row in PAPER:
        loader = f"{row.read.__module__.removeprefix('training.sources.')}.{row.read.__name__}"
        present = "yes" if (folder / row.folder).is_dir() else "no"
        weight = f"{row.weight:g}"
        shown.add_row(
            row.name, f"{row.samples:,}", row.licence, loader, weight, row.folder, present
        )
    shown.add_section()
    shown.add_row("all", f"{sum(row.samples for row in PAPER):,}")
    return shown
