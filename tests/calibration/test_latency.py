"""Delays between two recordings of one motion: found, bounded, or refused in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.latency import (
    Delay,
    DelaySearch,
    LatencyError,
    Signal,
    along_motion,
    best_correlation,
    estimate_delay,
)
from contracts.geometry import Vector

EPOCH = 1_700_000_000.0
SECONDS = 12.0


def motion(t: Vector) -> Vector:
    """Metres; does not repeat itself."""
    waves = ((0.03, 0.35, 0.0), (0.02, 0.62, 1.0), (0.012, 0.97, 2.0))
    return np.asarray(sum(a * np.sin(2 * np.pi * f * t + p) for a, f, p in waves))


def sampled(
    name: str, rate: float, delay: float, noise: float, seed: int, sign: float = 1.0
) -> Signal:
    rng = np.random.default_rng(seed)
    t = np.arange(0.0, SECONDS, 1.0 / rate)
    jitter = rng.uniform(-0.1 / rate, 0.1 / rate, len(t))
    values = sign * motion(t) + rng.normal(0.0, noise, len(t))
    return Signal(name, EPOCH + t + jitter + delay, values)


@settings(max_examples=15, deadline=None)
@given(
    delay=st.floats(0.02, 0.2),
    rates=st.sampled_from([(100.0, 15.0), (15.0, 100.0), (50.0, 50.0)]),
    seed=st.integers(0, 1000),
)
def test_an_injected_delay_is_found(delay: float, rates: tuple[float, float], seed: int) -> None:
    reference = sampled("robot", rates[0], 0.0, 5e-4, seed)
    delayed = sampled("camera", rates[1], delay, 5e-4, seed + 1)
    found = estimate_delay(reference, delayed)
    assert abs(found.seconds - delay) < 0.003
    assert found.low <= found.seconds <= found.high
    assert found.high - found.low < 0.01


def test_the_interval_holds_the_truth() -> None:
    held = 0
    for seed in range(30):
        found = estimate_delay(
            sampled("robot", 50.0, 0.0, 1e-3, 3 * seed),
            sampled("camera", 15.0, 0.1, 1e-3, 3 * seed + 1),
        )
        held += found.low <= 0.1 <= found.high
    assert held >= 24  # of 30 where 28.5 are expected


def test_axes_may_run_in_opposite_directions() -> None:
    robot, camera = (
        sampled("robot", 50.0, 0.0, 1e-4, 1),
        sampled("camera", 15.0, 0.1, 1e-4, 2, -1.0),
    )
    assert estimate_delay(robot, camera, DelaySearch(either_sign=True)).seconds == pytest.approx(
        0.1, abs=0.003
    )
    with pytest.raises(LatencyError, match="do not show the same motion"):
        estimate_delay(robot, camera)


def test_several_axes_are_used_together() -> None:
    t = np.arange(0.0, SECONDS, 0.02)
    path = np.stack([motion(t), motion(t + 40.0), np.zeros_like(t)], axis=1)
    found = estimate_delay(Signal("robot", t, path), Signal("camera", t + 0.07, path))
    assert found.seconds == pytest.approx(0.07, abs=1e-3)
    assert found.correlation == pytest.approx(1.0, abs=1e-6)


T = np.arange(0.0, SECONDS, 0.02)
GOOD = Signal("robot", T, motion(T))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Signal("camera", T[:20], motion(T[:20])), "20 samples, at least 30"),
        (lambda: Signal("camera", T, np.where(T > 5.0, np.nan, motion(T))), r"camera: .*NaN"),
        (lambda: Signal("camera", T[::-1], motion(T)), "stamps do not rise"),
        (lambda: Signal("camera", T, motion(T)[:-1]), "one row a stamp"),
        (lambda: estimate_delay(GOOD, Signal("camera", T, 1e-3 * motion(T))), "too little motion"),
        (lambda: estimate_delay(Signal("arm", T, 0 * T), GOOD), "arm: too little motion"),
        (lambda: estimate_delay(GOOD, Signal("camera", T + 90.0, motion(T))), "clocks are apart"),
        (lambda: estimate_delay(GOOD, Signal("camera", T + 0.9, motion(T))), "apart|same motion"),
        (lambda: estimate_delay(GOOD, Signal("camera", T, motion(9.0 + 2 * T))), "same motion"),
        (
            lambda: estimate_delay(
                *(Signal(n, T, 0.05 * np.sin(2 * np.pi * 4 * T)) for n in ("arm", "camera"))
            ),
            "repeats itself",
        ),
    ],
)
def test_what_cannot_tell_a_delay_is_refused(make: Callable[[], object], why: str) -> None:
    with pytest.raises(LatencyError, match=why):
        make()


def test_a_delay_beyond_the_range_is_refused_and_not_invented() -> None:
    late = Signal("camera", T, motion(T - 0.6))
    with pytest.raises(LatencyError):
        estimate_delay(GOOD, late, DelaySearch(highest=0.4))
    assert best_correlation(GOOD, late, DelaySearch(highest=0.4)) < 0.95
    assert best_correlation(GOOD, late, DelaySearch(highest=0.8)) == pytest.approx(1.0, abs=1e-4)


def test_independent_delays_add_with_their_errors() -> None:
    one, other = Delay(0.1, 0.097, 0.103, 0.99), Delay(0.02, 0.016, 0.024, 0.98)
    total, rest = one.plus(other), one.minus(other)
    assert (total.seconds, rest.seconds) == pytest.approx((0.12, 0.08))
    assert total.high - total.seconds == pytest.approx(0.005)
    assert rest.seconds - rest.low == pytest.approx(0.005)
    assert total.correlation == 0.98


def test_motion_on_a_line_is_the_same_in_every_frame() -> None:
    values = motion(T)
    direction = np.array([0.6, 0.0, 0.8])
    seen = along_motion(values[:, None] * direction + [1.0, -2.0, 3.0])
    flipped = np.sign(seen @ (values - values.mean()))
    np.testing.assert_allclose(flipped * seen, values - values.mean(), atol=1e-12)


def test_a_pose_that_is_not_finite_does_not_pass_unseen() -> None:
    positions = np.zeros((100, 3))
    positions[50] = np.nan
    with pytest.raises(LatencyError, match="NaN"):
        Signal("board", np.arange(100.0), along_motion(positions))


@pytest.mark.parametrize("bad", [{"lowest": 1.0, "highest": 0.0}, {"step": 0.0}, {"block": -1.0}])
def test_a_search_that_contradicts_itself_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="delay search"):
        DelaySearch(**bad)  # type: ignore[arg-type]
