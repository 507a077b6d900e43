"""A success rate with its Wilson score interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from scipy.stats import binomtest

CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class SuccessRate:
    """`successes` of `trials`, with the Wilson score interval [low, high] of the rate.

    Wilson's interval keeps its coverage near 0 and 1 and for small numbers, where the usual
    plus-minus one does not. Without trials nothing is known: rate None, interval 0..1.
    """

    successes: int
    trials: int
    rate: float | None
    low: float
    high: float

    @classmethod
    def of(cls, successes: int, trials: int) -> SuccessRate:
        """Raises ValueError unless 0 <= successes <= trials."""
        if not 0 <= successes <= trials:
            raise ValueError(f"{successes} successes of {trials} trials")
        if trials == 0:
            return cls(0, 0, None, 0.0, 1.0)
        interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
        return cls(successes, trials, successes / trials, float(interval.low), float(interval.high))

    def as_json(self) -> dict[str, Any]:
        """The fields under the names of summary.json."""
        content = asdict(self)
        interval = [content.pop("low"), content.pop("high")]
        return {"success_rate": content.pop("rate"), **content, "interval": interval}
