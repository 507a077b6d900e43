"""quality.html: one self-contained page of a data set's quality."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from contracts.geometry import Vector
from contracts.task import OBJECTS, TASKS
from simulation.placement import TABLE_X, TABLE_Y
from teleop import jpeg
from teleop.dataset import DemonstrationDataset, Episode
from teleop.quality.checks import ERROR, EpisodeQuality, Finding
from teleop.quality.pictures import LAGS

TEMPLATE: Final = "quality.html.j2"
THUMBNAIL: Final = 112
"""Pixels a side; about 3 kB each."""
MOST_CARDS: Final = 300
"""Episodes with thumbnails; those with findings come first."""
MAP: Final = (300, 160)
"""Pixels of a map of the table from above, the robot at the lower edge."""
MAP_MARGIN: Final = 0.06
HEAT_GRID: Final = (24, 12)
CHART: Final = (300, 120)
BINS: Final = 24
SPARK: Final = (230, 34)


@dataclass(frozen=True)
class Card:
    """One episode: its measures, pictures as data URIs, and its height and gripper over time."""

    quality: EpisodeQuality
    first: str
    last: str
    height: str
    closed: tuple[tuple[float, float], ...]
    note: str


@dataclass(frozen=True)
class TaskMap:
    """Where one task's episodes start, and where the hand went: (x, y, strength 0..1) cells."""

    task: str
    starts: tuple[tuple[float, float, int], ...]
    heat: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Histogram:
    """Bars (x, height) in pixels, and the range they cover."""

    title: str
    bars: tuple[tuple[float, float], ...]
    low: str
    high: str
    median: str


def write_page(
    path: Path,
    dataset: DemonstrationDataset,
    qualities: Sequence[EpisodeQuality],
    found: Sequence[Finding],
    summary: Mapping[str, Any],
) -> None:
    """Write the page, whole or not at all."""
    by_number = {q.number: q for q in qualities}
    episodes = [e for e in dataset if e.header.number in by_number]
    order = sorted(episodes, key=lambda e: _worst_first(by_number[e.header.number]))
    cards = [_card(e, by_number[e.header.number]) for e in order[:MOST_CARDS]]
    tasks = [task for task in TASKS if any(q.task == task for q in qualities)]
    tasks += sorted({q.task for q in qualities} - set(tasks))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words=lambda name: name.replace("_", " "))
    page = environment.get_template(TEMPLATE).render(
        name=dataset.directory.name,
        summary=summary,
        tasks=tasks,
        objects=OBJECTS,
        findings=_grouped(found),
        flagged=[c for c in cards if c.quality.findings],
        clean=[c for c in cards if not c.quality.findings],
        without_card=len(qualities) - len(cards),
        maps=[_task_map(task, [e for e in episodes if e.header.task == task]) for task in tasks],
        map=MAP,
        heat_cell=(MAP[0] / HEAT_GRID[0], MAP[1] / HEAT_GRID[1]),
        histograms=_histograms(qualities),
        chart=CHART,
        lag=_lag_chart(qualities),
        spark=SPARK,
        streams=_stream_rows(qualities),
        written=datetime.now().strftime("%-d %B %Y, %H:%M"),
    )
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _worst_first(q: EpisodeQuality) -> tuple[int, int, int]:
    errors = sum(f.severity == ERROR for f in q.findings)
    return -errors, -len(q.findings), q.number


def _grouped(found: Sequence[Finding]) -> list[tuple[str, str, int, list[Finding]]]:
    """Check, severity, count and the first findings of each kind; errors first."""
    kinds = Counter((f.severity, f.check) for f in found)
    return [
        (check, severity, count, [f for f in found if (f.severity, f.check) == (severity, check)])
        for (severity, check), count in sorted(kinds.items())
    ]


def _card(episode: Episode, quality: EpisodeQuality) -> Card:
    camera = "front" if "front" in episode.cameras else episode.cameras[0]
    count = len(episode.camera_stamps(camera))
    pictures = [_thumbnail(episode, camera, i) for i in (0, count - 1)] if count else ["", ""]
    times = episode.state_times
    across = (times - times[0]) / max(float(times[-1] - times[0]), 1e-9) * SPARK[0]
    height = episode.states["pose"][:, 2]
    down = SPARK[1] - 2 - np.clip(height / 0.4, 0.0, 1.0) * (SPARK[1] - 4)
    pick = np.unique(np.linspace(0, len(times) - 1, 80).astype(int))
    line = " ".join(f"{x:.0f},{y:.1f}" for x, y in zip(across[pick], down[pick], strict=True))
    note = episode.outcome.note
    return Card(quality, pictures[0], pictures[1], line, _closed(episode), note)


def _closed(episode: Episode) -> tuple[tuple[float, float], ...]:
    """Start and width in pixels of the times for which the gripper is told to close."""
    times, closed = episode.command_times, episode.commands["gripper"] < 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[False], closed, [False]]).astype(int)))
    span = max(float(times[-1] - times[0]), 1e-9)
    at = (times[np.minimum(edges, len(times) - 1)] - times[0]) / span * SPARK[0]
    pairs = at.reshape(-1, 2)
    return tuple((round(float(a), 1), round(float(b - a), 1)) for a, b in pairs)


def _thumbnail(episode: Episode, camera: str, index: int) -> str:
    image = Image.fromarray(jpeg.decode(episode.pictures(camera).jpeg(index)))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _on_map(x: Vector, y: Vector) -> tuple[Vector, Vector]:
    """Pixels of positions [m]: x upwards and, as in the base frame, y to the left."""
    (x0, x1), (y0, y1) = TABLE_X, TABLE_Y
    x0, x1, y0, y1 = x0 - MAP_MARGIN, x1 + MAP_MARGIN, y0 - MAP_MARGIN, y1 + MAP_MARGIN
    return (y1 - y) / (y1 - y0) * MAP[0], (x1 - x) / (x1 - x0) * MAP[1]


def _task_map(task: str, episodes: Sequence[Episode]) -> TaskMap:
    starts = []
    for episode in episodes:
        at = episode.header.start.get("objects", {}).get(episode.header.object)
        if at is not None:
            across, down = _on_map(np.array(at[0]), np.array(at[1]))
            colour = OBJECTS.index(episode.header.object) if episode.header.object in OBJECTS else 0
            starts.append((round(float(across), 1), round(float(down), 1), colour))
    positions = np.concatenate([e.states["pose"][::5, :2] for e in episodes])
    across, down = _on_map(positions[:, 0], positions[:, 1])
    counts, _, _ = np.histogram2d(across, down, bins=HEAT_GRID, range=((0, MAP[0]), (0, MAP[1])))
    strength = np.sqrt(counts / max(counts.max(), 1.0))
    cells = [
        (round(i * MAP[0] / HEAT_GRID[0], 1), round(j * MAP[1] / HEAT_GRID[1], 1), round(s, 2))
        for (i, j), s in np.ndenumerate(strength)
        if s > 0.02
    ]
    return TaskMap(task, tuple(starts), tuple(cells))


def _histograms(qualities: Sequence[EpisodeQuality]) -> list[Histogram]:
    columns = {
        "Duration [s]": [q.motion.duration for q in qualities],
        "Path of the hand [m]": [q.motion.path_length for q in qualities],
        "Time at rest [%]": [100 * q.motion.idle_ratio for q in qualities],
        "Target changed, last picture [%]": [
            100 * q.final.reached_target for q in qualities if q.final is not None
        ],
        "Lost by FAST [mm]": [q.codec.position_mm for q in qualities if q.codec is not None],
    }
    return [_histogram(title, np.array(v)) for title, v in columns.items() if v]


def _histogram(title: str, values: Vector) -> Histogram:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values, BINS, (low, high))
    tallest = max(int(counts.max()), 1)
    bars = tuple(
        (round(i * CHART[0] / BINS, 1), round(c / tallest * (CHART[1] - 8), 1))
        for i, c in enumerate(counts.tolist())
    )
    return Histogram(title, bars, f"{low:.3g}", f"{high:.3g}", f"{np.median(values):.3g}")


def _lag_chart(qualities: Sequence[EpisodeQuality]) -> list[tuple[str, str]]:
    """For each camera, the mean correlation of pictures and motion over the offset, as a line."""
    curves: dict[str, list[Vector]] = {}
    for q in qualities:
        for camera in q.cameras:
            if not np.isnan(camera.lag_curve).any():
                curves.setdefault(camera.camera, []).append(camera.lag_curve)
    across = (LAGS - LAGS[0]) / (LAGS[-1] - LAGS[0]) * CHART[0]
    lines = []
    for name, found in curves.items():
        mean = np.clip(np.mean(found, axis=0), -0.2, 1.0)
        down = CHART[1] - (mean + 0.2) / 1.2 * CHART[1]
        points = zip(across, down, strict=True)
        lines.append((name, " ".join(f"{x:.0f},{y:.1f}" for x, y in points)))
    return lines


def _stream_rows(qualities: Sequence[EpisodeQuality]) -> list[dict[str, Any]]:
    """Timing of each stream over all episodes."""
    rows = []
    for topic in dict.fromkeys(s.topic for q in qualities for s in q.streams):
        streams = [s for q in qualities for s in q.streams if s.topic == topic]
        present = [s for s in streams if s.count]
        rows.append(
            {
                "topic": topic,
                "messages": sum(s.count for s in streams),
                "rate": 1.0 / np.median([s.period for s in present]) if present else 0.0,
                "dropped": sum(s.dropped for s in streams),
                "gap": max((s.longest_gap for s in present), default=0.0),
                "delay": 1000 * float(np.median([s.delay for s in present])) if present else 0.0,
                "drift": 1000 * max((abs(s.drift) for s in present), default=0.0),
            }
        )
    return rows
