"""Stage times from picture to setpoint as bars on one time line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from evaluation.trial_log import WHOLE_WAY

FIRST_STAGE: Final = "picture_to_observation"
ROUND_TRIP: Final = "round_trip"
STAGE_TIME_WORDS: Final = {
    FIRST_STAGE: "picture to observation",
    "queue": "wait for the server",
    ROUND_TRIP: "request to answer",
    "arm_transport": "to the arm node",
    "arm_queue": "until it is followed",
    WHOLE_WAY: "picture to setpoint",
}
"""`round_trip` holds all of the server's stages, `picture_to_setpoint` all there is."""


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: `share` and `start` in per cent of the full width."""

    label: str
    text: str
    share: float
    start: float = 0.0
    total: bool = False


def stage_bars(times: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    """Median times on one time line, each stage where the ones before it end."""
    medians = {stage: t["median"] for stage, t in times.items()}
    starts, now = {}, 0.0
    for stage, median in medians.items():
        if stage == WHOLE_WAY:
            starts[stage] = 0.0
        elif stage == ROUND_TRIP:
            # The server's stages lie within; what is left of it is the way there and back.
            starts[stage] = medians.get(FIRST_STAGE, 0.0)
            now = starts[stage] + median
        else:
            starts[stage] = now
            now += median
    width = max((starts[stage] + median for stage, median in medians.items()), default=1.0) or 1.0
    return [
        Bar(
            STAGE_TIME_WORDS.get(stage, stage.replace("_", " ")),
            f"{median:.1f} ms",
            100 * median / width,
            100 * starts[stage] / width,
            total=stage in (ROUND_TRIP, WHOLE_WAY),
        )
        for stage, median in medians.items()
    ]
