"""Recording what the latencies are measured from, on a live set-up: arm, camera, clock, hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import franky
import numpy as np

from calibration import detection
from calibration.board import Board
from calibration.detection import CaptureError
from calibration.latency import LatencyError, Signal, along_motion
from calibration.latency_recording import HandCommands, excitation, gripper_commands
from calibration.live_arm import Track
from calibration.live_camera import Frame
from calibration.live_link import LiveSource
from calibration.pinhole import Intrinsics
from calibration.source import MotionError
from contracts import kinematics
from contracts.geometry import Vector
from contracts.robot import FR3

if TYPE_CHECKING:
    from simulation.live_process import LiveProcess

ARM_SECONDS: Final = 12.0
AMPLITUDE: Final = 0.045
"""Metres to each side; at most 0.15 m/s."""
HAND_SECONDS: Final = 16.0
HAND_PERIOD: Final = 1.0 / 30.0
"""Seconds between two readings of the hand, as in the arm node."""
TRUTH_PERIOD: Final = 0.01
LEAST_RATE: Final = 850.0
"""Ticks a second of a simulation in real time, with some allowance."""
GRASP_FORCE: Final = 20.0
HAND_ERRORS: Final = (franky.Exception, franky.GripperException)
SIDEWAYS: Final = np.array([0.0, 1.0, 0.0])
"""Direction of the motion in the base: across the view of both cameras."""


def record_motion(source: LiveSource, seconds: float = ARM_SECONDS) -> tuple[Track, list[Frame]]:
    """Move the arm sideways about where it stands, and keep all frames.

    Raises:
        MotionError: the arm does not follow. CaptureError: the camera gives no frames.
    """
    centre = source.arm.commanded_pose
    frames: list[Frame] = []

    def path(t: float) -> Vector:
        offset = float(excitation(t, AMPLITUDE, seconds))
        return np.concatenate([centre[:3] + offset * SIDEWAYS, centre[3:]])

    with _in_thread(lambda: frames.append(source.live_camera.read())):
        track = source.arm.follow(path, seconds)
    return track, frames


def record_frames(source: LiveSource, seconds: float = ARM_SECONDS) -> list[Frame]:
    """All frames of some seconds, with the arm at rest. Raises CaptureError: there are none."""
    frames: list[Frame] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frames.append(source.live_camera.read())
    return frames


def seen_positions(frames: list[Frame], board: Board, intrinsics: Intrinsics, name: str) -> Signal:
    """Where the board is along its motion [m] (its sign is arbitrary), by the frames' stamps.

    Raises:
        LatencyError: the board is seen in too few frames.
    """
    stamps, positions = [], []
    for frame in frames:
        try:
            found = detection.detect(frame.image, board)
            pose, _ = detection.board_pose(found, board, intrinsics)
        except CaptureError:
            continue  # counted below: a few frames may miss it
        stamps.append(frame.stamp)
        positions.append(pose[:3])
    if 2 * len(stamps) < len(frames) or not stamps:
        raise LatencyError(
            f"{name}: the board is seen in {len(stamps)} of {len(frames)} pictures; put it into "
            "the middle of the view and light it evenly"
        )
    return Signal(name, np.array(stamps), along_motion(positions))


def arm_signals(track: Track) -> tuple[Signal, Signal]:
    """Commanded and measured motion [m] along the path."""
    sent = np.array(track.sent_poses)[:, :3] @ SIDEWAYS
    read = np.array([reading.pose[:3] for reading in track.readings]) @ SIDEWAYS
    stamps = np.array([reading.stamp for reading in track.readings])
    return (
        Signal("setpoints sent", np.array(track.sent_stamps), sent),
        Signal("robot states", stamps, read),
    )


@contextmanager
def watched_truth(simulation: LiveProcess) -> Iterator[Callable[[], Signal]]:
    """The simulated arm's own motion [m] by the wall clock, as an outside observer sees it.

    Yields a function that gives it when the block has ended. That raises LatencyError if the
    simulation did not keep real time: what is late then is the machine.
    """
    # Imported here: a robot PC has no simulator installed.
    from simulation.live_control import LiveControlError
    from simulation.shared_state import StateReader

    reader = StateReader(simulation.shared_memory)
    rows: dict[float, Vector] = {}

    def watch() -> None:
        state = reader.read()
        if state is not None:
            rows[state.stamp] = state.qpos[:7]
        time.sleep(TRUTH_PERIOD)

    def signal() -> Signal:
        if rate < LEAST_RATE:
            raise LatencyError(
                f"the simulation ran at {rate:.0f} Hz instead of 1000: this machine is too busy "
                "for latencies; try again when it is idle"
            )
        stamps = np.array(sorted(rows))
        places = [kinematics.forward(rows[stamp])[:3] @ SIDEWAYS for stamp in stamps.tolist()]
        return Signal("arm by the clock", stamps, np.array(places))

    try:
        simulation.control.status()  # its rate is counted from here on
        with _in_thread(watch):
            yield signal
        rate = simulation.control.status().rate_hz
    except LiveControlError as error:
        raise MotionError(str(error)) from error


def record_hand(address: str, seconds: float = HAND_SECONDS) -> tuple[HandCommands, Signal]:
    """Open and close the hand at uneven times: the commands, and the width [m] that is read.

    Raises:
        MotionError: the hand does not answer.
    """
    try:
        hand = franky.Gripper(address)
        hand.open(FR3.gripper_speed)
        return _play_hand(hand, seconds)
    except HAND_ERRORS as error:
        raise MotionError(f"hand at {address}: {error}") from error


def _play_hand(hand: franky.Gripper, seconds: float) -> tuple[HandCommands, Signal]:
    times, wanted = gripper_commands(seconds)
    failures: list[Exception] = []
    stamps: list[float] = []
    readings: list[tuple[float, float]] = []

    def command() -> None:
        begin = time.monotonic()
        try:
            for at, width in zip(times.tolist(), wanted.tolist(), strict=True):
                time.sleep(max(0.0, begin + at - time.monotonic()))
                stamps.append(time.time())
                if width > 0.0:
                    hand.open(FR3.gripper_speed)
                else:
                    hand.grasp(0.0, FR3.gripper_speed, GRASP_FORCE, epsilon_outer=FR3.gripper_width)
        except HAND_ERRORS as error:
            failures.append(error)

    commander = threading.Thread(target=command, name="hand commands", daemon=True)
    start = hand.state.width
    commander.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not failures:
        width = hand.state.width
        readings.append((time.time(), width))
        time.sleep(HAND_PERIOD)
    commander.join(timeout=5.0)
    if failures:
        raise failures[0]
    if commander.is_alive():
        raise MotionError("the hand does not end its last command")
    rows = np.array(readings)
    commands = HandCommands(np.array(stamps), wanted[: len(stamps)], start)
    return commands, Signal("gripper widths", rows[:, 0], rows[:, 1])


@contextmanager
def _in_thread(step: Callable[[], None]) -> Iterator[None]:
    """Repeat `step` in a thread until the block ends; its error is raised then."""
    ended, failures = threading.Event(), []

    def run() -> None:
        try:
            while not ended.is_set():
                step()
        except Exception as error:  # handed over to the block's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="latency recording", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5.0)
    if failures:
        raise failures[0]
