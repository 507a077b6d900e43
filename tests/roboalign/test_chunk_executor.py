"""The executor's promises, for any stream of chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import geometry
from contracts.action import ActionChunk
from contracts.calibration import Latencies
from roboalign.chunk_executor import ChunkExecutor, ChunkRefused, GripperHysteresis, Target
from roboalign.execution_mode import ExecutionMode

DOWN = np.array([0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
MAX_AGE_S = 2.0


def chunk(
    stamp: float, horizon: int = 8, step: float = 0.1, x: float = 0.5, name: str = ""
) -> ActionChunk:
    """Waypoints that go from DOWN's x towards `x`; named after their stamp."""
    poses = np.tile(DOWN, (horizon, 1))
    poses[:, 0] = np.linspace(DOWN[0], x, horizon + 1)[1:]
    return ActionChunk(name or repr(stamp), stamp, step, poses, np.linspace(1.0, 0.0, horizon))


chunks = st.builds(
    chunk,
    stamp=st.floats(10.0, 14.0),
    horizon=st.integers(1, 20),
    step=st.floats(0.02, 0.3),
    x=st.floats(0.3, 0.7),
)


def run(
    executor: ChunkExecutor, given_chunks: list[ActionChunk], start: float, end: float
) -> list[tuple[float, Target | None]]:
    """(time, target) each 20 ms; each chunk comes 0.2 s after its stamp."""
    waiting = sorted(given_chunks, key=lambda c: c.observation_stamp)
    pose, seen = DOWN, []
    for now in np.arange(start, end, 0.02):
        while waiting and waiting[0].observation_stamp + 0.2 <= now:
            executor.add(waiting.pop(0), float(now), current_pose=pose)
        target = executor.target(float(now))
        pose = pose if target is None else target.pose
        seen.append((float(now), target))
    return seen


@given(chunks, st.floats(0.0, 1.9))
def test_past_waypoints_are_dropped_and_counted(new: ActionChunk, delay: float) -> None:
    now = new.observation_stamp + delay
    executor = ChunkExecutor(MAX_AGE_S)
    past = executor.add(new, now, current_pose=DOWN)
    assert past == int((new.times <= now).sum()) == executor.discarded
    assert executor.remaining(now) == pytest.approx(max(0.0, new.times[-1] - now))


@given(st.lists(chunks, min_size=1, max_size=5))
def test_targets_never_leave_what_was_commanded(given_chunks: list[ActionChunk]) -> None:
    """Interpolation only: every coordinate stays within the waypoints' and the start's range."""
    low = min(DOWN[0], *(c.poses[:, 0].min() for c in given_chunks))
    high = max(DOWN[0], *(c.poses[:, 0].max() for c in given_chunks))
    for _, target in run(ChunkExecutor(MAX_AGE_S), given_chunks, 10.0, 20.0):
        if target is not None:
            assert low - 1e-9 <= target.pose[0] <= high + 1e-9
            assert 0.0 <= target.gripper <= 1.0
            geometry.check_poses(target.pose, "target")


@given(st.lists(chunks, min_size=1, max_size=5))
def test_age_is_bounded(given_chunks: list[ActionChunk]) -> None:
    for now, target in run(ChunkExecutor(MAX_AGE_S), given_chunks, 10.0, 20.0):
        if target is not None:
            assert now - float(target.chunk_id) <= MAX_AGE_S + 1e-9


@given(chunks, st.floats(0.05, 1.0))
def test_the_newest_chunk_wins_from_its_first_future_waypoint(
    old: ActionChunk, later: float
) -> None:
    stamp = old.observation_stamp + later
    new = chunk(stamp, horizon=12, step=0.1, x=0.2, name="new")
    executor = ChunkExecutor(MAX_AGE_S)
    executor.add(old, old.observation_stamp, current_pose=DOWN)
    arrival = stamp + 0.15
    before = executor.target(arrival)
    executor.add(new, arrival, current_pose=DOWN if before is None else before.pose)
    for due, pose in zip(new.times, new.poses, strict=True):
        if due > arrival:
            target = executor.target(float(due))
            assert target is not None
            np.testing.assert_allclose(target.pose, pose, atol=1e-6)


@given(chunks, st.floats(0.1, 0.6), st.floats(0.2, 0.7))
def test_no_jump_when_a_chunk_is_replaced(old: ActionChunk, later: float, x: float) -> None:
    executor = ChunkExecutor(MAX_AGE_S)
    executor.add(old, old.observation_stamp, current_pose=DOWN)
    arrival = old.observation_stamp + later
    before = executor.target(arrival)
    if before is None:
        return
    new = chunk(arrival - 0.05, x=x, name="new")
    executor.add(new, arrival, current_pose=before.pose)
    after = executor.target(arrival)
    assert after is not None
    np.testing.assert_allclose(after.pose, before.pose, atol=1e-6)


def test_the_last_waypoint_is_reached_once_then_the_arm_holds() -> None:
    executor = ChunkExecutor(MAX_AGE_S)
    new = chunk(10.0, horizon=3)
    executor.add(new, 10.0, current_pose=DOWN)
    assert executor.target(10.295) is not None
    last = executor.target(10.305)
    assert last is not None
    np.testing.assert_allclose(last.pose, new.poses[-1])
    assert executor.target(10.315) is None


def test_starts_at_the_pose_last_commanded() -> None:
    executor = ChunkExecutor(MAX_AGE_S)
    here = DOWN + np.array([0.05, 0.02, 0, 0, 0, 0, 0])
    executor.add(chunk(10.0), 10.0, current_pose=here)
    target = executor.target(10.0)
    assert target is not None
    np.testing.assert_allclose(target.pose, here)


@pytest.mark.parametrize(
    ("stamp", "now", "why"),
    [(9.0, 10.0, "older than the newest"), (12.0, 10.0, "future"), (10.0, 12.5, "old")],
)
def test_refusals_say_why_and_change_nothing(stamp: float, now: float, why: str) -> None:
    executor = ChunkExecutor(MAX_AGE_S)
    executor.add(chunk(9.5, name="kept"), 9.5, current_pose=DOWN)
    left = executor.remaining(now)
    with pytest.raises(ChunkRefused, match=why):
        executor.add(chunk(stamp), now, current_pose=DOWN)
    assert executor.remaining(now) == left


def test_clear_refuses_what_was_observed_before() -> None:
    executor = ChunkExecutor(MAX_AGE_S)
    executor.add(chunk(10.0), 10.0, current_pose=DOWN)
    executor.clear(observed_after=10.5)
    assert executor.target(10.5) is None
    with pytest.raises(ChunkRefused):
        executor.add(chunk(10.4), 10.6, current_pose=DOWN)
    executor.add(chunk(10.6), 10.6, current_pose=DOWN)
    assert executor.target(10.7) is not None


def test_a_clock_that_jumps_back_holds_and_then_works_again() -> None:
    executor = ChunkExecutor(MAX_AGE_S)
    executor.add(chunk(10.0), 10.0, current_pose=DOWN)
    assert executor.target(10.1) is not None
    assert executor.target(5.0) is None
    executor.add(chunk(5.0), 5.0, current_pose=DOWN)
    assert executor.target(5.1) is not None


def line(stamp: float, speed: float = 0.1) -> ActionChunk:
    """Waypoints on one line at constant speed, the same for every stamp."""
    poses = np.tile(DOWN, (12, 1))
    poses[:, 0] += speed * (stamp + 0.1 * np.arange(1, 13) - 10.0)
    return ActionChunk(repr(stamp), stamp, 0.1, poses, np.ones(12))


@given(
    st.lists(st.floats(0.2, 0.6), min_size=1, max_size=5),
    st.floats(0.0, 0.3),
    st.sampled_from([ExecutionMode.REALTIME_CHUNKING, ExecutionMode.TEMPORAL_ENSEMBLING]),
)
def test_chunks_that_agree_are_one_motion_without_a_seam(
    gaps: list[float], delay: float, mode: ExecutionMode
) -> None:
    """Whenever they come, and off each other's grid: the arm moves on at constant speed."""
    period = 0.01
    waiting = [line(10.0 + float(gap)) for gap in np.cumsum([0.0, *gaps])]
    end = waiting[-1].observation_stamp + 1.0
    executor, pose, seen = ChunkExecutor(MAX_AGE_S), DOWN, []
    for now in np.arange(10.0, end, period):
        while waiting and waiting[0].observation_stamp + delay <= now:
            executor.add(waiting.pop(0), float(now), current_pose=pose, mode=mode)
        target = executor.target(float(now))
        if target is not None:
            pose = target.pose
            seen.append(pose[0])
    started = 0.15 + delay  # the first chunk begins where the arm was told to be
    steps = np.diff(seen)[round(started / period) :]
    np.testing.assert_allclose(steps, 0.1 * period, rtol=1e-6)


@given(chunks, st.floats(0.0, 1.9))
def test_a_synchronous_chunk_begins_when_it_comes(new: ActionChunk, delay: float) -> None:
    now = new.observation_stamp + delay
    executor = ChunkExecutor(max_age_s=10.0)
    assert executor.add(new, now, current_pose=DOWN, mode=ExecutionMode.SYNCHRONOUS) == 0
    for number, pose in enumerate(new.poses, start=1):
        target = executor.target(now + number * new.time_step)
        assert target is not None
        np.testing.assert_allclose(target.pose, pose, atol=1e-6)


def test_a_synchronous_chunk_replaces_what_is_left_of_the_one_before() -> None:
    executor = ChunkExecutor(MAX_AGE_S)
    executor.add(chunk(10.0), 10.0, current_pose=DOWN, mode=ExecutionMode.SYNCHRONOUS)
    before = executor.target(10.25)
    assert before is not None
    new = chunk(10.2, x=0.3, name="new")
    executor.add(new, 10.25, current_pose=before.pose, mode=ExecutionMode.SYNCHRONOUS)
    after = executor.target(10.35)
    assert after is not None and after.chunk_id == "new"
    np.testing.assert_allclose(after.pose, new.poses[0], atol=1e-6)


@given(st.lists(chunks, min_size=1, max_size=5))
def test_the_ensemble_is_executed_between_the_chunks_and_within_their_age(
    given_chunks: list[ActionChunk],
) -> None:
    given_chunks = sorted(given_chunks, key=lambda c: c.observation_stamp)
    executor, pose = ChunkExecutor(MAX_AGE_S), DOWN
    low = min(DOWN[0], *(c.poses[:, 0].min() for c in given_chunks))
    high = max(DOWN[0], *(c.poses[:, 0].max() for c in given_chunks))
    waiting = list(given_chunks)
    for now in np.arange(10.0, 18.0, 0.02):
        while waiting and waiting[0].observation_stamp + 0.1 <= now:
            executor.add(
                waiting.pop(0),
                float(now),
                current_pose=pose,
                mode=ExecutionMode.TEMPORAL_ENSEMBLING,
            )
        target = executor.target(float(now))
        if target is not None:
            pose = target.pose
            assert low - 1e-9 <= pose[0] <= high + 1e-9
            assert now - float(target.chunk_id) <= MAX_AGE_S + 1e-9


def test_the_ensemble_forgets_at_a_hold_and_in_another_mode() -> None:
    ensembling = ExecutionMode.TEMPORAL_ENSEMBLING
    for other in (None, ExecutionMode.ASYNCHRONOUS):
        executor = ChunkExecutor(MAX_AGE_S)
        executor.add(chunk(10.0, x=0.2), 10.0, current_pose=DOWN, mode=ensembling)
        if other is None:
            executor.clear(observed_after=10.01)
        else:
            executor.add(chunk(10.02, x=0.3), 10.02, current_pose=DOWN, mode=other)
        last = chunk(10.05, x=0.6)
        executor.add(last, 10.05, current_pose=DOWN, mode=ensembling)
        target = executor.target(float(last.times[-1]))
        assert target is not None
        np.testing.assert_allclose(target.pose, last.poses[-1], atol=1e-6)


@given(st.floats(0.0, 0.15), st.floats(0.0, 0.3))
def test_measured_latencies_are_led(robot_action: float, gripper: float) -> None:
    """What is commanded at a time is what the chunk wants that much later."""
    executor = ChunkExecutor(MAX_AGE_S, Latencies(0.0, 0.0, robot_action, gripper))
    new = chunk(10.0)
    past = executor.add(new, 10.0, current_pose=DOWN)
    assert past == int((new.times - robot_action <= 10.0).sum())
    for due, pose in list(zip(new.times, new.poses, strict=True))[past:]:
        now = float(due) - robot_action
        target = executor.target(now)
        assert target is not None
        np.testing.assert_allclose(target.pose, pose, atol=1e-6)
        wanted = np.interp(now + gripper, new.times, new.gripper)
        assert target.gripper == pytest.approx(wanted, abs=1e-6)


@given(st.lists(st.floats(0.0, 1.0), max_size=50))
def test_gripper_changes_only_beyond_both_thresholds(openings: list[float]) -> None:
    hysteresis = GripperHysteresis()
    closed = False
    for opening in openings:
        after = hysteresis.update(opening)
        if after != closed:
            assert opening < 0.4 if after else opening > 0.6
        closed = after
    assert hysteresis.update(float("nan")) == closed


def test_hysteresis_thresholds_must_make_sense() -> None:
    with pytest.raises(ValueError, match="close_below"):
        GripperHysteresis(close_below=0.7, open_above=0.6)
