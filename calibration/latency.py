"""The delay between two recordings of one motion, by cross-correlation, with its interval.

Method: the sparser recording keeps its own samples; the denser one is interpolated at them, shifted
by each lag of a grid. The peak of the normalised correlation is found between grid points with a
parabola, and its spread by a bootstrap over blocks of time (Kuensch 1989), because neighbouring
samples are not independent. UMI (Chi et al. 2024, appendix A) measures its latencies the same way.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from contracts.geometry import Vector

FEWEST_SAMPLES: Final = 30
FEWEST_BLOCKS: Final = 6
PEAK_HALF_WIDTH: Final = 0.15
"""Seconds around the peak that do not count as a second peak."""
SECOND_PEAK: Final = 0.98
"""A second peak of this share of the first makes the delay ambiguous."""


class LatencyError(ValueError):
    """The recordings do not tell the delay; the text says why and what to do."""


@dataclass(frozen=True)
class Signal:
    """A motion: stamps (n,) [s], rising; values (n,) or (n, d), one row a stamp."""

    name: str
    stamps: Vector
    values: Vector

    def __post_init__(self) -> None:
        """Raises LatencyError: too few samples, values or stamps that cannot be used."""
        stamps = np.asarray(self.stamps, dtype=np.float64)
        values = np.asarray(self.values, dtype=np.float64)
        values = values[:, None] if values.ndim == 1 else values
        if stamps.ndim != 1 or values.ndim != 2 or len(stamps) != len(values):
            raise LatencyError(
                f"{self.name}: {values.shape} values for {stamps.shape} stamps; one row a stamp"
            )
        if len(stamps) < FEWEST_SAMPLES:
            raise LatencyError(
                f"{self.name}: {len(stamps)} samples, at least {FEWEST_SAMPLES} are needed; "
                "record longer, or look why so few arrive"
            )
        if not (np.isfinite(stamps).all() and np.isfinite(values).all()):
            count = int((~np.isfinite(values)).any(axis=1).sum() + (~np.isfinite(stamps)).sum())
            raise LatencyError(f"{self.name}: {count} samples are not finite numbers (NaN)")
        if (np.diff(stamps) <= 0.0).any():
            raise LatencyError(f"{self.name}: the stamps do not rise; is its clock being set?")
        object.__setattr__(self, "stamps", stamps)
        object.__setattr__(self, "values", values)

    @property
    def period(self) -> float:
        """Mean time [s] between two samples."""
        return float((self.stamps[-1] - self.stamps[0]) / (len(self.stamps) - 1))


@dataclass(frozen=True)
class DelaySearch:
    """Where to look, and what the recordings must show.

    lowest, highest: range of delays [s]; step: the grid's [s]. block: seconds a bootstrap block.
    least_motion: standard deviation that both motions must have, in their own units.
    either_sign: the two may count their axis in opposite directions.
    """

    lowest: float = -0.1
    highest: float = 0.5
    step: float = 0.002
    block: float = 0.8
    resamples: int = 600
    least_motion: float = 0.005
    least_correlation: float = 0.95
    either_sign: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lowest < self.highest or self.step <= 0.0 or self.block <= 0.0:
            raise ValueError("delay search: needs lowest < highest, and positive step and block")

    @property
    def lags(self) -> Vector:
        return np.arange(self.lowest, self.highest + self.step / 2, self.step)


@dataclass(frozen=True)
class Delay:
    """Delay [s] with its 95 % interval, and the correlation (0..1) at the peak."""

    seconds: float
    low: float
    high: float
    correlation: float

    def plus(self, other: Delay) -> Delay:
        """Sum of two delays that were measured independently."""
        return self._combined(self.seconds + other.seconds, other)

    def minus(self, other: Delay) -> Delay:
        """Difference of two delays that were measured independently."""
        return self._combined(self.seconds - other.seconds, other)

    def _combined(self, seconds: float, other: Delay) -> Delay:
        half = np.hypot(self.high - self.low, other.high - other.low) / 2
        correlation = min(self.correlation, other.correlation)
        return Delay(seconds, seconds - float(half), seconds + float(half), correlation)


def along_motion(positions: ArrayLike) -> Vector:
    """Positions (n, d) along their direction of largest spread, (n,); its sign is arbitrary.

    For motions on a line that two frames see in different directions.
    """
    points = np.asarray(positions, dtype=np.float64)
    centred = points - points.mean(axis=0)
    if not np.isfinite(centred).all():
        return np.asarray(centred[:, 0] * np.nan)  # Signal refuses it by its name
    return np.asarray(centred @ np.linalg.svd(centred, full_matrices=False)[2][0])


def estimate_delay(reference: Signal, delayed: Signal, search: DelaySearch | None = None) -> Delay:
    """By how much `delayed` shows the motion later than `reference`.

    Raises:
        LatencyError: clocks apart, too little motion, motions that do not belong together, or a
            motion that repeats itself; the text says which.
    """
    search = search or DelaySearch()
    for signal in (reference, delayed):
        _check_motion(signal, search)
    _check_clocks(reference, delayed, search)
    blocks = _block_sums(reference, delayed, search)
    curve = _correlation(blocks.sum(axis=0), search.either_sign)
    _check_peak(curve, reference, delayed, search)
    seconds = float(_peak(curve[None], search)[0])
    weights = np.random.default_rng(search.seed).multinomial(
        len(blocks), np.full(len(blocks), 1.0 / len(blocks)), size=search.resamples
    )
    resampled = np.tensordot(weights, blocks, axes=1)
    peaks = _peak(_correlation(resampled, search.either_sign), search)
    # The spread of few blocks is underestimated by this factor.
    spread = (peaks - np.median(peaks)) * np.sqrt(len(blocks) / (len(blocks) - 1))
    low, high = np.quantile(spread, [0.025, 0.975])
    return Delay(seconds, seconds + float(low), seconds + float(high), float(curve.max()))


def best_correlation(reference: Signal, delayed: Signal, search: DelaySearch) -> float:
    """How alike the two are at the best delay in the range, -1..1, however little that is.

    Raises:
        LatencyError: too little motion, or clocks apart.
    """
    for signal in (reference, delayed):
        _check_motion(signal, search)
    _check_clocks(reference, delayed, search)
    curve = _correlation(_block_sums(reference, delayed, search).sum(axis=0), search.either_sign)
    top = int(np.argmax(curve))
    if top in (0, len(curve) - 1):
        return float(curve[top])
    before, peak, after = curve[top - 1 : top + 2].tolist()
    bend = before - 2 * peak + after
    # The height of the parabola through the three.
    return float(peak - (before - after) ** 2 / (8 * bend) if bend < 0.0 else peak)


def _check_motion(signal: Signal, search: DelaySearch) -> None:
    motion = float(np.sqrt(signal.values.var(axis=0).sum()))
    if motion < search.least_motion:
        raise LatencyError(
            f"{signal.name}: too little motion to correlate: it spreads by {motion:.2g}, "
            f"at least {search.least_motion:.2g} is needed; did it move at all?"
        )


def _check_clocks(reference: Signal, delayed: Signal, search: DelaySearch) -> None:
    begin = max(reference.stamps[0], delayed.stamps[0])
    overlap = min(reference.stamps[-1], delayed.stamps[-1]) - begin
    needed = search.highest - search.lowest + FEWEST_BLOCKS * search.block
    if overlap < needed:
        apart = delayed.stamps[0] - reference.stamps[0]
        raise LatencyError(
            f"{reference.name} and {delayed.name} share {max(overlap, 0.0):.1f} s, "
            f"{needed:.1f} s are needed. They begin {apart:+.1f} s apart: if they were recorded "
            "together, their clocks are apart; set both by the same time server"
        )


def _block_sums(reference: Signal, delayed: Signal, search: DelaySearch) -> Vector:
    """For each block of time, lag and kind: n, then per axis sums x, y, xx, yy, xy; axes summed up
    where that is exact: shape (blocks, lags, 1 + 2 d + 3)."""
    lags = search.lags
    # delayed(t) is reference(t - lag), so reference(t) is delayed(t + lag).
    sparse, dense, sign = (
        (delayed, reference, -1.0)
        if delayed.period >= reference.period
        else (reference, delayed, 1.0)
    )
    first = dense.stamps[0] - min(sign * lags[0], sign * lags[-1])
    last = dense.stamps[-1] - max(sign * lags[0], sign * lags[-1])
    inside = (sparse.stamps >= first) & (sparse.stamps <= last)
    stamps, x = sparse.stamps[inside], sparse.values[inside]
    count = int((stamps[-1] - stamps[0]) / search.block) if len(stamps) > 1 else 0
    if count < FEWEST_BLOCKS or len(stamps) < FEWEST_SAMPLES:
        raise LatencyError(
            f"{reference.name} and {delayed.name}: too short, only {len(stamps)} samples of "
            f"{sparse.name} can be compared; record longer"
        )
    # Centred once: sums of squares of large numbers would lose their digits.
    x = x - x.mean(axis=0)
    spline = CubicSpline(dense.stamps, dense.values - dense.values.mean(axis=0))
    y = spline(stamps[:, None] + sign * lags[None])  # (n, lags, d)
    x = np.broadcast_to(x[:, None, :], y.shape)
    ones = np.ones((*y.shape[:2], 1))
    squares = np.stack([(x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)], axis=-1)
    terms = np.concatenate([ones, x, y, squares], axis=-1)
    span = np.linspace(stamps[0], stamps[-1], count + 1)
    edges = np.searchsorted(stamps, span[:-1])
    return np.asarray(np.add.reduceat(terms, edges, axis=0))


def _correlation(sums: Vector, either_sign: bool) -> Vector:
    """Normalised correlation (..., lags) from sums (..., lags, 1 + 2 d + 3)."""
    axes = (sums.shape[-1] - 4) // 2
    n = sums[..., 0]
    mean_x, mean_y = sums[..., 1 : 1 + axes], sums[..., 1 + axes : 1 + 2 * axes]
    xx, yy, xy = (sums[..., 1 + 2 * axes + i] for i in range(3))
    var_x = xx - (mean_x**2).sum(-1) / n
    var_y = yy - (mean_y**2).sum(-1) / n
    covariance = xy - (mean_x * mean_y).sum(-1) / n
    curve = covariance / np.sqrt(np.maximum(var_x * var_y, 1e-300))
    return np.asarray(np.abs(curve) if either_sign else curve)


def _peak(curves: Vector, search: DelaySearch) -> Vector:
    """Lag (n,) of each curve's highest point, between the grid's points by a parabola."""
    top = np.clip(np.argmax(curves, axis=1), 1, curves.shape[1] - 2)
    rows = np.arange(len(curves))
    before, peak, after = (curves[rows, top + i] for i in (-1, 0, 1))
    bend = before - 2 * peak + after
    shift = np.where(bend < 0.0, 0.5 * (before - after) / np.minimum(bend, -1e-300), 0.0)
    return np.asarray(search.lags[top] + np.clip(shift, -1.0, 1.0) * search.step)


def _check_peak(curve: Vector, reference: Signal, delayed: Signal, search: DelaySearch) -> None:
    names = f"{reference.name} and {delayed.name}"
    top, lags = int(np.argmax(curve)), search.lags
    if curve[top] < search.least_correlation:
        raise LatencyError(
            f"{names}: the best correlation is {curve[top]:.2f}, below "
            f"{search.least_correlation:g}: they do not show the same motion, or too noisily"
        )
    if top in (0, len(curve) - 1):
        raise LatencyError(
            f"{names}: the delay lies outside {search.lowest:g}..{search.highest:g} s; "
            "are their clocks apart?"
        )
    far = np.abs(lags - lags[top]) > PEAK_HALF_WIDTH
    inner = np.r_[False, (curve[1:-1] >= curve[:-2]) & (curve[1:-1] >= curve[2:]), False]
    second = curve[far & inner]
    if len(second) and second.max() > SECOND_PEAK * curve[top]:
        raise LatencyError(f"{names}: the motion repeats itself, the delay is ambiguous")


if __name__ == "__main__":
    from calibration.latency_command import main

    sys.exit(main())
