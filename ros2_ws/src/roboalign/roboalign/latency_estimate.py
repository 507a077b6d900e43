"""The running quantile of a delay that varies: the policy's answer. Pure."""

from __future__ import annotations

from collections import deque
from math import ceil


class LatencyEstimate:
    """A high quantile of the last delays: what the next one will hardly exceed.

    The default takes the largest of the last 20, as Black et al. 2025 (Algorithm 1) take the
    largest of a short buffer: it follows a slower network at once and a faster one soon.
    """

    def __init__(self, *, initial_s: float = 0.2, window: int = 20, quantile: float = 0.95) -> None:
        """`initial_s` [s] stands until something was measured; `quantile` is in (0, 1]."""
        if initial_s < 0.0 or window < 1 or not 0.0 < quantile <= 1.0:
            raise ValueError(
                f"initial_s {initial_s} and window {window} must be positive, and quantile "
                f"{quantile} in 0..1"
            )
        self._initial = initial_s
        self._quantile = quantile
        self._delays: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """A delay was measured; one that is not positive tells of a clock that jumped."""
        if seconds > 0.0:
            self._delays.append(seconds)

    @property
    def seconds(self) -> float:
        """The quantile [s], never below it: of few delays the next larger one is taken."""
        if not self._delays:
            return self._initial
        ordered = sorted(self._delays)
        return ordered[ceil(self._quantile * (len(ordered) - 1))]
