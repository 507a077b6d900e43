"""One recorded motion of arm and hand, and the four latencies that follow from it.

What each of them is, with t the true time of an event:
  camera             a frame shows what was at (its stamp - camera)
  robot_observation  a robot state is what was at (its stamp - robot_observation)
  robot_action       a setpoint sent at t is reached by the arm at (t + robot_action)
  gripper            a command sent at t shows in the stamped width at (t + gripper), beyond the
                     time that the fingers need at their speed
They are measured apart and written apart: to mix camera and robot up is the classic error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from calibration.latency import (
    Delay,
    DelaySearch,
    LatencyError,
    Signal,
    best_correlation,
    estimate_delay,
)
from contracts.calibration import Latencies
from contracts.geometry import Vector
from contracts.robot import FR3

NAMES: Final = ("camera", "robot_observation", "robot_action", "gripper")
ARM_SEARCH: Final = DelaySearch()
CAMERA_SEARCH: Final = replace(ARM_SEARCH, either_sign=True)
"""The camera's axis may run against the reference's."""
BETWEEN_SEARCH: Final = replace(CAMERA_SEARCH, lowest=-0.4, highest=0.4)
"""Between two latencies, either of which may be the larger one."""
GRIPPER_SEARCH: Final = DelaySearch(highest=0.8, block=1.6, least_correlation=0.9)
ROUGH_SEARCH: Final = replace(GRIPPER_SEARCH, step=0.01)
FINGER_SPEEDS: Final = (0.03, 0.5)
"""Range [m/s] in which the width's speed is looked for."""
REAL_NEGATIVE: Final = 0.004
"""A latency below zero by more than this [s] is no noise: a clock is off."""
RAMP_STEP: Final = 0.01


@dataclass(frozen=True)
class HandCommands:
    """Commands to the hand: stamps (n,) [s] when sent, widths (n,) [m]; `start` [m] before them."""

    stamps: Vector
    widths: Vector
    start: float

    def __post_init__(self) -> None:
        if len(self.stamps) == 0 or len(self.stamps) != len(self.widths):
            raise LatencyError(
                f"hand commands: {len(self.widths)} widths at {len(self.stamps)} times"
            )

    def ramp(self, speed: float, until: float) -> Signal:
        """The width [m] that fingers of this speed [m/s] without any latency would have."""
        grid = np.arange(self.stamps[0] - 1.0, until, RAMP_STEP)
        newest = np.searchsorted(self.stamps, grid, side="right")
        goals = np.concatenate([[self.start], self.widths])[newest]
        now, values = self.start, np.empty(len(grid))
        for i, goal in enumerate(goals.tolist()):
            now += min(max(goal - now, -speed * RAMP_STEP), speed * RAMP_STEP)
            values[i] = now
        return Signal("hand commands", grid, values)


@dataclass(frozen=True)
class LatencyRecording:
    """Signals of one run, all on the computer's clock but for what their latency puts on.

    reference: the motion that the camera sees, by the true clock (a displayed pattern, or a
    simulator's state); seen_reference: the same as the camera shows it. seen_arm and arm: the arm's
    motion along a line [m] as the camera and the robot tell it. commanded: the setpoints sent [m];
    width: the gripper's [m].
    """

    reference: Signal
    seen_reference: Signal
    seen_arm: Signal
    arm: Signal
    commanded: Signal
    hand_commands: HandCommands
    width: Signal


def hand_delay(commands: HandCommands, width: Signal) -> Delay:
    """Delay between commands and the measured width, beyond the time that the way takes.

    The fingers' speed is fitted: hands differ in what they make of the one that is asked for.

    Raises:
        LatencyError: the hand did not move, or not as it was told.
    """
    until = float(width.stamps[-1])

    def mismatch(speed: float) -> float:
        return -best_correlation(commands.ramp(speed, until), width, ROUGH_SEARCH)

    # Bounded search finds one maximum; a first look at some speeds makes it the right one.
    speeds = np.geomspace(*FINGER_SPEEDS, 12)
    near = int(np.argmin([mismatch(speed) for speed in speeds.tolist()]))
    bounds = (float(speeds[max(near - 1, 0)]), float(speeds[min(near + 1, len(speeds) - 1)]))
    found = minimize_scalar(mismatch, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return estimate_delay(commands.ramp(float(found.x), until), width, GRIPPER_SEARCH)


def measure(recording: LatencyRecording) -> Mapping[str, Delay]:
    """The four delays by NAMES.

    Raises:
        LatencyError: a pair of signals does not tell its delay, or a latency comes out negative.
    """
    r = recording
    camera = estimate_delay(r.reference, r.seen_reference, CAMERA_SEARCH)
    # The camera shows the arm late by its own latency, which has to be given back.
    observation = estimate_delay(r.seen_arm, r.arm, BETWEEN_SEARCH).plus(camera)
    action = estimate_delay(r.commanded, r.arm, ARM_SEARCH).minus(observation)
    gripper = hand_delay(r.hand_commands, r.width)
    delays = dict(zip(NAMES, (camera, observation, action, gripper), strict=True))
    for name, delay in delays.items():
        if delay.seconds < -REAL_NEGATIVE and delay.high < 0.0:
            raise LatencyError(
                f"latency {name!r} comes out as {1e3 * delay.seconds:.1f} ms, which cannot be: "
                "the clocks of robot and camera are apart"
            )
    return delays


def to_latencies(delays: Mapping[str, Delay]) -> Latencies:
    """The contract's form [s]; noise below zero becomes zero."""

    def positive(seconds: float) -> float:
        return round(max(0.0, seconds), 6)

    values = {name: positive(delays[name].seconds) for name in NAMES}
    intervals = {name: (positive(delays[name].low), positive(delays[name].high)) for name in NAMES}
    return Latencies(**values, intervals=intervals)


def excitation(t: ArrayLike, amplitude: float, duration: float) -> Vector:
    """Offset [m] at times `t` [s] of a smooth motion that does not repeat itself; 0 at both ends.

    Three sines of unrelated frequencies, within `amplitude` [m]; a fade of a second at both ends
    keeps start and stop without a jump.
    """
    time = np.asarray(t, dtype=np.float64)
    parts = ((0.50, 0.31, 0.4), (0.32, 0.57, 1.9), (0.18, 0.93, 3.3))
    wave = sum(a * np.sin(2 * np.pi * f * time + p) for a, f, p in parts)
    edge = np.clip(np.minimum(time, duration - time), 0.0, 1.0)
    return np.asarray(amplitude * wave * edge**2 * (3 - 2 * edge))


def gripper_commands(duration: float) -> tuple[Vector, Vector]:
    """Times [s] and widths [m] of open and close commands at uneven intervals."""
    stamps = np.cumsum([0.8, 1.7, 1.3, 2.1, 1.5, 1.9, 1.2, 2.3, 1.6, 1.4])
    stamps = stamps[stamps < duration - 1.0]
    closed = np.arange(len(stamps)) % 2 == 0
    return stamps, np.where(closed, 0.0, FR3.gripper_width)
