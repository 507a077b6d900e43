"""How smooth a recorded stream of setpoints is, and what trials of two modes tell. Pure.

A recording holds what the arm's tracker was told, one row a tick of the control loop, and the
chunks that it was told from. Positions are the setpoint's end effector's [m]; times are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from contracts.geometry import Vector

AGREES_M = 5e-4
"""Distance [m] up to which a new chunk's waypoint lies on the old one's path."""


@dataclass(frozen=True)
class ChunkTrace:
    """A chunk as it went to the arm: its waypoints' times `due` (horizon,) and `positions`
    (horizon, 3).
    """

    chunk_id: str
    time_step: float
    due: Vector
    positions: Vector


@dataclass(frozen=True)
class SetpointStream:
    """times (n,), positions (n, 3), chunk_ids (n,): empty where the arm was told to stand still."""

    times: Vector
    positions: Vector
    chunk_ids: Sequence[str]

    def __post_init__(self) -> None:
        count = len(self.times)
        if self.positions.shape != (count, 3) or len(self.chunk_ids) != count:
            raise ValueError(
                f"{count} times, positions {self.positions.shape}, {len(self.chunk_ids)} chunk ids"
            )

    def following(self) -> SetpointStream:
        """From the first setpoint that follows a chunk to the last."""
        rows = np.flatnonzero([bool(name) for name in self.chunk_ids])
        if not len(rows):
            return SetpointStream(self.times[:0], self.positions[:0], [])
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        return SetpointStream(self.times[part], self.positions[part], self.chunk_ids[part])


def changes(stream: SetpointStream) -> list[tuple[int, int]]:
    """Rows (last of the old chunk, first of the new one) of every change of chunk."""
    found, last = [], -1
    for row, name in enumerate(stream.chunk_ids):
        if not name:
            continue
        if last >= 0 and name != stream.chunk_ids[last]:
            found.append((last, row))
        last = row
    return found


def standstills(stream: SetpointStream, period: float) -> list[float]:
    """For how long [s] nothing was followed at each change of chunk; 0 where motion went on.

    `period` [s] is the control loop's: a change without standstill takes one.
    """
    return [
        max(0.0, float(stream.times[new] - stream.times[old]) - period) if new > old + 1 else 0.0
        for old, new in changes(stream)
    ]


def velocity_jumps(
    stream: SetpointStream, chunks: Sequence[ChunkTrace]
) -> tuple[list[float], list[float]]:
    """Changes of velocity [m/s]: at boundaries of chunks, and at the waypoints within chunks.

    A boundary is where a chunk leaves the path of the one before: when it takes over, or at the
    last of its waypoints that still lies on the old path. The change at a moment is between the
    mean velocities of half a time step before and after it. At any moment within a chunk that span
    holds one waypoint, where the path bends as the policy wants it; a boundary adds what the two
    chunks disagree on. Boundaries with a standstill are left out: there is no motion to break.
    """
    known = {chunk.chunk_id: chunk for chunk in chunks}
    boundaries = []
    for last, first in changes(stream):
        old, new = known.get(stream.chunk_ids[last]), known.get(stream.chunk_ids[first])
        if first == last + 1 and old is not None and new is not None:
            boundaries.append((departure(old, new, float(stream.times[first])), new.time_step))
    moments = np.array([moment for moment, _ in boundaries])
    within = []
    for name, rows in _rows_by_chunk(stream).items():
        chunk = known.get(name)
        if chunk is None:
            continue
        begin, end, half = stream.times[rows[0]], stream.times[rows[-1]], 0.5 * chunk.time_step
        for due in chunk.due[(chunk.due >= begin + half) & (chunk.due <= end - half)]:
            if not len(moments) or np.abs(moments - due).min() >= half:
                within.append(_jump(stream, float(due), chunk.time_step))
    at_boundaries = [_jump(stream, moment, step) for moment, step in boundaries]
    return [j for j in at_boundaries if j is not None], [j for j in within if j is not None]


def departure(old: ChunkTrace, new: ChunkTrace, takes_over: float) -> float:
    """When [s] `new`, which takes over at `takes_over`, leaves the path of `old`."""
    path = np.stack([np.interp(new.due, old.due, axis) for axis in old.positions.T], axis=1)
    agrees = np.linalg.norm(new.positions - path, axis=1) <= AGREES_M
    moment = takes_over
    for due, same in zip(new.due, agrees, strict=True):
        if due > old.due[-1] or (due > takes_over and not same):
            break
        moment = max(moment, float(due))
    return moment


def _rows_by_chunk(stream: SetpointStream) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(stream.chunk_ids):
        if name:
            rows.setdefault(name, []).append(row)
    return rows


def _jump(stream: SetpointStream, moment: float, time_step: float) -> float | None:
    half = 0.5 * time_step
    if moment - half < stream.times[0] or moment + half > stream.times[-1]:
        return None
    before, at, after = (
        np.array([np.interp(t, stream.times, axis) for axis in stream.positions.T])
        for t in (moment - half, moment, moment + half)
    )
    return float(np.linalg.norm(after - 2.0 * at + before)) / half


def peak_jerk(stream: SetpointStream, period: float) -> float:
    """Largest third derivative [m/s3] of the setpoints, which are a `period` [s] apart by design;
    0 for fewer than four.
    """
    if len(stream.positions) < 4:
        return 0.0
    jerk = np.linalg.norm(np.diff(stream.positions, n=3, axis=0), axis=1) / period**3
    return float(jerk.max())


def speeds(stream: SetpointStream) -> tuple[Vector, Vector]:
    """Times (n-1,) and speeds (n-1,) [m/s] between setpoints."""
    steps = np.diff(stream.times)
    used = steps > 0.0
    speed = np.linalg.norm(np.diff(stream.positions, axis=0), axis=1)[used] / steps[used]
    return stream.times[1:][used], speed


def period_p99(streams: Sequence[SetpointStream]) -> float:
    """99th percentile [s] of the time between two setpoints of one trial; nan without any."""
    periods = np.concatenate([np.diff(stream.times) for stream in streams] or [np.empty(0)])
    return float(np.percentile(periods, 99)) if len(periods) else float("nan")


@dataclass(frozen=True)
class Paired:
    """Two modes on the same starts: which of them succeeded, and how long [s] each took."""

    first_success: NDArray[np.bool_]
    second_success: NDArray[np.bool_]
    first_time: Vector
    second_time: Vector

    def time_ratio(self) -> float:
        """Total time of the first over the second's, of the starts where both succeeded."""
        both = self.first_success & self.second_success
        if not both.any():
            return float("nan")
        return float(self.first_time[both].sum() / self.second_time[both].sum())

    def time_ratio_interval(self, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
        """95 % bootstrap interval of `time_ratio` over the starts; nan for fewer than two."""
        both = np.flatnonzero(self.first_success & self.second_success)
        if len(both) < 2:
            return float("nan"), float("nan")
        rows = np.random.default_rng(seed).choice(both, size=(resamples, len(both)))
        ratios = self.first_time[rows].sum(axis=1) / self.second_time[rows].sum(axis=1)
        low, high = np.percentile(ratios, [2.5, 97.5])
        return float(low), float(high)

    def p_worse(self) -> float:
        """One-sided exact McNemar test: how likely so many more losses than gains of the first are
        where neither mode is better.
        """
        losses = int((~self.first_success & self.second_success).sum())
        gains = int((self.first_success & ~self.second_success).sum())
        if losses + gains == 0:
            return 1.0
        return float(binomtest(losses, losses + gains, alternative="greater").pvalue)
