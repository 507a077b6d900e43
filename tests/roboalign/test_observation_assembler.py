"""Observations are aligned in time, or there is none and a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.observation import CameraFrame, Observation
from roboalign.observation_assembler import NotReady, ObservationAssembler


def frame(stamp: float) -> CameraFrame:
    return CameraFrame(np.full((4, 6, 3), int(100 * stamp) % 256, np.uint8), stamp)


def pose(x: float) -> np.ndarray:
    return np.array([x, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])


def add_states(assembler: ObservationAssembler, start: float, end: float) -> None:
    """50 Hz, everything linear in time."""
    for stamp in np.arange(start, end, 0.02):
        assembler.add_pose(stamp, pose(0.1 * stamp))
        assembler.add_joints(stamp, [0.01 * stamp] * 7, [0.0] * 7)
        assembler.add_gripper(stamp, min(1.0, 0.05 * stamp))


@given(st.floats(0.0, 0.09), st.floats(0.0, 0.05))
def test_the_camera_that_lags_sets_the_time(skew: float, age: float) -> None:
    assembler = ObservationAssembler(["front", "wrist"])
    add_states(assembler, 4.0, 5.3)
    assembler.add_frame("front", frame(5.0))
    assembler.add_frame("wrist", frame(5.0 + skew))
    seen = assembler.assemble(5.0 + skew + age, "go")
    assert isinstance(seen, Observation)
    assert seen.stamp == 5.0
    assert seen.frames["wrist"].stamp == 5.0 + skew
    assert seen.state.pose[0] == pytest.approx(0.5)
    assert seen.state.joint_positions[3] == pytest.approx(0.05)
    assert seen.state.gripper_opening == pytest.approx(0.25)


def test_the_nearest_frame_of_the_other_camera_is_used() -> None:
    assembler = ObservationAssembler(["front", "wrist"])
    add_states(assembler, 4.0, 5.3)
    assembler.add_frame("front", frame(5.0))
    for stamp in (4.9, 4.98, 5.03, 5.1):
        assembler.add_frame("wrist", frame(stamp))
    seen = assembler.assemble(5.12, "go")
    assert isinstance(seen, Observation)
    assert seen.frames["wrist"].stamp == 4.98


def test_nothing_is_extrapolated() -> None:
    assembler = ObservationAssembler(["front"])
    add_states(assembler, 4.0, 5.0)
    assembler.add_frame("front", frame(5.1))
    seen = assembler.assemble(5.1, "go")
    assert isinstance(seen, Observation)
    assert seen.state.pose[0] == pytest.approx(0.498)


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("wrist", "camera wrist: no frame yet"),
        ("old wrist", "camera wrist: its newest frame is 2.00 s old"),
        ("states", "arm: no pose yet"),
        ("old states", "arm: its newest pose is"),
        ("skewed wrist", "camera wrist: its nearest frame is 0.200 s off"),
    ],
)
def test_the_reason_names_the_input(missing: str, why: str) -> None:
    assembler = ObservationAssembler(["front", "wrist"])
    if missing != "states":
        add_states(assembler, 3.0, 4.0 if missing == "old states" else 5.1)
    assembler.add_frame("front", frame(5.0))
    if missing != "wrist":
        stamp = {"old wrist": 3.1, "skewed wrist": 5.2}.get(missing, 5.0)
        assembler.add_frame("wrist", frame(stamp))
    seen = assembler.assemble(5.1, "go")
    assert isinstance(seen, NotReady)
    assert seen.reason.startswith(why)


def test_values_that_are_not_finite_are_not_kept() -> None:
    assembler = ObservationAssembler(["front"])
    with pytest.raises(ValueError, match="finite"):
        assembler.add_pose(1.0, pose(float("nan")))
    with pytest.raises(ValueError, match="finite"):
        assembler.add_joints(1.0, [float("inf")] * 7, [0.0] * 7)
    with pytest.raises(ValueError, match="finite"):
        assembler.add_gripper(1.0, float("nan"))
    assembler.add_frame("front", frame(1.0))
    assert isinstance(assembler.assemble(1.0, "go"), NotReady)


def moving_assembler(pictures: str, speed: float = 0.1) -> ObservationAssembler:
    """Half a second at 20 Hz; each letter of `pictures` is a frame."""
    assembler = ObservationAssembler(["front"])
    for number, letter in enumerate(pictures):
        stamp = 5.0 + 0.05 * number
        assembler.add_pose(stamp, pose(0.3 + speed * 0.05 * number))
        assembler.add_joints(stamp, [0.0] * 7, [0.0] * 7)
        assembler.add_gripper(stamp, 1.0)
        assembler.add_frame("front", CameraFrame(np.full((4, 6, 3), ord(letter), np.uint8), stamp))
    return assembler


def test_a_picture_that_stays_while_the_arm_moves_is_no_observation() -> None:
    now = 5.0 + 0.05 * 9
    frozen = moving_assembler("abcddddddd").assemble(now, "go")
    assert isinstance(frozen, NotReady)
    assert frozen.input == "camera front" and "same picture" in frozen.reason
    assert isinstance(moving_assembler("abcddddddd", speed=0.0).assemble(now, "go"), Observation)
    assert isinstance(moving_assembler("abcdefghii").assemble(now, "go"), Observation)


def test_a_states_latency_is_taken_off() -> None:
    assembler = ObservationAssembler(["front"])
    assembler.state_latency = 0.1
    add_states(assembler, 4.0, 5.3)
    assembler.add_frame("front", frame(5.0))
    seen = assembler.assemble(5.1, "go")
    assert isinstance(seen, Observation)
    assert seen.state.pose[0] == pytest.approx(0.1 * 5.1)
