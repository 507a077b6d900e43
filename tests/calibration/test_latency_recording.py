"""The four latencies of a recording, each under its own name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.latency import Delay, LatencyError, Signal
from calibration.latency_bench import SyntheticSetup, latency_errors_ms, recording_with
from calibration.latency_page import charts, render_page
from calibration.latency_recording import (
    NAMES,
    HandCommands,
    excitation,
    hand_delay,
    measure,
    to_latencies,
)
from contracts.geometry import Vector

INJECTED = {
    "camera": 0.125,
    "robot_observation": 0.02,
    "robot_action": 0.2,
    "gripper": 0.1,
}


def test_all_four_are_found_within_3_ms() -> None:
    for seed in (1, 2):
        errors = latency_errors_ms(seed)
        assert set(errors) == set(NAMES)
        assert max(map(abs, errors.values())) < 3.0


def test_none_is_taken_for_another() -> None:
    found = measure(recording_with(INJECTED, 5))
    for name, seconds in INJECTED.items():
        assert found[name].seconds == pytest.approx(seconds, abs=0.003), name


def test_a_noisy_camera_shows_in_its_interval_alone() -> None:
    setup = SyntheticSetup(seen_noise=0.003)
    quiet, noisy = (measure(recording_with(INJECTED, 6, s)) for s in (None, setup))

    def width(delay: Delay) -> float:
        return delay.high - delay.low

    assert width(noisy["camera"]) > 2 * width(quiet["camera"])
    assert width(noisy["gripper"]) == pytest.approx(width(quiet["gripper"]), rel=0.5)


def test_a_robot_clock_that_is_ahead_is_refused() -> None:
    recording = recording_with(INJECTED, 7)
    arm = recording.arm
    ahead = replace(recording, arm=Signal(arm.name, arm.stamps - 0.15, arm.values))
    with pytest.raises(LatencyError, match=r"robot_observation.*clocks of robot and camera"):
        measure(ahead)


def test_noise_below_zero_becomes_zero_and_intervals_stay_around_the_value() -> None:
    delays = {name: Delay(0.05, 0.049, 0.051, 1.0) for name in NAMES}
    delays["robot_observation"] = Delay(-0.0005, -0.001, 0.0002, 1.0)
    latencies = to_latencies(delays)
    assert latencies.robot_observation == 0.0
    assert latencies.intervals is not None
    assert latencies.intervals["robot_observation"] == (0.0, 0.0002)
    assert latencies.gripper == 0.05


def test_the_excitation_starts_and_ends_at_rest_within_its_amplitude() -> None:
    t = np.linspace(0.0, 12.0, 4001)
    offset = excitation(t, 0.05, 12.0)
    assert offset[0] == offset[-1] == 0.0
    assert np.abs(offset).max() <= 0.05
    assert np.abs(np.gradient(offset, t)).max() < 0.3


def ramp_values(commands: HandCommands, times: list[float]) -> Vector:
    ramp = commands.ramp(0.1, 6.0)
    return np.asarray(np.interp(times, ramp.stamps, ramp.values[:, 0]))


def test_fingers_without_latency_move_at_their_speed() -> None:
    commands = HandCommands(np.array([1.0, 3.0]), np.array([0.0, 0.08]), 0.08)
    assert ramp_values(commands, [0.5, 1.4, 2.0, 3.4, 5.0]) == pytest.approx(
        [0.08, 0.04, 0.0, 0.04, 0.08], abs=0.0011
    )


def test_a_hand_that_was_not_told_anything_or_did_not_move_is_refused() -> None:
    with pytest.raises(LatencyError, match="hand commands"):
        HandCommands(np.zeros(0), np.zeros(0), 0.08)
    recording = recording_with(INJECTED, 8)
    still = Signal("hand", recording.width.stamps, np.full(len(recording.width.stamps), 0.08))
    with pytest.raises(LatencyError, match="hand: too little motion"):
        hand_delay(recording.hand_commands, still)


def test_the_page_moves_each_pair_together() -> None:
    recording = recording_with(INJECTED, 9)
    delays = measure(recording)
    drawn = charts(recording, delays)
    assert [chart.name for chart in drawn] == list(NAMES)
    camera = drawn[0]
    first, second, aligned = (
        np.array([point.split(",") for point in line.split()], dtype=float)
        for line in (camera.first_line, camera.second_line, camera.aligned_line)
    )

    def apart(line: Vector) -> float:
        inside = (line[:, 0] > first[0, 0]) & (line[:, 0] < first[-1, 0])
        there = np.interp(line[inside, 0], first[:, 0], first[:, 1])
        return float(np.abs(line[inside, 1] - there).mean())

    assert apart(aligned) < 0.3 * apart(second)
    page = render_page(recording, delays, "lab <7>")
    assert "lab &lt;7&gt;" in page
    assert page.count("<polyline") == 3 * len(NAMES)
    assert f"{1e3 * delays['robot_action'].seconds:.1f} ms" in page
