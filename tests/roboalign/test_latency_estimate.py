"""The running quantile bounds what comes, and forgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboalign.latency_estimate import LatencyEstimate

delays = st.lists(st.floats(0.001, 3.0), min_size=1, max_size=60)


@given(delays, st.integers(1, 30), st.floats(0.05, 1.0))
def test_it_is_the_next_larger_delay_at_the_quantile(
    seconds: list[float], window: int, quantile: float
) -> None:
    estimate = LatencyEstimate(window=window, quantile=quantile)
    for value in seconds:
        estimate.add(value)
    kept = seconds[-window:]
    assert estimate.seconds in kept
    assert estimate.seconds == pytest.approx(np.quantile(kept, quantile, method="higher"))


def test_the_default_follows_a_slower_network_at_once_and_forgets_it() -> None:
    estimate = LatencyEstimate()
    assert estimate.seconds == 0.2
    for value in [0.1] * 30 + [0.9]:
        estimate.add(value)
    assert estimate.seconds == 0.9
    for _ in range(20):
        estimate.add(0.1)
    assert estimate.seconds == 0.1


def test_a_clock_that_jumped_back_measures_nothing() -> None:
    estimate = LatencyEstimate(initial_s=0.3)
    estimate.add(-1.0)
    estimate.add(0.0)
    assert estimate.seconds == 0.3


@pytest.mark.parametrize("options", [{"window": 0}, {"quantile": 0.0}, {"initial_s": -1.0}])
def test_options_must_make_sense(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        LatencyEstimate(**options)
