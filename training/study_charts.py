"""Where things stand in the charts of the study's page; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

WIDTH: Final = 340
HEIGHT: Final = 190
LEFT: Final = 46
RIGHT: Final = 10
TOP: Final = 8
BOTTOM: Final = 24
"""Pixels of a line chart, and of the room for its labels."""
X_NAMES: Final = ("step", "samples", "epoch", "seconds", "time")
"""Columns that tell when, not how well; the first that is there is the horizontal axis."""

CURVES: Final[Mapping[str, Sequence[tuple[str, tuple[str, ...]]]]] = {
    "base": (
        ("Loss", ("loss", "train", "train_loss", "held_out", "held_out_loss", "eval_loss")),
        ("Pointing error, held out [mm]", ("object_mm", "object_near_mm", "target_mm")),
    ),
    "sft": (
        ("Loss", ("loss", "train", "train_loss", "held_out", "held_out_loss", "eval_loss")),
        ("Token accuracy", ("accuracy", "mean_token_accuracy", "fast_accuracy", "token_accuracy")),
    ),
    "grpo": (
        ("Reward", ("reward", "held_out_reward", "validation_reward")),
        ("Format reward", ("format", "held_out_format", "validation_format")),
        ("Accuracy reward (Eq. 2)", ("accuracy", "prefix", "prefix_accuracy", "held_out_prefix")),
        ("Response length [tokens]", ("length", "held_out_length", "completion_length")),
    ),
}
"""Charts of each stage and the columns that share them; every other number has its own chart."""
HEAD_TITLES: Final = {
    "train": "Flow-matching loss, training",
    "held_out": "Flow-matching loss, held out",
    "action_mm": "Action error, held out [mm]",
}
UNITS: Final = {"mm": "[mm]", "deg": "[°]", "kl": "KL"}
"""Words of column names that are written otherwise."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, at `at` pixels."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve as SVG `points`; a single point is drawn as a dot at `end`."""

    name: str
    points: str
    end: tuple[float, float]
    last: str
    single: bool


@dataclass(frozen=True)
class LineChart:
    """Curves over a common axis."""

    title: str
    x_name: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Dot:
    """One row of a dot-and-whisker chart, in per cent; `rate` None is shown as not run."""

    label: str
    rate: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    seeds: tuple[float, ...] = ()
    paper: float | None = None
    chance: float | None = None


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    span = high - low
    if not span > 0.0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10, 20):
        first, last = math.ceil(low / (step * factor)), math.floor(high / (step * factor))
        if last - first + 1 <= most:
            return [i * step * factor for i in range(first, last + 1)]
    return [low]


def short(value: float) -> str:
    """A number in the least room: 12000 as 12k, 0.25 as 0.25."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"


def stage_charts(stage: str, rows: Sequence[Mapping[str, Any]]) -> list[LineChart]:
    """All charts of one stage's log; columns without a number leave no chart."""
    x_name = next((name for name in X_NAMES if any(name in row for row in rows)), "row")
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in X_NAMES))
    groups = [
        (title, [name for name in names if name in columns])
        for title, names in CURVES.get(stage, ())
    ]
    taken = {name for _, names in groups for name in names}
    groups += [(upper_first(words(name)), [name]) for name in columns if name not in taken]
    charts = (
        line_chart(title, x_name, {words(n): _points(rows, x_name, n) for n in names})
        for title, names in groups
    )
    return [chart for chart in charts if chart is not None]


def heads_charts(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[LineChart]:
    """A chart for each column of the heads' logs, with a line for each name of `logs`."""
    rows = [row for log in logs.values() for row in log]
    x_name = next((name for name in X_NAMES if any(name in row for row in rows)), "row")
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in X_NAMES))
    charts = (
        line_chart(
            HEAD_TITLES.get(column, upper_first(words(column))),
            x_name,
            {name: _points(log, x_name, column) for name, log in logs.items()},
        )
        for column in columns
    )
    return [chart for chart in charts if chart is not None]


def line_chart(
    title: str, x_name: str, series: Mapping[str, Sequence[tuple[float, float]]]
) -> LineChart | None:
    """Chart of (x, y) points by name; None without any point."""
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return None
    xs, ys = zip(*(point for points in drawn.values() for point in points), strict=True)
    x_low, x_high = _widened(min(xs), max(xs))
    y_low, y_high = _widened(min(ys), max(ys), margin=0.04)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    return LineChart(
        title,
        x_name,
        tuple(_line(name, points, place) for name, points in drawn.items()),
        tuple(Tick(place(x, y_low)[0], short(x)) for x in ticks(x_low, x_high, 4)),
        tuple(Tick(place(x_low, y)[1], short(y)) for y in ticks(y_low, y_high, 5)),
    )


def words(name: str) -> str:
    """A column's or key's name as a person reads it."""
    plain = name.replace("/", " · ").replace(":", " ").replace("_", " ")
    return " ".join(UNITS.get(word, word) for word in plain.split(" "))


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _line(name: str, points: Sequence[tuple[float, float]], place: Any) -> Line:
    placed = [place(x, y) for x, y in points]
    text = " ".join(f"{x},{y}" for x, y in placed)
    return Line(name, text, placed[-1], short(points[-1][1]), len(points) == 1)


def _points(rows: Iterable[Mapping[str, Any]], x_name: str, name: str) -> list[tuple[float, float]]:
    pairs = [(row.get(x_name, i), row.get(name)) for i, row in enumerate(rows)]
    return [(float(x), float(y)) for x, y in pairs if _is_number(x) and _is_number(y)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _widened(low: float, high: float, margin: float = 0.0) -> tuple[float, float]:
    """The range with some room, and never empty."""
    room = (high - low) * margin or (0.0 if high > low else max(abs(low), 1.0) * 0.1)
    return low - room, high + room
