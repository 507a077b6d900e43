"""The page of a latency measurement: each pair of motions, as recorded and moved together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from calibration.latency import Delay, Signal
from calibration.latency_recording import LatencyRecording
from contracts.geometry import Vector

TEMPLATE: Final = "latency_page.html.j2"
WIDTH: Final = 640
HEIGHT: Final = 150
MARGIN: Final = 8
WINDOW: Final = 4.0
"""Seconds that are drawn: delays of some hundredths must show."""
MEANINGS: Final = {
    "camera": "from the moment that a picture shows to its stamp",
    "robot_observation": "from the moment of a robot state to its stamp",
    "robot_action": "from sending a setpoint until the arm is there",
    "gripper": "from sending a command until the fingers move, beyond their own speed",
}


@dataclass(frozen=True)
class Chart:
    """Two motions and the second one moved back, as SVG points; labels for the first two."""

    name: str
    meaning: str
    delay: Delay
    first: str
    second: str
    first_line: str
    second_line: str
    aligned_line: str


def render_page(recording: LatencyRecording, delays: Mapping[str, Delay], what: str) -> str:
    """The page as HTML, whole in itself; `what` names the set-up."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        charts=charts(recording, delays),
        what=what,
        width=WIDTH,
        height=HEIGHT,
        window=WINDOW,
        longest=max(delay.high for delay in delays.values()),
        written=datetime.now().strftime("%-d %B %Y, %H:%M"),
    )


def charts(recording: LatencyRecording, delays: Mapping[str, Delay]) -> list[Chart]:
    """One chart a latency, in the order of `delays`."""
    r = recording
    steps = _staircase(r)
    # What lies between the two motions of a pair, which is not always the latency itself.
    camera, observation = delays["camera"].seconds, delays["robot_observation"].seconds
    pairs = {
        "camera": (r.reference, r.seen_reference, camera),
        "robot_observation": (r.seen_arm, r.arm, observation - camera),
        "robot_action": (r.commanded, r.arm, delays["robot_action"].seconds + observation),
        "gripper": (steps, r.width, delays["gripper"].seconds),
    }
    return [_chart(name, delays[name], *pairs[name]) for name in delays]


def _staircase(recording: LatencyRecording) -> Signal:
    """The commanded widths as they hold."""
    commands, until = recording.hand_commands, float(recording.width.stamps[-1])
    grid = np.arange(commands.stamps[0] - 1.0, until, 0.005)
    widths = np.concatenate([[commands.start], commands.widths])
    return Signal("commands", grid, widths[np.searchsorted(commands.stamps, grid, side="right")])


def _chart(name: str, delay: Delay, first: Signal, second: Signal, between: float) -> Chart:
    begin = 0.5 * (
        max(first.stamps[0], second.stamps[0]) + min(first.stamps[-1], second.stamps[-1])
    )
    begin -= WINDOW / 2
    a, b = _scaled(first), _scaled(second)
    back = second.stamps - between
    # Frames may count the direction of motion the other way round.
    if a @ np.interp(first.stamps, back, b) < 0.0:
        b = -b
    return Chart(
        name=name,
        meaning=MEANINGS[name],
        delay=delay,
        first=first.name,
        second=second.name,
        first_line=_points(first.stamps - begin, a),
        second_line=_points(second.stamps - begin, b),
        aligned_line=_points(back - begin, b),
    )


def _scaled(signal: Signal) -> Vector:
    """The signal's first axis in units of its largest deviation."""
    values = signal.values[:, 0] - signal.values[:, 0].mean()
    return np.asarray(values / np.abs(values).max())


def _points(seconds: Vector, values: Vector) -> str:
    inside = (seconds >= 0.0) & (seconds <= WINDOW)
    x = seconds[inside] / WINDOW * WIDTH
    y = HEIGHT / 2 - values[inside] * (HEIGHT / 2 - MARGIN)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
