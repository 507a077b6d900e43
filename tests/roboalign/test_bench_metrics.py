"""What the bench measures, on streams whose smoothness is known and on the runtime itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboalign import bench_metrics
from roboalign.bench_metrics import ChunkTrace, Paired, SetpointStream
from roboalign.execution_mode import ExecutionMode
from tests.roboalign import virtual_arm

PERIOD = 0.01


def stream(names: str, x: np.ndarray | None = None) -> SetpointStream:
    """One letter a setpoint: its chunk, or a space for none; `x` are positions along x."""
    count = len(names)
    positions = np.zeros((count, 3))
    positions[:, 0] = PERIOD * np.arange(count) if x is None else x
    return SetpointStream(
        10.0 + PERIOD * np.arange(count), positions, [name.strip() for name in names]
    )


def trace(name: str, start: float, speed: float, x: float) -> ChunkTrace:
    """Ten waypoints from `x` on along x."""
    step = 0.1 * np.arange(1, 11)
    return ChunkTrace(name, 0.1, start + step, np.outer(x + speed * step, [1.0, 0.0, 0.0]))


def test_a_boundary_is_where_the_new_chunk_leaves_the_old_path() -> None:
    old = trace("a", 10.0, 0.1, 0.0)
    same, other = trace("b", 10.3, 0.1, 0.03), trace("b", 10.3, 0.3, 0.03)
    bent = other.positions.copy()
    bent[:3] = same.positions[:3]  # due at 10.4, 10.5 and 10.6
    later = ChunkTrace("b", 0.1, other.due, bent)
    assert bench_metrics.departure(old, other, 10.45) == 10.45
    assert bench_metrics.departure(old, later, 10.45) == pytest.approx(10.6)
    assert bench_metrics.departure(old, later, 10.7) == 10.7
    assert bench_metrics.departure(old, same, 10.45) == pytest.approx(11.0)


@given(st.integers(1, 30), st.integers(0, 50), st.integers(1, 30), st.integers(0, 5))
def test_standstill_is_the_time_without_a_chunk(
    first: int, gap: int, second: int, around: int
) -> None:
    one = stream(" " * around + "a" * first + " " * gap + "b" * second + " " * around)
    assert len(one.following().times) == first + gap + second
    assert bench_metrics.standstills(one, PERIOD) == [pytest.approx(PERIOD * gap, abs=1e-9)]


def test_a_chunk_that_pauses_and_goes_on_is_no_change() -> None:
    assert bench_metrics.changes(stream("aa  aa")) == []
    assert bench_metrics.changes(stream("aabb b")) == [(1, 2)]


def test_without_chunks_there_is_nothing_to_measure() -> None:
    nothing = stream("    ").following()
    assert len(nothing.times) == 0
    assert bench_metrics.changes(nothing) == []
    assert bench_metrics.peak_jerk(nothing, PERIOD) == 0.0
    assert np.isnan(bench_metrics.period_p99([]))


@given(st.floats(0.0, 0.5), st.floats(-0.5, 0.5))
def test_a_velocity_jump_is_found_where_it_is(before: float, after: float) -> None:
    """Constant speed `before`, then `after` from the first setpoint of the second chunk on."""
    steps = np.array([before] * 100 + [after] * 100) * PERIOD
    x = np.concatenate([[0.0], np.cumsum(steps)[:-1]])
    one = stream("a" * 100 + "b" * 100, x)
    chunks = [trace("a", 10.0, before, 0.0), trace("b", 11.0, after, before)]
    at_changes, within = bench_metrics.velocity_jumps(one, chunks)
    assert at_changes == [pytest.approx(abs(after - before), abs=1e-6)]
    assert len(within) >= 14
    assert max(within) < 1e-6


def test_a_change_with_a_standstill_breaks_no_motion() -> None:
    one = stream("a" * 50 + " " * 30 + "b" * 50)
    chunks = [trace("a", 10.0, 1.0, 0.0), trace("b", 10.8, 1.0, 0.8)]
    assert bench_metrics.velocity_jumps(one, chunks)[0] == []


def test_jerk_is_the_third_derivative() -> None:
    time = PERIOD * np.arange(100)
    assert bench_metrics.peak_jerk(stream("a" * 100, 2.0 * time**3), PERIOD) == pytest.approx(12.0)


def test_rows_must_belong_together() -> None:
    with pytest.raises(ValueError, match="chunk ids"):
        SetpointStream(np.zeros(3), np.zeros((3, 3)), ["a"])


def paired(text: str) -> Paired:
    """One letter a start: b both, f first only, s second only, n neither; 3 s against 4 s."""
    first = np.array([letter in "bf" for letter in text])
    second = np.array([letter in "bs" for letter in text])
    return Paired(first, second, np.full(len(text), 3.0), np.full(len(text), 4.0))


def test_time_is_compared_where_both_succeed() -> None:
    pairs = paired("bbfsn")
    assert pairs.time_ratio() == 0.75
    assert pairs.time_ratio_interval() == (0.75, 0.75)
    assert np.isnan(paired("fsn").time_ratio())
    assert np.isnan(paired("b").time_ratio_interval()[0])


def test_a_loss_of_success_is_told_from_chance() -> None:
    assert paired("bbbb").p_worse() == 1.0
    assert paired("bb" + "s" * 5).p_worse() == pytest.approx(1 / 32)
    assert paired("bb" + "f" * 5).p_worse() == 1.0


@pytest.fixture(scope="module")
def steady() -> Callable[[], float]:
    return lambda: 0.17


def jump_ratio(mode: ExecutionMode, latency: Callable[[], float]) -> float:
    one, chunks = virtual_arm.run(mode, latency)
    at_changes, within = bench_metrics.velocity_jumps(one.following(), chunks)
    return float(np.median(at_changes) / np.median(within))


def test_the_runtime_stands_still_in_synchronous_mode_alone(steady: Callable[[], float]) -> None:
    for mode in ExecutionMode:
        one, _ = virtual_arm.run(mode, steady)
        still = bench_metrics.standstills(one.following(), PERIOD)
        assert len(still) > 10
        if mode == ExecutionMode.SYNCHRONOUS:
            assert min(still) > 0.17
        else:
            assert max(still) == 0.0


def test_going_on_from_the_chunk_under_execution_takes_the_jump_away(
    steady: Callable[[], float],
) -> None:
    assert jump_ratio(ExecutionMode.ASYNCHRONOUS, steady) > 1.5
    assert jump_ratio(ExecutionMode.REALTIME_CHUNKING, steady) < 1.0


def test_it_does_so_when_the_latency_varies() -> None:
    rng = np.random.default_rng(1)
    ratio = jump_ratio(ExecutionMode.REALTIME_CHUNKING, lambda: float(rng.uniform(0.05, 0.35)))
    assert ratio < 1.0
