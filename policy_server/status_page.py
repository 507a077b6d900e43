"""The status page: what serves, how fast, and what was refused, drawn without scripts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import numpy as np

from policy_server.metrics import OK, STAGES, ServerMetrics
from policy_server.refusal import MEANINGS, Reason

TEMPLATE = Template((Path(__file__).parent / "status.html").read_text(encoding="utf-8"))
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 220, 44, 24
Times = Sequence[tuple[float, Mapping[str, float]]]


def render(metrics: ServerMetrics) -> str:
    """The whole page."""
    state, recent = metrics.gauges(), list(metrics.recent)
    totals = np.array([times["total"] for _, times in recent])
    p50, p99 = np.percentile(totals, [50, 99]) if len(totals) else (0.0, 0.0)
    word = "stopping" if state.draining else "ready" if state.ready else "warming up"
    facts = {
        "answered": f"{metrics.outcomes[OK]}",
        "refused": f"{metrics.outcomes.total() - metrics.outcomes[OK]}",
        "waiting": f"{state.queue}",
        "clients": f"{state.connections}",
        "p50": f"{p50:.1f} ms" if recent else "–",
        "p99": f"{p99:.1f} ms" if recent else "–",
    }
    return TEMPLATE.substitute(
        policy=html.escape(state.policy),
        bundle=html.escape(state.bundle_hash[:12]),
        state=word,
        state_class=word.replace(" ", "-"),
        facts="".join(f"<div><b>{value}</b>{name}</div>" for name, value in facts.items()),
        latency=latency_plot(recent),
        stages=stage_table(recent),
        refusals=refusal_table(metrics.outcomes),
    )


def latency_plot(recent: Times) -> str:
    """SVG of each answer's total time over the moments when they were given."""
    if len(recent) < 2:
        return "<p>No answers yet.</p>"
    moments = np.array([moment for moment, _ in recent])
    totals = np.array([times["total"] for _, times in recent])
    span = max(moments[-1] - moments[0], 1e-3)
    top = nice_ceiling(float(np.percentile(totals, 99.5)) * 1.15)
    x = LEFT + (moments - moments[0]) / span * (WIDTH - LEFT - 8)
    y = (HEIGHT - BOTTOM) - np.clip(totals / top, 0.0, 1.0) * (HEIGHT - BOTTOM - 8)
    points = zip(x, y, strict=True)
    dots = "".join(f"<circle cx='{a:.1f}' cy='{b:.1f}' r='1.6'/>" for a, b in points)
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        height = (HEIGHT - BOTTOM) - share * (HEIGHT - BOTTOM - 8)
        lines.append(
            f"<line x1='{LEFT}' x2='{WIDTH - 8}' y1='{height:.1f}' y2='{height:.1f}'/>"
            f"<text x='{LEFT - 6}' y='{height + 4:.1f}' class='end'>{share * top:g}</text>"
        )
    lines.append(f"<text x='{LEFT}' y='{HEIGHT - 6}'>{span:.0f} s ago</text>")
    lines.append(f"<text x='{WIDTH - 8}' y='{HEIGHT - 6}' class='end'>last answer</text>")
    for percent in (50, 99):
        value = float(np.percentile(totals, percent))
        height = (HEIGHT - BOTTOM) - min(value / top, 1.0) * (HEIGHT - BOTTOM - 8)
        lines.append(
            f"<line class='p{percent}' x1='{LEFT}' x2='{WIDTH - 8}' "
            f"y1='{height:.1f}' y2='{height:.1f}'/>"
            f"<text x='{WIDTH - 10}' y='{height - 4:.1f}' class='end'>p{percent}</text>"
        )
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='latency of the last {len(recent)} answers in milliseconds'>"
        f"{''.join(lines)}<g class='dots'>{dots}</g></svg>"
    )


def stage_table(recent: Times) -> str:
    """A row for each stage: median and 99th percentile [ms], and a bar of the median."""
    rows = []
    medians = {
        stage: np.percentile([times.get(stage, 0.0) for _, times in recent], [50, 99])
        for stage in STAGES
        if recent
    }
    longest = max((float(values[0]) for values in medians.values()), default=1.0) or 1.0
    for stage, (p50, p99) in medians.items():
        rows.append(
            f"<tr><th>{stage}</th><td>{p50:.2f}</td><td>{p99:.2f}</td>"
            f"<td class='bar'><svg viewBox='0 0 100 8' preserveAspectRatio='none'>"
            f"<rect width='{100 * p50 / longest:.1f}' height='8'/></svg></td></tr>"
        )
    return "".join(rows) or "<tr><td>–</td></tr>"


def refusal_table(outcomes: Mapping[str, int]) -> str:
    """A row for each reason code that was given."""
    rows = [
        f"<tr><th>{reason}</th><td>{outcomes[reason]}</td><td>{MEANINGS[reason].text}</td></tr>"
        for reason in Reason
        if outcomes.get(reason)
    ]
    return "".join(rows) or "<tr><td>none</td></tr>"


def nice_ceiling(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten, so that the axis has round numbers."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-3)))
    return float(next(n * power for n in (1, 2, 5, 10) if n * power >= value * 0.999))
