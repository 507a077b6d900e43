"""From numbers to findings: each names the check, the episode, what is wrong and how wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from contracts.geometry import Vector
from contracts.robot import FR3
from teleop import plan
from teleop.dataset import Episode
from teleop.quality.codec import CodecError, action_range, codec_error
from teleop.quality.measures import Motion, Stream, motion, streams
from teleop.quality.pictures import (
    FinalPicture,
    PictureChecks,
    best_lag,
    calibration_problems,
    check_camera,
    final_picture,
)

ERROR: Final = "error"
WARNING: Final = "warning"
HORIZON: Final = 16
TIME_STEP: Final = 0.1
"""Chunks for the codec check: as the policy predicts them."""
FEATURES: Final = ("duration", "path_length", "top_height", "idle_ratio")
"""Measures in which an episode is compared with the others of its task."""


@dataclass(frozen=True)
class Limits:
    """From where on a measure is a warning or, if given as a pair, (warning, error)."""

    idle_ratio: tuple[float, float] = (0.25, 0.6)
    idle_end_s: float = 1.5
    dropped_share: tuple[float, float] = (0.0, 0.02)
    gap_s: tuple[float, float] = (0.25, 0.5)
    ends_early_s: tuple[float, float] = (0.25, 0.5)
    delay_s: tuple[float, float] = (0.05, 0.2)
    """Difference between the streams' delays from stamp to receipt, and its drift."""
    camera_lag_s: tuple[float, float] = (0.06, 0.12)
    """Of the whole data set; one episode tells too little of it."""
    toggles: int = 6
    outlier: float = 8.0
    """Distance from the task's median in units of its spread (scaled MAD)."""
    outlier_floor: tuple[float, ...] = (0.5, 0.1, 0.03, 0.05)
    """Spreads below which FEATURES are not divided: all episodes may be nearly alike."""
    arrived: float = 0.10
    """Share of changed pixels in the target below which nothing arrived there."""
    codec_mm: float = 15.0
    coverage: float = 0.7


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `episode` is its number, None for the whole data set."""

    check: str
    severity: str
    episode: int | None
    text: str


@dataclass(frozen=True)
class EpisodeQuality:
    """All that was measured of an episode."""

    number: int
    task: str
    object: str
    label: str
    motion: Motion
    streams: tuple[Stream, ...]
    cameras: tuple[PictureChecks, ...]
    final: FinalPicture | None
    calibration: tuple[str, ...] = ()
    codec: CodecError | None = None
    findings: tuple[Finding, ...] = field(default=())


def measure(episode: Episode) -> EpisodeQuality:
    """Measure one episode.

    Raises:
        EpisodeError: it is damaged, or has no state or command.
    """
    header = episode.header
    seen = [c for c in episode.cameras if len(episode.camera_stamps(c))]
    return EpisodeQuality(
        number=header.number,
        task=header.task,
        object=header.object,
        label=episode.outcome.label,
        motion=motion(episode, FR3.linear_speed),
        streams=tuple(streams(episode)),
        cameras=tuple(check_camera(episode, camera) for camera in seen),
        final=final_picture(episode) if "front" in seen else None,
        calibration=calibration_problems(episode),
    )


def findings(quality: EpisodeQuality, limits: Limits) -> list[Finding]:
    """What is wrong with one episode by itself."""
    found = [*_motion(quality, limits), *_timing(quality, limits), *_pictures(quality, limits)]
    return [Finding(check, severity, quality.number, text) for check, severity, text in found]


_Raw = tuple[str, str, str]


def _motion(q: EpisodeQuality, limits: Limits) -> Iterator[_Raw]:
    m = q.motion
    if (severity := _severity(m.idle_ratio, limits.idle_ratio)) is not None:
        yield "idle", severity, f"the arm stands still {m.idle_ratio:.0%} of the time"
    ends = max(m.idle_start, m.idle_end)
    if ends > limits.idle_end_s:
        yield "idle", WARNING, f"{ends:.1f} s of rest at an end; --trim-idle cuts it"
    if m.command_jump > 0.0:
        yield "jump", ERROR, f"the command jumps by {1000 * m.command_jump:.0f} mm"
    if m.state_jump > 0.0:
        yield "jump", ERROR, f"the measured pose jumps by {1000 * m.state_jump:.0f} mm"
    if m.chatter:
        yield "gripper", ERROR, f"{m.chatter} gripper commands are taken back at once"
    elif m.gripper_toggles > limits.toggles:
        yield "gripper", WARNING, f"the gripper changes {m.gripper_toggles} times"


def _timing(q: EpisodeQuality, limits: Limits) -> Iterator[_Raw]:
    present = [s for s in q.streams if s.count]
    for s in q.streams:
        if not s.count:
            yield "missing", ERROR, f"nothing was recorded on {s.topic}"
            continue
        share = s.dropped / (s.count + s.dropped)
        severities = (
            _severity(share, limits.dropped_share),
            _severity(s.longest_gap - s.period, limits.gap_s),
        )
        if any(severities):
            worst = ERROR if ERROR in severities else WARNING
            text = f"{s.topic}: {s.dropped} messages are missing, longest gap {s.longest_gap:.2f} s"
            yield "dropped", worst, text
        if s.backwards:
            yield "clock", ERROR, f"{s.topic}: {s.backwards} stamps do not come after the last"
        late = max(s.starts_late, s.ends_early) - s.period
        if (severity := _severity(late, limits.ends_early_s)) is not None:
            yield "short", severity, f"{s.topic} is {late:.2f} s shorter than the arm's states"
        if (severity := _severity(abs(s.drift), limits.delay_s)) is not None:
            yield "clock", severity, f"{s.topic}: its clock drifts by {1000 * s.drift:.0f} ms"
    delays = [s.delay for s in present]
    skew = max(delays) - min(delays)
    if (severity := _severity(skew, limits.delay_s)) is not None:
        yield "clock", severity, f"the streams' clocks differ by {1000 * skew:.0f} ms"


def _pictures(q: EpisodeQuality, limits: Limits) -> Iterator[_Raw]:
    for problem in q.calibration:
        yield "calibration", ERROR, problem
    for camera in q.cameras:
        if camera.repeated:
            severity = ERROR if camera.repeated > 2 else WARNING
            yield "repeated", severity, f"{camera.camera}: {camera.repeated} pictures come twice"
    if q.final is None:
        return
    arrived = q.final.reached_target >= limits.arrived
    if q.label == "success" and not arrived:
        text = f"only {q.final.reached_target:.0%} of the target changed"
        yield "label", ERROR, f"labelled success, but the last picture shows nothing new: {text}"
    if q.label == "failure" and arrived and q.final.left_source >= limits.arrived:
        yield "label", WARNING, "labelled failure, but the object seems to be in its target"


def set_findings(
    qualities: Sequence[EpisodeQuality], cells: Sequence[tuple[str, int]], limits: Limits
) -> list[Finding]:
    """What only shows in comparison; `cells`: task and start cell of each episode."""
    return [
        *_outliers(qualities, limits),
        *_camera_clocks(qualities, limits),
        *_codec(qualities, limits),
        *_coverage(cells, limits),
    ]


def _outliers(qualities: Sequence[EpisodeQuality], limits: Limits) -> Iterator[Finding]:
    for task in dict.fromkeys(q.task for q in qualities):
        group = [q for q in qualities if q.task == task and q.label == "success"]
        if len(group) < 8:
            continue
        for name, floor in zip(FEATURES, limits.outlier_floor, strict=True):
            values = np.array([getattr(q.motion, name) for q in group])
            distances = robust_distance(values, floor)
            for q, value, distance in zip(group, values, distances, strict=True):
                if distance > limits.outlier:
                    usual = float(np.median(values))
                    text = f"{name.replace('_', ' ')} {value:.2f}, usual for {task} is {usual:.2f}"
                    yield Finding("outlier", WARNING, q.number, text)


def robust_distance(values: Vector, floor: float) -> Vector:
    """Distance of each value from the median, in scaled median absolute deviations."""
    centre = np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(values - centre))), floor)
    return np.asarray(np.abs(values - centre) / spread)


def camera_lags(qualities: Sequence[EpisodeQuality]) -> dict[str, float | None]:
    """Offset [s] of each camera's clock against the arm's, over all episodes."""
    curves: dict[str, list[Vector]] = {}
    for q in qualities:
        for camera in q.cameras:
            if not np.isnan(camera.lag_curve).any():
                curves.setdefault(camera.camera, []).append(camera.lag_curve)
    return {name: best_lag(np.mean(c, axis=0)) for name, c in curves.items()}


def _camera_clocks(qualities: Sequence[EpisodeQuality], limits: Limits) -> Iterator[Finding]:
    for camera, lag in camera_lags(qualities).items():
        if lag is None:
            continue
        severity = _severity(abs(lag), limits.camera_lag_s)
        if severity is not None:
            text = f"{camera}: its pictures follow the arm's motion with {1000 * lag:.0f} ms"
            yield Finding("clock", severity, None, text)


def _codec(qualities: Sequence[EpisodeQuality], limits: Limits) -> Iterator[Finding]:
    for q in qualities:
        if q.codec is not None and q.codec.position_mm > limits.codec_mm:
            text = f"FAST would lose {q.codec.position_mm:.1f} mm of its chunks"
            yield Finding("codec", WARNING, q.number, text)


def codec_errors(episodes: Sequence[Episode]) -> tuple[list[CodecError | None], CodecError | None]:
    """Of each episode, and of all; chunks that reach past the end are left out."""
    chunks = []
    for episode in episodes:
        first, last = episode.state_times[0], episode.command_times[-1]
        times = np.arange(first, last - HORIZON * TIME_STEP, TIME_STEP)
        chunks.append(episode.actions(times, HORIZON, TIME_STEP))
    every = np.concatenate(chunks) if chunks else np.zeros((0, HORIZON, 7))
    if not len(every):
        return [None] * len(episodes), None
    ranges = action_range(every.reshape(-1, every.shape[-1]))
    return [codec_error(c, ranges) if len(c) else None for c in chunks], codec_error(every, ranges)


def start_cells(episodes: Sequence[Episode]) -> list[tuple[str, int]]:
    """Task and start cell of every episode that says where its object was."""
    cells = []
    for episode in episodes:
        header = episode.header
        start = header.start.get("objects", {}).get(header.object)
        if start is not None:
            cells.append((header.task, plan.grid_cell(start[0], start[1])))
    return cells


def _coverage(cells: Sequence[tuple[str, int]], limits: Limits) -> Iterator[Finding]:
    for task in dict.fromkeys(task for task, _ in cells):
        mine = [cell for name, cell in cells if name == task]
        share = len(set(mine)) / min(len(mine), plan.CELLS)
        if share < limits.coverage:
            text = f"{task}: {len(mine)} episodes start in {len(set(mine))} of {plan.CELLS} cells"
            yield Finding("coverage", WARNING, None, text)


def _severity(value: float, limits: tuple[float, float]) -> str | None:
    """Severity of a value above (warning, error)."""
    if value > limits[1]:
        return ERROR
    return WARNING if value > limits[0] else None


ALL_CHECKS: Final = (
    "idle",
    "jump",
    "gripper",
    "missing",
    "dropped",
    "repeated",
    "short",
    "clock",
    "calibration",
    "label",
    "outlier",
    "codec",
    "coverage",
    "damaged",
)
