"""The bench's page: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roboalign import bench_metrics
from roboalign.bench_figures import WHOLE_WAY, Measured, stage_medians
from roboalign.bench_metrics import SetpointStream

TEMPLATE = "bench.html.j2"
FIRST_STAGE = "picture_to_observation"
ROUND_TRIP = "round_trip"
STAGE_WORDS = {
    FIRST_STAGE: "picture to observation",
    "queue": "wait for the server",
    ROUND_TRIP: "request to answer",
    "arm_transport": "to the arm node",
    "arm_queue": "until it is followed",
    WHOLE_WAY: "picture to setpoint",
}
"""`round_trip` holds the server's stages and what was injected; the last one holds all."""
MODE_WORDS = {
    "synchronous": "synchronous",
    "realtime_chunking": "real-time chunking",
    "temporal_ensembling": "temporal ensembling",
    "asynchronous": "asynchronous",
}
CHART_WIDTH, CHART_HEIGHT = 720, 120
CHART_SECONDS = 8.0
SMOOTHED_SETPOINTS = 5


@dataclass(frozen=True)
class SpeedTrace:
    """Speed [m/s] of the setpoints over time [s] since the first, and when chunks changed."""

    times: Sequence[float]
    speeds: Sequence[float]
    changes: Sequence[float]

    @classmethod
    def of(cls, stream: SetpointStream) -> SpeedTrace:
        """Of the setpoints from the first that follows a chunk on."""
        if not len(stream.times):
            return cls([], [], [])
        times, speeds = bench_metrics.speeds(stream)
        start = float(stream.times[0])
        if len(speeds) >= SMOOTHED_SETPOINTS:
            kernel = np.ones(SMOOTHED_SETPOINTS) / SMOOTHED_SETPOINTS
            speeds = np.convolve(speeds, kernel, mode="same")
        changed = [float(stream.times[new]) - start for _, new in bench_metrics.changes(stream)]
        return cls((times - start).tolist(), speeds.tolist(), changed)


@dataclass(frozen=True)
class Chart:
    """A speed trace in pixels of CHART_WIDTH x CHART_HEIGHT."""

    label: str
    points: str
    changes: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """One stage: `start` and `share` in per cent of the longest way."""

    label: str
    text: str
    start: float
    share: float
    total: bool


def render(
    content: Mapping[str, Any],
    verdicts: Sequence[Mapping[str, Any]],
    trials: Sequence[Measured],
    traces: Mapping[str, SpeedTrace],
    written: datetime,
) -> str:
    """The page as HTML; `content` is that of bench.json."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    top = max((max(t.speeds, default=0.0) for t in traces.values()), default=0.0) or 1.0
    return environment.get_template(TEMPLATE).render(
        content=content,
        verdicts=verdicts,
        mode_words=MODE_WORDS,
        charts=[_chart(MODE_WORDS[mode], trace, top) for mode, trace in traces.items()],
        chart=(CHART_WIDTH, CHART_HEIGHT, CHART_SECONDS, round(top, 2)),
        stages={key: stage_bars(times) for key, times in _stages(trials).items()},
        written=written.strftime("%-d %B %Y, %H:%M"),
    )


def stage_bars(medians: Mapping[str, float]) -> list[Bar]:
    """Stages on one time line, each where the ones before it end."""
    order = [FIRST_STAGE, *(s for s in medians if s not in STAGE_WORDS or s == "queue")]
    order += [ROUND_TRIP, "publish", "arm_transport", "arm_queue", WHOLE_WAY]
    known = [stage for stage in dict.fromkeys(order) if stage in medians]
    width = max(medians.values(), default=0.0) or 1.0
    bars, now = [], 0.0
    for stage in known:
        length = medians[stage]
        start = {WHOLE_WAY: 0.0, ROUND_TRIP: medians.get(FIRST_STAGE, 0.0)}.get(stage, now)
        now = start + length
        bars.append(
            Bar(
                STAGE_WORDS.get(stage, stage.replace("_", " ")),
                f"{length:.1f} ms",
                min(100.0, 100.0 * start / width),
                100.0 * length / width,
                stage in (ROUND_TRIP, WHOLE_WAY),
            )
        )
    return bars


def _stages(trials: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Medians by what was run: mode and injected latency."""
    keys = dict.fromkeys((t.outcome.trial.delay_ms, t.outcome.trial.mode) for t in trials)
    return {
        f"{MODE_WORDS[mode]}, {delay} ms injected": stage_medians(
            [t for t in trials if (t.outcome.trial.delay_ms, t.outcome.trial.mode) == (delay, mode)]
        )
        for delay, mode in sorted(keys)
    }


def _chart(label: str, trace: SpeedTrace, top: float) -> Chart:
    shown = [(t, v) for t, v in zip(trace.times, trace.speeds, strict=True) if t <= CHART_SECONDS]
    across, up = CHART_WIDTH / CHART_SECONDS, CHART_HEIGHT / top
    points = " ".join(f"{across * t:.1f},{CHART_HEIGHT - up * v:.1f}" for t, v in shown)
    changes = [round(across * t, 1) for t in trace.changes if t <= CHART_SECONDS]
    return Chart(label, points, changes)
