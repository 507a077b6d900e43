"""From trials to figures and to the page, without a graph."""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pytest

from roboalign import bench, bench_figures, bench_page, bench_trials
from roboalign.bench_figures import Measured
from roboalign.bench_metrics import SetpointStream
from roboalign.bench_trials import Outcome, Start, Trial
from roboalign.execution_mode import ExecutionMode
from tests.roboalign import virtual_arm

PERIOD = virtual_arm.PERIOD
SYNC, RTC = ExecutionMode.SYNCHRONOUS, ExecutionMode.REALTIME_CHUNKING
ENSEMBLING = ExecutionMode.TEMPORAL_ENSEMBLING
STAGES = {
    "picture_to_observation": [40.0, 50.0],
    "backbone": [12.0, 12.0],
    "head": [8.0, 8.0],
    "round_trip": [180.0, 180.0],
    "arm_transport": [1.0, 2.0],
    "arm_queue": [5.0, 5.0],
    "picture_to_setpoint": [230.0, 240.0],
}


def measured(
    number: int, mode: ExecutionMode, seconds: float, success: bool = True, reason: str = "timeout"
) -> Measured:
    stream, chunks = virtual_arm.run(mode, lambda: 0.17, seconds=4.0)
    start = bench_trials.starts(number + 1, 9000)[number]
    outcome = Outcome(Trial(start, mode, 150), success, "placed", seconds, reason, "")
    return bench_figures.measure(outcome, stream, chunks, [20.0, 30.0], STAGES, PERIOD)


@pytest.fixture(scope="module")
def trials() -> list[Measured]:
    return [
        measured(0, SYNC, 8.0),
        measured(0, RTC, 6.0),
        measured(1, SYNC, 12.0),
        measured(1, RTC, 8.0),
        measured(2, SYNC, 25.0, success=False),
        measured(2, RTC, 7.0),
        measured(0, ENSEMBLING, 6.0),
    ]


def test_the_figures_have_their_names_and_values(trials: list[Measured]) -> None:
    found = bench_figures.figures(trials, 150, PERIOD)
    assert found["rtc_over_sync_time_150ms"] == pytest.approx(14.0 / 20.0)
    assert found["rtc_success"] == 1.0
    assert found["sync_success"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["standstill_ms"] == 0.0
    assert found["standstill_sync_ms"] > 170.0
    assert found["setpoint_p99_over_nominal"] == pytest.approx(1.0, abs=1e-3)
    assert found["filter_us"] == 25.0
    assert found["picture_to_setpoint_ms"] == 235.0
    assert found["boundary_jump"] is not None and found["pairs"] == 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_trials_that_the_graph_broke_are_counted() -> None:
    lost = measured(0, SYNC, 6.0, success=False, reason="policy_lost")
    slow = measured(1, SYNC, 25.0, success=False)
    assert bench_figures.figures([lost, slow], 150, PERIOD)["broken_trials"] == 1


def test_what_was_not_run_is_not_measured(trials: list[Measured]) -> None:
    found = bench_figures.figures(trials[:1], 150, PERIOD)
    assert found["rtc_over_sync_time_150ms"] is None
    assert found["standstill_ms"] is None
    kept = {row["name"]: row["kept"] for row in bench_figures.verdicts(found)}
    assert kept["standstill_ms"] is None
    assert kept["filter_us"] is True


def test_a_bound_that_is_missed_is_said(trials: list[Measured]) -> None:
    found = dict(bench_figures.figures(trials, 150, PERIOD)) | {"filter_us": 51.0}
    kept = {row["name"]: row["kept"] for row in bench_figures.verdicts(found)}
    assert kept["filter_us"] is False
    assert kept["rtc_over_sync_time_150ms"] is True


def test_a_line_of_the_log_is_json(trials: list[Measured]) -> None:
    line = json.loads(json.dumps(trials[0].as_json(), allow_nan=False))
    assert line["outcome"]["trial"]["mode"] == "synchronous"
    assert line["periods_ms_p50_p99"] == [pytest.approx(10.0), pytest.approx(10.0)]


def test_the_page_shows_every_mode_and_stage(trials: list[Measured]) -> None:
    found = bench_figures.figures(trials, 150, PERIOD)
    rows = bench_figures.by_mode(trials)
    assert [(row["mode"], row["trials"]) for row in rows] == [
        ("realtime_chunking", 3),
        ("synchronous", 3),
        ("temporal_ensembling", 1),
    ]
    content = {**found, "modes": rows, "load_average": 1.0, "cores": 2}
    stream, _ = virtual_arm.run(RTC, lambda: 0.17, seconds=4.0)
    traces = {"realtime_chunking": bench_page.SpeedTrace.of(stream.following())}
    page = bench_page.render(
        content, bench_figures.verdicts(found), trials, traces, datetime(2026, 1, 2)
    )
    assert "real-time chunking, 150 ms injected" in page
    assert "picture to setpoint" in page and "<polyline" in page
    assert "http" not in page.replace("http-equiv", "")


def test_bars_stand_where_the_stages_before_them_end() -> None:
    bars = {bar.label: bar for bar in bench_page.stage_bars({k: v[0] for k, v in STAGES.items()})}
    whole = bars["picture to setpoint"]
    assert (whole.start, whole.share, whole.total) == (0.0, 100.0, True)
    assert bars["request to answer"].start == pytest.approx(100 * 40 / 230)
    assert bars["head"].start == pytest.approx(100 * (40 + 12) / 230)
    assert bars["to the arm node"].start == pytest.approx(100 * 220 / 230)


@pytest.mark.parametrize("setpoints", [0, 1, 2, 3, 6, 50])
def test_a_trace_of_any_length_is_drawn(setpoints: int) -> None:
    stream = SetpointStream(
        10.0 + PERIOD * np.arange(setpoints),
        0.001 * np.arange(3 * setpoints, dtype=float).reshape(-1, 3),
        ["a"] * setpoints,
    )
    trace = bench_page.SpeedTrace.of(stream.following())
    assert len(trace.times) == len(trace.speeds) == max(0, setpoints - 1)
    page = bench_page.render(
        {**bench_figures.figures([], 150, PERIOD), "modes": [], "load_average": 1.0, "cores": 2},
        [],
        [],
        {"synchronous": trace},
        datetime(2026, 1, 2),
    )
    assert "<polyline" in page


def test_few_starts_show_every_task_and_object() -> None:
    first = bench_trials.starts(4, 9000)
    assert len({start.task for start in first}) == 4
    assert len({start.obj for start in first}) == 4
    all_of_them = bench_trials.starts(48, 9000)
    assert len(set(all_of_them)) == 48
    assert {start.seed for start in all_of_them} == {9000, 9001, 9002}


def test_the_plan_pairs_the_modes() -> None:
    first = bench_trials.starts(4, 0)
    trials = bench_trials.plan(first, first[:1], (50, 150, 300), 150)
    for start in first:
        modes = [t.mode for t in trials if (t.start, t.delay_ms) == (start, 150)]
        assert {SYNC, RTC} <= set(modes)
    assert {t.mode for t in trials if t.delay_ms == 150 and t.start == first[1]} == {SYNC, RTC}
    assert sum(t.mode == ENSEMBLING for t in trials) == 1
    assert {t.delay_ms for t in trials} == {50, 150, 300}
    assert np.unique([trials.index(t) for t in trials]).size == len(trials)
    assert Start("a", "b", 0) not in first


@pytest.mark.parametrize(
    "words", [["--trials", "0"], ["--trials", "2", "--side-trials", "3"], ["--seed", "-1"]]
)
def test_a_run_that_cannot_be_is_refused_before_anything_starts(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(words)
