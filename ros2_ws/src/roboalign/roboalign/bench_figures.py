"""From trials to the bench's figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from roboalign import bench_metrics
from roboalign.bench_metrics import ChunkTrace, Paired, SetpointStream
from roboalign.bench_trials import Outcome
from roboalign.execution_mode import ExecutionMode

MUSTS: Mapping[str, tuple[str, float]] = {
    "rtc_over_sync_time_150ms": ("at most", 0.75),
    "standstill_ms": ("at most", 0.0),
    "boundary_jump": ("at most", 1.2),
    "setpoint_p99_over_nominal": ("at most", 1.1),
    "filter_us": ("at most", 50.0),
}
WHOLE_WAY = "picture_to_setpoint"


@dataclass(frozen=True)
class Measured:
    """What one trial showed.

    standstills_ms: one a change of chunk. jumps_at_boundaries and jumps_within: of velocity [m/s],
    see bench_metrics.velocity_jumps. peak_jerk [m/s3]. periods_ms: between setpoints. filter_us:
    the safety filter's, one a setpoint. stage_times_ms: by stage, one a chunk.
    """

    outcome: Outcome
    standstills_ms: Sequence[float]
    jumps_at_boundaries: Sequence[float]
    jumps_within: Sequence[float]
    peak_jerk: float
    periods_ms: Sequence[float]
    filter_us: Sequence[float]
    stage_times_ms: Mapping[str, Sequence[float]]

    def as_json(self) -> dict[str, Any]:
        """A line of trials.jsonl; of the setpoints only what the figures need."""
        content = asdict(self)
        for name in ("periods_ms", "filter_us"):
            values = content.pop(name)
            content[f"{name}_p50_p99"] = [_rounded(_percentile(values, p)) for p in (50, 99)]
        return content


def measure(
    outcome: Outcome,
    stream: SetpointStream,
    chunks: Sequence[ChunkTrace],
    filter_us: Sequence[float],
    stage_times_ms: Mapping[str, Sequence[float]],
    period: float,
) -> Measured:
    """Of one trial; `period` [s] is the control loop's."""
    followed = stream.following()
    at_boundaries, within = bench_metrics.velocity_jumps(followed, chunks)
    return Measured(
        outcome=outcome,
        standstills_ms=[1e3 * s for s in bench_metrics.standstills(followed, period)],
        jumps_at_boundaries=at_boundaries,
        jumps_within=within,
        peak_jerk=bench_metrics.peak_jerk(followed, period),
        periods_ms=(1e3 * np.diff(followed.times)).tolist(),
        filter_us=list(filter_us),
        stage_times_ms={stage: list(times) for stage, times in stage_times_ms.items()},
    )


def figures(
    trials: Sequence[Measured], paired_delay_ms: int, period: float
) -> dict[str, float | int | None]:
    """The figures by their JSON names; None for one that these trials do not tell."""
    sync = _of(trials, ExecutionMode.SYNCHRONOUS, paired_delay_ms)
    rtc = _of(trials, ExecutionMode.REALTIME_CHUNKING, paired_delay_ms)
    ensembling = _of(trials, ExecutionMode.TEMPORAL_ENSEMBLING, paired_delay_ms)
    pairs = _paired(rtc, sync)
    low, high = pairs.time_ratio_interval()
    everything = [p for t in trials for p in t.periods_ms]
    jerk, jerk_ensembling = (
        _median([t.peak_jerk for t in rtc]),
        _median([t.peak_jerk for t in ensembling]),
    )
    found = {
        f"rtc_over_sync_time_{paired_delay_ms}ms": pairs.time_ratio(),
        "rtc_over_sync_time_low": low,
        "rtc_over_sync_time_high": high,
        "rtc_success": _mean([float(t.outcome.success) for t in rtc]),
        "sync_success": _mean([float(t.outcome.success) for t in sync]),
        "rtc_worse_p": pairs.p_worse(),
        "standstill_ms": _mean([s for t in rtc for s in t.standstills_ms]),
        "standstill_sync_ms": _mean([s for t in sync for s in t.standstills_ms]),
        "boundary_jump": _jump_ratio(rtc),
        "peak_jerk": jerk,
        "peak_jerk_over_ensembling": jerk / jerk_ensembling,
        "setpoint_p99_over_nominal": _percentile(everything, 99) / (1e3 * period),
        "filter_us": _median([f for t in trials for f in t.filter_us]),
        "filter_us_p99": _percentile([f for t in trials for f in t.filter_us], 99),
        "picture_to_setpoint_ms": _median(
            [ms for t in rtc for ms in t.stage_times_ms.get(WHOLE_WAY, ())]
        ),
    }
    rounded = {name: _rounded(value) for name, value in found.items()}
    broken = sum(not t.outcome.graph_worked for t in trials)
    return {**rounded, "pairs": len(pairs.first_time), "broken_trials": broken}


def by_mode(trials: Sequence[Measured]) -> list[dict[str, Any]]:
    """One row for each latency and mode that was run: how long, how smooth, how often it worked."""
    keys = sorted({(t.outcome.trial.delay_ms, t.outcome.trial.mode) for t in trials})
    rows = []
    for delay, mode in keys:
        these = _of(trials, mode, delay)
        solved = [t for t in these if t.outcome.success]
        still = [s for t in these for s in t.standstills_ms]
        rows.append(
            {
                "delay_ms": delay,
                "mode": str(mode),
                "trials": len(these),
                "successes": len(solved),
                "seconds": _rounded(_mean([t.outcome.seconds for t in solved])),
                "standstill_ms": _rounded(_mean(still)),
                "standstill_max_ms": _rounded(max(still, default=math.nan)),
                "boundary_jump": _rounded(_jump_ratio(these)),
                "peak_jerk": _rounded(_median([t.peak_jerk for t in these])),
                "picture_to_setpoint_ms": _rounded(
                    _median([ms for t in these for ms in t.stage_times_ms.get(WHOLE_WAY, ())])
                ),
            }
        )
    return rows


def stage_medians(trials: Sequence[Measured]) -> dict[str, float]:
    """Median [ms] of each stage, over these trials' chunks."""
    stages = {stage: None for t in trials for stage in t.stage_times_ms}
    return {
        stage: _median([ms for t in trials for ms in t.stage_times_ms.get(stage, ())])
        for stage in stages
    }


def verdicts(found: Mapping[str, float | int | None]) -> list[dict[str, Any]]:
    """Each figure that has a bound: value, bound, and whether it is kept (None: not measured)."""
    rows: list[dict[str, Any]] = []
    for name, (word, bound) in MUSTS.items():
        value = found.get(name)
        kept = None if value is None else value <= bound
        rows.append({"name": name, "value": value, "bound": f"{word} {bound:g}", "kept": kept})
    return rows


def _of(trials: Sequence[Measured], mode: ExecutionMode, delay_ms: int) -> list[Measured]:
    return [
        t for t in trials if (t.outcome.trial.mode, t.outcome.trial.delay_ms) == (mode, delay_ms)
    ]


def _paired(first: Sequence[Measured], second: Sequence[Measured]) -> Paired:
    others = {t.outcome.trial.start: t.outcome for t in second}
    pairs = [
        (t.outcome, others[t.outcome.trial.start]) for t in first if t.outcome.trial.start in others
    ]
    return Paired(
        np.array([a.success for a, _ in pairs], dtype=bool),
        np.array([b.success for _, b in pairs], dtype=bool),
        np.array([a.seconds for a, _ in pairs], dtype=np.float64),
        np.array([b.seconds for _, b in pairs], dtype=np.float64),
    )


def _jump_ratio(trials: Sequence[Measured]) -> float:
    """Median jump at boundaries over the median jump within chunks."""
    within = _median([j for t in trials for j in t.jumps_within])
    at_boundaries = _median([j for t in trials for j in t.jumps_at_boundaries])
    return at_boundaries / within if within else math.nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if len(values) else math.nan


def _rounded(value: float) -> float | None:
    """JSON has no nan: None is what was not measured."""
    return None if math.isnan(value) else round(value, 4)
