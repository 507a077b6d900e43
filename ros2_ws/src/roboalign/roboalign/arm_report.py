"""What the control loop tells after each tick, and how a procedure ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from contracts.motion import Setpoint
from roboalign.arm_driver import ArmState

PROCEDURE_TIMEOUT_S = 30.0
"""Longest that stopping or homing may take before it counts as failed."""


class Mode(StrEnum):
    """As in roboalign_msgs/ArmStatus."""

    IDLE = "idle"
    TRACKING = "tracking"
    HOLDING = "holding"
    MOVING = "moving"
    ERROR = "error"


@dataclass(frozen=True)
class Report:
    """Result of one tick, taken at `stamp` [s]. `state` is None when the arm could not be read.

    first_use: the chunk whose first setpoint was sent in this tick, if there was one. commander:
    who may command. recovery: its stage, or empty. setpoint: what was sent in this tick, for
    `source` (policy, teleop, home, or empty while holding), changed by `limited_by`, at a cost of
    `filter_us` [us]; None if nothing was sent.
    """

    stamp: float
    mode: Mode
    reason: str
    state: ArmState | None
    queue_remaining: float
    limited_setpoints: int
    dropped_waypoints: int
    refused_chunks: int
    last_chunk_id: str
    first_use: str
    commander: str
    recovery: str
    emergency: bool
    setpoint: Setpoint | None
    source: str
    limited_by: tuple[str, ...]
    filter_us: float


class Procedure:
    """A motion that was asked for; `wait` tells the asker how it ended.

    clears_errors: it goes on while the arm reports errors, since it is there to clear them.
    """

    def __init__(
        self,
        steps: Callable[[], Iterator[None]],
        timeout_s: float = PROCEDURE_TIMEOUT_S,
        *,
        clears_errors: bool = False,
        stops: bool = False,
    ) -> None:
        self.steps = steps
        self.timeout_s = timeout_s
        self.clears_errors = clears_errors
        self.stops = stops
        self.error = ""
        self._ended = threading.Event()

    def end(self, error: str = "") -> None:
        self.error = error
        self._ended.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`; `error` is empty if it ended well."""
        return self._ended.wait(timeout_s)
