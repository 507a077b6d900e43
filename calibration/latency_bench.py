"""How well injected latencies are found: synthetic recordings with rates and noise of a set-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibration.latency import Signal
from calibration.latency_recording import (
    NAMES,
    HandCommands,
    LatencyRecording,
    excitation,
    gripper_commands,
    measure,
)
from contracts.geometry import Vector
from contracts.robot import FR3

LOWEST_S: Final = 0.02
HIGHEST_S: Final = 0.2
EPOCH: Final = 1_700_000_000.0
"""Stamps are wall-clock times: large numbers that leave fewer digits for the fractions."""

Noise = np.random.Generator


@dataclass(frozen=True)
class SyntheticSetup:
    """Rates [Hz], noise (1 sigma) [m] and jitter of stamps (1 sigma) [s]; durations [s]."""

    camera_rate: float = 15.0
    state_rate: float = 50.0
    command_rate: float = 100.0
    gripper_rate: float = 30.0
    seen_noise: float = 0.0005
    state_noise: float = 0.00005
    width_noise: float = 0.0002
    jitter: float = 0.001
    amplitude: float = 0.05
    duration: float = 12.0
    gripper_duration: float = 16.0


def recording_with(
    injected: Mapping[str, float], seed: int, setup: SyntheticSetup | None = None
) -> LatencyRecording:
    """A recording whose latencies [s] by NAMES are known."""
    s, rng = setup or SyntheticSetup(), np.random.default_rng([seed, 77])

    def commanded(t: Vector) -> Vector:
        return excitation(t - EPOCH, s.amplitude, s.duration)

    def arm(t: Vector) -> Vector:
        return commanded(t - injected["robot_action"])

    camera, observed = injected["camera"], injected["robot_observation"]
    seen = _sampled("camera frames", arm, s.camera_rate, camera, s.seen_noise, s, rng)
    state = _sampled("robot states", arm, s.state_rate, observed, s.state_noise, s, rng)
    clock = _sampled("pattern by the clock", arm, s.state_rate, 0.0, 0.0, s, rng)
    sent = _sampled("setpoints sent", commanded, s.command_rate, 0.0, 0.0, s, rng)
    stamps, widths = gripper_commands(s.gripper_duration)
    commands = HandCommands(EPOCH + stamps, widths, FR3.gripper_width)
    ramp = commands.ramp(rng.uniform(0.06, 0.25), EPOCH + s.gripper_duration)
    grid = np.arange(EPOCH, EPOCH + s.gripper_duration, 1.0 / s.gripper_rate)
    grid = grid + rng.normal(0.0, s.jitter, len(grid))
    width = np.interp(grid - injected["gripper"], ramp.stamps, ramp.values[:, 0])
    width = width + rng.normal(0.0, s.width_noise, len(grid))
    return LatencyRecording(
        clock, seen, seen, state, sent, commands, Signal("gripper widths", grid, width)
    )


def latency_errors_ms(seed: int) -> Mapping[str, float]:
    """Error [ms] of each latency by NAMES, for latencies drawn between 20 and 200 ms."""
    rng = np.random.default_rng([seed, 78])
    injected = {name: float(rng.uniform(LOWEST_S, HIGHEST_S)) for name in NAMES}
    found = measure(recording_with(injected, seed))
    return {name: 1e3 * (found[name].seconds - injected[name]) for name in NAMES}


def latency_error_ms(seeds: int = 20) -> float:
    """Largest absolute error [ms] over `seeds` recordings and all four latencies."""
    errors = [latency_errors_ms(seed) for seed in range(seeds)]
    return max(abs(error) for by_name in errors for error in by_name.values())


def _sampled(
    name: str,
    motion: Callable[[Vector], Vector],
    rate: float,
    latency: float,
    noise: float,
    setup: SyntheticSetup,
    rng: Noise,
) -> Signal:
    """`motion` sampled at `rate`, stamped late by `latency`, with noise and jitter."""
    regular = np.arange(EPOCH - 0.5, EPOCH + setup.duration + 0.5, 1.0 / rate)
    events = regular + rng.uniform(0.0, 1.0 / rate)
    jitter = np.clip(rng.normal(0.0, setup.jitter, len(events)), -0.4 / rate, 0.4 / rate)
    values = motion(events) + rng.normal(0.0, noise, len(events))
    return Signal(name, events + latency + jitter, values)
