"""Which demonstration is wanted next: objects in turn, start positions spread over the table.

Everything follows from the seed: the same seed asks for the same starts, on any day and machine,
whatever part of the plan is already recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from contracts.task import OBJECTS, TASKS, get_task
from simulation.placement import TABLE_X, TABLE_Y, Placement, sample_placement

GRID: Final = (3, 5)
"""Cells of the table along x and y; every object starts as often in each as in any other."""
CELLS: Final = GRID[0] * GRID[1]
MOST: Final = 2 * CELLS * len(OBJECTS)
"""Largest target a task: every object twice in every cell."""
OBJECT_SEEDS: Final = 10_000
"""Placement seeds that one object of one task may use up."""


@dataclass(frozen=True)
class Slot:
    """One wanted demonstration: `index` counts within its task; the object starts in `cell`.

    turn: how often the object was wanted in that cell before.
    """

    task: str
    index: int
    object: str
    cell: int
    turn: int


def check_target(target: int) -> int:
    """Return `target`; raise ValueError where a plan has no room for it."""
    if not 1 <= target <= MOST:
        raise ValueError(f"the target must be 1..{MOST} a task, got {target}")
    return target


def slots(task: str, target: int, seed: int) -> Iterator[Slot]:
    """The first `target` slots of a task; a larger target only adds to them.

    Raises:
        ValueError: unknown task, or a target out of range.
    """
    get_task(task)
    for index in range(check_target(target)):
        obj = OBJECTS[index % len(OBJECTS)]
        turn, within = divmod(index // len(OBJECTS), CELLS)
        key = [seed, list(TASKS).index(task), OBJECTS.index(obj), turn]
        cells = np.random.default_rng(key).permutation(CELLS)
        yield Slot(task, index, obj, int(cells[within]), turn)


def placement(slot: Slot, attempt: int, seed: int) -> Placement:
    """Start of the `attempt`-th try at a slot (from 0): the object lies in the slot's cell.

    Raises:
        ValueError: so many attempts that the object's seeds are used up.
    """
    return _starts(slot.task, slot.object, seed).find(slot.cell, slot.turn + 2 * attempt)


class _Starts:
    """Starts of one object of one task in the order of their seeds, sorted into cells."""

    def __init__(self, task: str, obj: str, seed: int) -> None:
        self._task, self._object = task, obj
        pair = list(TASKS).index(task) * len(OBJECTS) + OBJECTS.index(obj)
        self._next = seed + pair * OBJECT_SEEDS
        self._end = self._next + OBJECT_SEEDS
        self._cells: list[list[Placement]] = [[] for _ in range(CELLS)]

    def find(self, cell: int, index: int) -> Placement:
        """The `index`-th start in a cell."""
        while len(self._cells[cell]) <= index:
            if self._next == self._end:
                raise ValueError(
                    f"{self._task}, {self._object}: no start is left; use another --seed"
                )
            found = sample_placement(self._task, self._object, self._next)
            self._cells[cell_of(found)].append(found)
            self._next += 1
        return self._cells[cell][index]


@lru_cache(maxsize=2 * len(TASKS) * len(OBJECTS))
def _starts(task: str, obj: str, seed: int) -> _Starts:
    return _Starts(task, obj, seed)


def cell_of(start: Placement) -> int:
    """Cell (0..CELLS - 1) of the table in which the object starts."""
    at = start.objects[start.object]
    return grid_cell(at.x, at.y)


def grid_cell(x: float, y: float) -> int:
    """Cell of a position [m] in the base frame; beyond the edge counts to the nearest."""
    row = (x - TABLE_X[0]) / (TABLE_X[1] - TABLE_X[0]) * GRID[0]
    column = (y - TABLE_Y[0]) / (TABLE_Y[1] - TABLE_Y[0]) * GRID[1]
    row, column = (
        min(max(int(v // 1), 0), n - 1) for v, n in zip((row, column), GRID, strict=True)
    )
    return row * GRID[1] + column


def start_document(start: Placement) -> dict[str, dict[str, tuple[float, ...]]]:
    """A placement as an episode's header holds it: (x, y, z, yaw) by name."""
    groups = {"containers": start.containers, "objects": start.objects}
    return {
        group: {name: (pose.x, pose.y, pose.z, pose.yaw) for name, pose in poses.items()}
        for group, poses in groups.items()
    }
