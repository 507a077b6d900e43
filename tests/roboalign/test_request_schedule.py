"""When the policy is asked, in each mode, and that the arm never runs out of waypoints."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.action import ActionChunk
from roboalign.chunk_executor import ChunkExecutor
from roboalign.execution_mode import ExecutionMode
from roboalign.latency_estimate import LatencyEstimate
from roboalign.request_schedule import TAKE_OVER_S, TRANSPORT_S, ChunkTiming, RequestSchedule

TIMING = ChunkTiming(horizon=16, execute_steps=6, time_step=0.1, continues=True)
HERE = np.array([0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
ASYNCHRONOUS, RTC = ExecutionMode.ASYNCHRONOUS, ExecutionMode.REALTIME_CHUNKING
SYNCHRONOUS, ENSEMBLING = ExecutionMode.SYNCHRONOUS, ExecutionMode.TEMPORAL_ENSEMBLING


def schedule(mode: ExecutionMode, latency_s: float = 0.1) -> RequestSchedule:
    return RequestSchedule(TIMING, mode, LatencyEstimate(initial_s=latency_s))


def chunk(stamp: float, timing: ChunkTiming = TIMING) -> ActionChunk:
    poses = np.tile(HERE, (timing.horizon, 1))
    poses[:, 0] += 0.01 * np.arange(1, timing.horizon + 1)
    return ActionChunk(repr(stamp), stamp, timing.time_step, poses, np.ones(timing.horizon))


def test_requests_keep_the_grid_of_waypoints() -> None:
    asked = schedule(ASYNCHRONOUS)
    assert asked.wants(10.0)
    asked.taken(10.0)
    assert not asked.wants(10.5)
    assert asked.wants(10.59)  # a frame some ms early is the frame that was meant
    asked.taken(10.59)
    assert asked.wants(3.0)  # the clock went back


@pytest.mark.parametrize(
    ("latency", "continues", "period"),
    [(0.1, True, 0.3), (0.4, True, 0.5), (0.7, True, 0.6), (0.1, False, 0.6)],
)
def test_chunks_that_join_are_renewed_more_often(
    latency: float, continues: bool, period: float
) -> None:
    timing = ChunkTiming(horizon=16, execute_steps=6, time_step=0.1, continues=continues)
    asked = RequestSchedule(timing, RTC, LatencyEstimate(initial_s=latency))
    assert asked.period == pytest.approx(period)


def test_ensembling_asks_at_each_step() -> None:
    asked = schedule(ENSEMBLING)
    asked.taken(10.0)
    assert not asked.wants(10.05)
    assert asked.wants(10.1)


def test_synchronous_looks_again_only_when_the_executed_waypoints_have_ended() -> None:
    asked = schedule(SYNCHRONOUS)
    asked.taken(10.0)
    new = chunk(10.0)
    asked.answered(new, now=10.4, seconds=0.3)
    assert not asked.wants(10.99)
    assert asked.wants(11.0)
    assert asked.executed(new, None, None).horizon == TIMING.execute_steps
    assert schedule(ASYNCHRONOUS).executed(new, None, None) is new
    assert schedule(RTC).executed(new, None, None) is new


def test_after_a_failure_it_asks_at_once() -> None:
    for mode in ExecutionMode:
        asked = schedule(mode)
        asked.taken(10.0)
        asked.failed()
        assert asked.wants(10.05)


@given(st.floats(0.0, 3.0))
def test_the_period_shrinks_before_the_queue_could_empty(latency: float) -> None:
    asked = schedule(RTC, latency)
    assert TIMING.time_step <= asked.period <= TIMING.execute_steps * TIMING.time_step
    if asked.period > TIMING.time_step:
        assert asked.period + latency + TRANSPORT_S < TIMING.horizon * TIMING.time_step


@given(st.floats(0.0, 0.2), st.floats(0.0, 0.6), st.sampled_from([0.0, 0.05, 0.2]))
def test_the_delay_covers_every_waypoint_that_the_arm_will_not_take_from_the_answer(
    age: float, latency: float, robot_action: float
) -> None:
    asked = RequestSchedule(TIMING, RTC, LatencyEstimate(initial_s=latency), robot_action)
    old = chunk(10.0)
    asked.taken(10.0)
    asked.answered(old, now=10.0, seconds=0.0)
    stamp, now = 10.6, 10.6 + age
    previous, delay = asked.continuation(stamp, now)
    arrival = now + latency + TRANSPORT_S + robot_action
    if old.times[-1] <= arrival:
        assert (previous, delay) == (None, None)
        return
    assert previous is old and delay is not None
    past = int((chunk(stamp).times <= arrival).sum())
    assert past <= delay <= past + 1
    assert delay == ceil((arrival - stamp) / TIMING.time_step)


def test_there_is_nothing_to_go_on_from_in_other_modes_and_for_other_bundles() -> None:
    for mode in ExecutionMode:
        asked = schedule(mode)
        assert asked.continuation(10.0, 10.0) == (None, None)
        asked.taken(10.0)
        asked.answered(chunk(10.0), now=10.1, seconds=0.1)
        assert (asked.continuation(10.6, 10.6)[0] is not None) == (mode == RTC)
    unable = ChunkTiming(horizon=16, execute_steps=6, time_step=0.1, continues=False)
    asked = RequestSchedule(unable, RTC, LatencyEstimate())
    asked.answered(chunk(10.0), now=10.1, seconds=0.1)
    assert asked.continuation(10.6, 10.6) == (None, None)


@pytest.mark.parametrize("followed", ["", "another"])
def test_an_arm_that_follows_something_else_is_not_gone_on_from(followed: str) -> None:
    asked = schedule(RTC)
    asked.taken(10.0)
    new = chunk(10.0)
    asked.answered(new, now=10.1, seconds=0.1)
    asked.arm_follows(followed, 10.1 + 0.5 * TAKE_OVER_S)  # the chunk is on its way
    asked.arm_follows(new.chunk_id, 10.1 + 2.0 * TAKE_OVER_S)
    assert asked.continuation(10.6, 10.6)[0] is new
    asked.arm_follows(followed, 10.1 + 2.0 * TAKE_OVER_S)
    assert asked.continuation(10.6, 10.6) == (None, None)


def test_an_arm_that_refuses_all_chunks_is_noticed_though_they_keep_coming() -> None:
    asked = schedule(RTC)
    for number in range(6):
        now = 10.0 + 0.5 * TAKE_OVER_S * number
        asked.answered(chunk(now), now, seconds=0.1)
        if number < 3:
            asked.arm_follows(repr(now - 0.5 * TAKE_OVER_S) if number else "", now)
            assert asked.continuation(now, now)[0] is not None
    asked.arm_follows("refused all", now)
    assert asked.continuation(now, now) == (None, None)


@given(
    st.lists(st.floats(0.02, 0.5), min_size=8, max_size=8),
    st.floats(0.0, 0.2),
    st.sampled_from([ASYNCHRONOUS, RTC, ENSEMBLING]),
)
def test_the_queue_never_empties(
    latencies: list[float], frame_age: float, mode: ExecutionMode
) -> None:
    """Whatever the answers take, up to what the horizon allows: from the first chunk on the arm
    always has a waypoint, with the executor of the arm and frames at 20 Hz.
    """
    executor, asked, frame = ChunkExecutor(), schedule(mode), 0.05
    coming: tuple[float, ActionChunk, float] | None = None
    waiting, pose = list(latencies), HERE
    followed = False
    for now in np.arange(20.0, 25.0, 0.01):
        stamp = np.floor((now - frame_age) / frame) * frame
        if coming is None and waiting and asked.wants(stamp):
            asked.taken(stamp)
            seconds = waiting.pop(0)
            coming = (now + seconds, chunk(float(stamp)), seconds)
        if coming is not None and coming[0] <= now:
            executor.add(coming[1], float(now), current_pose=pose, mode=mode)
            asked.answered(coming[1], float(now), coming[2])
            coming, followed = None, True
        if not waiting and coming is None:
            return
        target = executor.target(float(now))
        assert (target is not None) == followed
        pose = pose if target is None else target.pose


@pytest.mark.parametrize(
    "wrong", [{"execute_steps": 17}, {"execute_steps": 0}, {"time_step": 0.0}, {"horizon": 5}]
)
def test_a_timing_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    metadata = {"horizon": 16, "execute_steps": 6, "time_step": 0.1}
    assert ChunkTiming.from_metadata(metadata) == ChunkTiming(16, 6, 0.1, continues=False)
    with pytest.raises(ValueError, match="execute_steps"):
        ChunkTiming.from_metadata(metadata | wrong)
