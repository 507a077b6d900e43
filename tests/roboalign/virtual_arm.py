"""The runtime in virtual time: schedule, executor and follower, with a policy that takes its time.

Deterministic, without ROS, processes or a wall clock: the same pure parts that the nodes wire.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from contracts import kinematics
from contracts.action import ActionChunk
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.robot import FR3
from roboalign.bench_metrics import ChunkTrace, SetpointStream
from roboalign.chunk_executor import ChunkExecutor
from roboalign.execution_mode import ExecutionMode
from roboalign.latency_estimate import LatencyEstimate
from roboalign.request_schedule import ChunkTiming, RequestSchedule

PERIOD = 0.01
FRAME = 1.0 / 15.0
FRAME_AGE = 0.04
TIMING = ChunkTiming(horizon=16, execute_steps=6, time_step=0.1, continues=True)
START = kinematics.forward(FR3.home_joints)


def circle(time: float) -> Vector:
    """Where the policy wants to be: 5 cm around a point beside the home pose, at 0.1 m/s."""
    pose = START.copy()
    angle = 2.0 * (time - 10.0)
    pose[:2] += 0.05 * np.array([np.cos(angle) - 1.0, np.sin(angle)])
    return pose


class WaveringPolicy:
    """Chunks along `circle`, each a little aside; one that goes on from another begins with it.

    The latter is what real-time chunking makes of a policy: weight 1 up to the delay, then less.
    """

    def __init__(self, wavering: float = 0.01) -> None:
        self._wavering = wavering
        self._rng = np.random.default_rng(0)

    def __call__(
        self, stamp: float, pose: Vector, previous: ActionChunk | None, delay: int | None
    ) -> ActionChunk:
        times = stamp + TIMING.time_step * np.arange(1, TIMING.horizon + 1)
        # In its own time the motion goes on from where the arm is, as a policy's does.
        phase = np.arctan2(pose[1] - START[1], pose[0] - START[0] + 0.05) / 2.0 + 10.0
        poses = np.array([circle(phase + t - stamp) for t in times])
        poses[:, :3] += self._rng.normal(0.0, self._wavering, 3) * [1.0, 1.0, 0.3]
        if previous is not None and delay is not None:
            weight = np.clip((10 - np.arange(TIMING.horizon)) / (11.0 - delay), 0.0, 1.0)
            old = np.stack(
                [np.interp(times, previous.times, axis) for axis in previous.poses[:, :3].T], axis=1
            )
            poses[:, :3] += weight[:, None] * (old - poses[:, :3])
        return ActionChunk(repr(stamp), stamp, TIMING.time_step, poses, np.ones(TIMING.horizon))


def run(
    mode: ExecutionMode,
    latency: Callable[[], float],
    policy: WaveringPolicy | None = None,
    seconds: float = 12.0,
) -> tuple[SetpointStream, list[ChunkTrace]]:
    """Setpoints of `seconds`, and the chunks they came from; `latency` gives each answer's [s]."""
    policy = policy or WaveringPolicy()
    executor, follower = ChunkExecutor(), PoseFollower(FR3.home_joints, PERIOD)
    schedule = RequestSchedule(TIMING, mode, LatencyEstimate())
    poses = {0: follower.pose}
    coming: tuple[float, ActionChunk, float] | None = None
    goes_on: tuple[ActionChunk | None, int | None] = None, None
    rows: list[tuple[float, Vector, str]] = []
    traces = []
    for tick in range(round(seconds / PERIOD)):
        now = 10.0 + tick * PERIOD
        poses[tick] = follower.pose
        stamp = np.floor((now - FRAME_AGE) / FRAME) * FRAME
        if coming is None and schedule.wants(stamp):
            schedule.taken(stamp)
            seen = poses[max(0, round((stamp - 10.0) / PERIOD))]
            goes_on = schedule.continuation(stamp, now)
            chunk = policy(stamp, seen, *goes_on)
            delay = latency()
            coming = (now + delay, chunk, delay)
        if coming is not None and coming[0] <= now:
            _, chunk, delay = coming
            coming = None
            chunk = schedule.executed(chunk, *goes_on)
            executor.add(chunk, now, current_pose=follower.wanted, mode=mode)
            schedule.answered(chunk, now, delay)
            due = chunk.times
            positions = chunk.poses[:, :3]
            if mode == ExecutionMode.SYNCHRONOUS:
                due = now + TIMING.time_step * np.arange(1, TIMING.execute_steps + 1)
            traces.append(ChunkTrace(chunk.chunk_id, TIMING.time_step, due, positions))
        target = executor.target(now)
        setpoint = follower.hold() if target is None else follower.step(target.pose)
        rows.append((now, setpoint.pose[:3], target.chunk_id if target else ""))
    times, positions, names = zip(*rows, strict=True)
    return SetpointStream(np.array(times), np.array(positions), names), traces
