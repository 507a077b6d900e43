"""One episode in numbers, from its states, commands and stamps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts import episode as layout
from contracts import geometry
from contracts.geometry import Vector
from teleop.dataset import Episode

IDLE_SPEED: Final = 0.005
IDLE_TURN: Final = 0.05
IDLE_GRIPPER: Final = 0.05
"""Below these [m/s, rad/s, openings/s] the arm stands still."""
SHORT_TOGGLE: Final = 0.4
"""Seconds between two gripper commands of opposite sense that nobody means."""
STREAMS: Final = (layout.ROBOT_STATE.topic, layout.COMMAND.topic, layout.FILTERED_COMMAND.topic)


@dataclass(frozen=True)
class Motion:
    """How the arm moved. Times [s], lengths [m].

    idle_ratio: share of the time at rest, idle_start and idle_end at the ends. command_jump and
    state_jump: the largest step between two samples, over what the step's time allows at
    `RobotSpec.linear_speed`. chatter: gripper commands taken back within SHORT_TOGGLE.
    """

    duration: float
    path_length: float
    top_height: float
    idle_ratio: float
    idle_start: float
    idle_end: float
    command_jump: float
    state_jump: float
    gripper_toggles: int
    chatter: int
    limited_ratio: float


@dataclass(frozen=True)
class Stream:
    """Timing of one stream: messages, median period [s], and what is missing or out of order.

    starts_late, ends_early: against the robot state [s]. delay: median of receipt minus stamp [s];
    drift: how much that changed from the first to the last fifth [s].
    """

    topic: str
    count: int
    period: float
    dropped: int
    longest_gap: float
    backwards: int
    starts_late: float
    ends_early: float
    delay: float
    drift: float


def motion(episode: Episode, linear_speed: float) -> Motion:
    """Measure one episode; `linear_speed` [m/s] is what the arm may do."""
    times, poses = episode.state_times, episode.states["pose"]
    moving = moving_samples(episode)
    busy = np.flatnonzero(moving)
    span = float(times[-1] - times[0])
    steps = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1)
    period = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    toggles, chatter = _toggles(episode)
    limited = episode.filtered["limited"]
    return Motion(
        duration=span,
        path_length=float(steps.sum()),
        top_height=float(poses[:, 2].max()),
        idle_ratio=float(1.0 - moving.mean()) if len(moving) else 1.0,
        idle_start=float(times[busy[0]] - times[0]) if len(busy) else span,
        idle_end=float(times[-1] - times[busy[-1] + 1]) if len(busy) else span,
        command_jump=_largest_step(
            episode.command_times, episode.commands["pose"], linear_speed, 2 * period
        ),
        state_jump=_largest_step(times, poses, linear_speed, 2 * period),
        gripper_toggles=toggles,
        chatter=chatter,
        limited_ratio=float(limited.mean()) if len(limited) else 0.0,
    )


def moving_samples(episode: Episode) -> NDArray[np.bool_]:
    """Whether the arm moves between each state and the next, (N - 1,)."""
    times, states = episode.state_times, episode.states
    step = np.maximum(np.diff(times), 1e-9)
    poses, opening = states["pose"], states["gripper_opening"]
    speed = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1) / step
    turn = geometry.to_rotation_vector(
        geometry.multiply(poses[1:, 3:], geometry.conjugate(poses[:-1, 3:]))
    )
    rotating = np.linalg.norm(turn, axis=1) / step > IDLE_TURN
    gripping = np.abs(np.diff(opening)) / step > IDLE_GRIPPER
    return np.asarray((speed > IDLE_SPEED) | rotating | gripping)


def streams(episode: Episode) -> list[Stream]:
    """Timing of every stream that the episode should have."""
    stamps = {
        layout.ROBOT_STATE.topic: episode.state_times,
        layout.COMMAND.topic: episode.command_times,
        layout.FILTERED_COMMAND.topic: episode.filtered_times,
    }
    for camera in episode.cameras:
        topic = layout.camera_topic(camera)
        stamps[topic] = episode.camera_stamps(camera)
    reference = episode.state_times
    return [
        _stream(topic, times, episode.log_times(topic), reference)
        for topic, times in stamps.items()
    ]


def _stream(topic: str, stamps: Vector, logged: Vector, reference: Vector) -> Stream:
    first, last = float(reference[0]), float(reference[-1])
    if not len(stamps):
        return Stream(topic, 0, 0.0, 0, 0.0, 0, last - first, last - first, 0.0, 0.0)
    gaps = np.diff(stamps)
    period = float(np.median(gaps)) if len(gaps) else 0.0
    missing = np.rint(gaps / period) - 1 if period > 0.0 else np.zeros(0)
    delays = logged - stamps
    part = max(len(delays) // 5, 1)
    return Stream(
        topic=topic,
        count=len(stamps),
        period=period,
        dropped=int(np.maximum(missing, 0).sum()),
        longest_gap=float(gaps.max()) if len(gaps) else 0.0,
        backwards=int((gaps <= 0.0).sum()),
        starts_late=float(stamps[0] - first),
        ends_early=float(last - stamps[-1]),
        delay=float(np.median(delays)),
        drift=float(np.median(delays[-part:]) - np.median(delays[:part])),
    )


def _largest_step(times: Vector, poses: Vector, speed: float, slack: float) -> float:
    """Largest step [m] beyond what its time and `slack` [s] allow at `speed`; 0 if none is."""
    if len(times) < 2:
        return 0.0
    steps = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1)
    allowed = speed * (np.diff(times) + slack)
    return float(np.max(np.where(steps > allowed, steps, 0.0)))


def _toggles(episode: Episode) -> tuple[int, int]:
    """Changes between open and close, and those taken back too soon to be meant."""
    closed = episode.commands["gripper"] < 0.5
    at = episode.command_times[1:][closed[1:] != closed[:-1]]
    return len(at), int((np.diff(at) < SHORT_TOGGLE).sum())
