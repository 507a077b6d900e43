"""Where things stand in the charts of the page; the template draws them as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from evaluation.statistics.success_rate import SuccessRate
from evaluation.study import Study
from evaluation.trial_log import TrialRecord
from simulation.placement import TABLE_X, TABLE_Y, sample_placement

CURVE_WIDTH: Final = 520
CURVE_HEIGHT: Final = 220
CURVE_LEFT: Final = 40
CURVE_BOTTOM: Final = 26
CURVE_TOP: Final = 8
CURVE_RIGHT: Final = 12
"""Pixels of the learning curves, and of the room for their labels."""
MAP_WIDTH: Final = 200
CELLS: Final = (4, 2)
"""Fields of a map across and along the table, each with its own success rate."""
REACHES: Final = (10, 20, 30, 50, 75, 100)
"""Ends of the axis of differences, in points."""
MARGIN_M: Final = 0.03
"""Objects may lie this far [m] outside the table's area, which holds their containers' centres."""


@dataclass(frozen=True)
class Whisker:
    """One estimate with its interval, in per cent of the chart's width; text for people."""

    label: str
    point: float | None
    low: float
    high: float
    text: str
    policy: int = 0
    strong: bool = False


@dataclass(frozen=True)
class Forest:
    """Differences on an axis from -`reach` to `reach` points."""

    reach: int
    rows: tuple[Whisker, ...]


@dataclass(frozen=True)
class Curve:
    """Success rate after each trial of a policy: SVG points of the line and of its interval."""

    policy: int
    line: str
    band: str


@dataclass(frozen=True)
class Curves:
    """Learning curves over a common axis of `most` trials; ticks as (pixels, text)."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Mark:
    """Where an object lay (pixels), and whether its trial succeeded."""

    x: float
    y: float
    success: bool
    title: str


@dataclass(frozen=True)
class Cell:
    """A field of the table (pixels): successes of trials that started in it."""

    x: float
    y: float
    width: float
    height: float
    successes: int
    trials: int


@dataclass(frozen=True)
class PositionMap:
    """Starts of a policy's trials seen from above, the robot below; `cells` may be empty."""

    title: str
    marks: tuple[Mark, ...]
    cells: tuple[Cell, ...]
    height: float


def rate_forest(summary: Mapping[str, Any]) -> list[Whisker]:
    """Rates of every policy: all trials, then each task, then each object."""
    config, policies = summary["config"], list(summary["policies"].values())
    groups = [("All trials", policies)]
    groups += [(_words(task), [p["per_task"][task] for p in policies]) for task in config["tasks"]]
    groups += [(obj, [p["per_object"][obj] for p in policies]) for obj in config["objects"]]
    return [
        _rate_row(label if i == 0 else "", cell, i, label == "All trials")
        for label, cells in groups
        for i, cell in enumerate(cells)
        if cell["trials"]
    ]


def difference_forest(comparison: Mapping[str, Any]) -> Forest:
    """Differences in points: overall, pooled, by task, by object."""
    cells = [("All trials", comparison, True)]
    cells.append(("Pooled over task and object", comparison["pooled"], True))
    for group in ("per_task", "per_object"):
        cells += [(_words(name), cell, False) for name, cell in comparison[group].items()]
    farthest = max(abs(100 * bound) for _, cell, _ in cells for bound in cell["interval"])
    reach = next(reach for reach in REACHES if farthest <= reach or reach == REACHES[-1])
    return Forest(reach, tuple(_difference_row(*cell, reach) for cell in cells))


def learning_curves(study: Study) -> Curves | None:
    """Success rate with its interval after every trial, in the order of the plan."""
    series = []
    for i, policy in enumerate(study.config.policies):
        mine = [r for r in study.records if r.policy == policy.name]
        mine.sort(key=lambda r: study.order.get(r.spec.key, 0))
        series.append((i, [r.success for r in mine]))
    most = max((len(outcomes) for _, outcomes in series), default=0)
    if most < 2:
        return None
    return Curves(
        tuple(_curve(i, outcomes, most) for i, outcomes in series if len(outcomes) > 1),
        tuple((_curve_x(n, most), str(n)) for n in _ticks(most)),
        tuple((_curve_y(r), f"{100 * r:.0f}") for r in (0.0, 0.25, 0.5, 0.75, 1.0)),
    )


def position_maps(records: Sequence[TrialRecord], objects: Sequence[str]) -> list[PositionMap]:
    """All starts with the success rate of each part of the table, then each object's."""
    marks = [(record, _mark(record)) for record in records]
    maps = [_map("All objects", [m for _, m in marks], cells=True)]
    for obj in objects:
        mine = [m for record, m in marks if record.object == obj]
        if mine and len(objects) > 1:
            maps.append(_map(obj, mine, cells=False))
    return maps


def _rate_row(label: str, cell: Mapping[str, Any], policy: int, strong: bool) -> Whisker:
    low, high = (100 * bound for bound in cell["interval"])
    rate = 100 * cell["success_rate"]
    text = f"{rate:.1f} [{low:.0f}, {high:.0f}]  {cell['successes']}/{cell['trials']}"
    return Whisker(label, rate, low, high, text, policy, strong)


def _difference_row(label: str, cell: Mapping[str, Any], strong: bool, reach: int) -> Whisker:
    low, high = (100 * bound for bound in cell["interval"])
    value = 100 * cell["difference"]
    text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
    point, left, right = (50 + 50 * x / reach for x in (value, low, high))
    return Whisker(label, point, left, right, text, 0, strong)


def _curve(policy: int, outcomes: Sequence[bool], most: int) -> Curve:
    line, above, below = [], [], []
    successes = 0
    for n, success in enumerate(outcomes, start=1):
        successes += success
        rate = SuccessRate.of(successes, n)
        x = _curve_x(n, most)
        line.append(f"{x},{_curve_y(successes / n)}")
        above.append(f"{x},{_curve_y(rate.high)}")
        below.append(f"{x},{_curve_y(rate.low)}")
    return Curve(policy, " ".join(line), " ".join(above + below[::-1]))


def _curve_x(n: int, most: int) -> float:
    width = CURVE_WIDTH - CURVE_LEFT - CURVE_RIGHT
    return round(CURVE_LEFT + width * (n - 1) / (most - 1), 1)


def _curve_y(rate: float) -> float:
    return round(CURVE_TOP + (CURVE_HEIGHT - CURVE_TOP - CURVE_BOTTOM) * (1 - rate), 1)


def _ticks(most: int) -> list[int]:
    return sorted({1, *(round(most * part / 4) for part in (1, 2, 3, 4))} - {0})


def _mark(record: TrialRecord) -> Mark:
    start = sample_placement(record.task, record.object, record.seed).objects[record.object]
    x, y = _on_map(start.x, start.y)
    title = f"{record.object}, {_words(record.task)}, seed {record.seed}: {record.message}"
    return Mark(x, y, record.success, title)


def _on_map(x: float, y: float) -> tuple[float, float]:
    """Pixels of a point [m] on the table: the robot's left (+y) is left, away from it is up."""
    scale = MAP_WIDTH / (TABLE_Y[1] - TABLE_Y[0] + 2 * MARGIN_M)
    return (
        round((TABLE_Y[1] + MARGIN_M - y) * scale, 1),
        round((TABLE_X[1] + MARGIN_M - x) * scale, 1),
    )


def _map(title: str, marks: Sequence[Mark], cells: bool) -> PositionMap:
    height = _on_map(TABLE_X[0] - MARGIN_M, 0.0)[1]
    fields: list[Cell] = []
    if cells:
        width, depth = MAP_WIDTH / CELLS[0], height / CELLS[1]
        for column in range(CELLS[0]):
            for row in range(CELLS[1]):
                left, top = column * width, row * depth
                here = [
                    m.success
                    for m in marks
                    if left <= m.x < left + width and top <= m.y < top + depth
                ]
                fields.append(Cell(left, top, width, depth, sum(here), len(here)))
    return PositionMap(title, tuple(marks), tuple(fields), height)


def _words(name: str) -> str:
    return name.replace("_", " ")
