"""The Franka hand in its own threads: libfranka's calls block for a second, the control loop never.

A new command stops the one under way first. Closing is a grasp with a wide tolerance, because the
object's width is not known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import franky

from contracts.robot import FR3, RobotSpec

GRASP_FORCE_N = 30.0
POLL_PERIOD_S = 1.0 / 30.0
HAND_ERRORS = (franky.Exception, franky.GripperException, RuntimeError)
"""The last is what the network library below libfranka raises."""
STOP_WAIT_S = 0.5
"""How long a stopped command may take to return. franky-sim never answers a stopped one: its
thread is then left to itself."""


RECONNECT_PAUSE_S = 1.0
MISSED_WIDTH_M = 0.002
"""Fingers that closed to less than this hold nothing."""
LOST_M = 0.004
"""How much further the fingers close when what they held slips away."""
STUCK_S, STUCK_M = 1.5, 0.002
"""Fingers that move less than this for so long, short of where they shall be, are stuck."""
OPEN_SHARE = 0.9
"""Of the full width: from here on the hand counts as open."""


@dataclass(frozen=True)
class HandState:
    """Width [m] between the fingers, opening 0..1, at `stamp` [s] of the caller's clock.

    fault: missed (closed on nothing), lost (what was held slipped away), stuck (the fingers do not
    move); or empty.
    """

    width: float
    opening: float
    is_grasped: bool
    moving: bool
    stamp: float
    fault: str = ""


class Hand(Protocol):
    """What the control loop needs of a gripper; nothing here blocks."""

    def command(self, closed: bool) -> None: ...
    @property
    def state(self) -> HandState | None: ...
    @property
    def error(self) -> str: ...


class GraspWatch:
    """Tells from the fingers' width alone whether a command did what it should. Pure."""

    def __init__(self, full_width: float) -> None:
        """`full_width` [m]: of the open hand."""
        self._full_width = full_width
        self._closed: bool | None = None
        self._moved_at = self._moved_from = 0.0
        self._held: float | None = None
        self._fault = ""

    @property
    def holds(self) -> bool:
        """Whether the fingers came to rest on something, and it is still there."""
        return self._held is not None

    def command(self, closed: bool, now: float, width: float) -> None:
        """A new command was given at `now` [s], the fingers `width` [m] apart."""
        self._closed, self._held, self._fault = closed, None, ""
        self._moved_at, self._moved_from = now, width

    def look(self, now: float, width: float, busy: bool) -> str:
        """HandState.fault at `now` [s]; `busy`: the hand has not answered the command yet."""
        if self._closed is None:
            return ""
        if abs(width - self._moved_from) > STUCK_M:
            self._moved_at, self._moved_from = now, width
        rests = now - self._moved_at > STUCK_S
        if not self._closed:
            short = width < OPEN_SHARE * self._full_width
            self._fault = "stuck" if short and rests else ""
        elif self._held is not None:
            if width < self._held - LOST_M:
                self._held, self._fault = None, "lost"
        elif not self._fault and (rests or not busy):
            if width < MISSED_WIDTH_M:
                self._fault = "missed"
            elif width >= OPEN_SHARE * self._full_width:
                self._fault = "stuck" if rests else ""
            elif rests:
                self._held = width
        return self._fault


class GripperError(RuntimeError):
    """The hand does not answer; the text says where and why."""


class GripperDriver:
    """A Franka hand at `hostname`; implements Hand. `clock` stamps what is read."""

    def __init__(self, hostname: str, clock: Callable[[], float], spec: RobotSpec = FR3) -> None:
        self.hostname = hostname
        self._clock = clock
        self._spec = spec
        self._hand: franky.Gripper | None = None
        self._wanted: bool | None = None
        self._sent: bool | None = None
        self._state: HandState | None = None
        self._watch = GraspWatch(spec.gripper_width)
        self._poll_error = ""
        self._command_error = ""
        self._ended = threading.Event()
        self._woken = threading.Event()
        self._command: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name="gripper", daemon=True)

    def start(self) -> None:
        """Connect and start polling. Raises GripperError: nobody answers."""
        try:
            self._hand = franky.Gripper(self.hostname)
        except HAND_ERRORS as error:
            raise GripperError(f"cannot connect to the hand at {self.hostname}: {error}") from error
        self._thread.start()

    def stop(self) -> None:
        """End the polling thread; the fingers stay as they are."""
        self._ended.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_WAIT_S + 1.0)

    def command(self, closed: bool) -> None:
        """Close or open; the same command again is ignored."""
        if closed != self._wanted:
            self._wanted = closed
            self._woken.set()

    @property
    def state(self) -> HandState | None:
        """What was read last; None before the first reading."""
        return self._state

    @property
    def error(self) -> str:
        """Why the last reading or command failed; empty if it did not."""
        return self._poll_error or self._command_error

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                hand = self._hand or self._reconnect()
                self._poll(hand)
                if self._wanted is not None and self._wanted != self._sent:
                    self._begin(hand, self._wanted)
                self._poll_error = ""
            except HAND_ERRORS as error:
                self._poll_error = f"hand at {self.hostname}: {error}"
                self._hand = None  # lost with its power or its network: a new connection
            self._woken.wait(POLL_PERIOD_S)
            self._woken.clear()

    def _reconnect(self) -> franky.Gripper:
        self._ended.wait(RECONNECT_PAUSE_S)
        self._hand = franky.Gripper(self.hostname)
        self._wanted = self._sent = None  # the fingers stay as they are until they are told
        return self._hand

    def _poll(self, hand: franky.Gripper) -> None:
        state, busy = hand.state, self._busy()
        opening = min(max(state.width / self._spec.gripper_width, 0.0), 1.0)
        fault = self._watch.look(time.monotonic(), state.width, busy)
        self._state = HandState(
            state.width, opening, bool(state.is_grasped), busy, self._clock(), fault
        )

    def _busy(self) -> bool:
        return self._command is not None and self._command.is_alive()

    def _begin(self, hand: franky.Gripper, closed: bool) -> None:
        if self._command is not None and self._command.is_alive():
            self._sent = None
            hand.stop()
            self._command.join(STOP_WAIT_S)
        self._sent = closed
        self._command_error = ""
        width = self._state.width if self._state is not None else 0.0
        self._watch.command(closed, time.monotonic(), width)
        self._command = threading.Thread(
            target=self._execute, args=(hand, closed), name="gripper command", daemon=True
        )
        self._command.start()

    def _execute(self, hand: franky.Gripper, closed: bool) -> None:
        try:
            if closed:
                width = self._spec.gripper_width
                hand.grasp(0.0, self._spec.gripper_speed, GRASP_FORCE_N, epsilon_outer=width)
            else:
                hand.open(self._spec.gripper_speed)
        except HAND_ERRORS as error:
            if self._sent != closed:
                return  # our own stop() ended it, for a newer command
            self._command_error = f"hand at {self.hostname}: {error}"
