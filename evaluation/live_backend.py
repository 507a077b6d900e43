"""Trials on the live graph: one after another, in real time, judged by the simulation's physics."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from evaluation.film import Film
from evaluation.graph_process import GraphFailed, RobotGraph
from evaluation.outcome import FAILURES, STAGE_WORDS, SUCCESS, Outcome, SuccessJudge, keeps_film
from evaluation.plan import RunConfig, TrialSpec
from evaluation.trial_log import FinishedTrial, TrialRecord, is_broken
from simulation.live_control import LiveControl, LiveControlError

if TYPE_CHECKING:
    from evaluation.ros_link import RosLink

LOGS: Final = "logs"
SCORE_PERIOD_S: Final = 0.1
SETTLE_S: Final = 0.5
"""After a placement, for the objects to come to rest and pictures of them to arrive."""
OVERTIME_S: Final = 5.0
"""How late the task node may notice that the time is over."""
ENDED_BY_ITSELF: Final = ("timeout", "succeeded")
"""Results of a graph that worked, whatever became of the object."""


class RosMissing(Exception):
    """ROS or our messages are not installed; the text says what to do."""


def check_ros() -> None:
    """Raise RosMissing unless rclpy and roboalign_msgs can be imported."""
    for module in ("rclpy", "roboalign_msgs"):
        if importlib.util.find_spec(module) is None:
            raise RosMissing(f"{module} is not installed here: run `make setup`")


def run_trials(
    config: RunConfig, specs: Sequence[TrialSpec], directory: Path, tell: Callable[[str], None]
) -> Generator[FinishedTrial]:
    """Run trials in order, with a graph for each turn of a policy; logs go to `directory`/logs.

    Raises:
        PortTaken, GraphFailed: the graph did not start, or did not work.
    """
    bundles = {choice.name: choice.bundle for choice in config.policies}
    for policy, mine in groupby(specs, key=lambda spec: spec.policy):
        logs = directory / LOGS / policy if len(config.policies) > 1 else directory / LOGS
        with RobotGraph(str(bundles[policy]), logs, tell) as graph:
            os.environ.update(graph.graph.environment)
            # Only now: rclpy reads the graph's environment when it is loaded.
            from evaluation.ros_link import RosLink

            cameras = tuple(graph.arguments.camera_serials)
            with RosLink(graph.domain_id, cameras) as link:
                for spec in mine:
                    yield LiveTrial(config, graph, link, tell).run(spec)


class LiveTrial:
    """One trial on a running graph."""

    def __init__(
        self, config: RunConfig, graph: RobotGraph, link: RosLink, tell: Callable[[str], None]
    ) -> None:
        self._config = config
        self._graph = graph
        self._link = link
        self._control = LiveControl(graph.arguments.control_port)
        self._tell = tell
        self._film = Film()
        self._stage = "none"

    def run(self, spec: TrialSpec) -> FinishedTrial:
        """Home, place, let the policy act, judge.

        Raises:
            GraphFailed: a part of the graph is gone or does not answer.
        """
        started = time.perf_counter()
        what = f"{spec.object}, {spec.task.replace('_', ' ')}"
        try:
            self._tell(f"{what}: going home")
            self._link.home()
            self._control.reset(spec.task, spec.object, spec.seed)
            time.sleep(SETTLE_S)
            self._link.take_stage_times()
            self._control.status()
            outcome = self._execute(spec, what)
            physics_hz = self._control.status().rate_hz
        except LiveControlError as error:
            self._graph.check()
            raise GraphFailed(str(error)) from error
        record = TrialRecord(
            **asdict(spec),
            **asdict(outcome),
            wall_s=round(time.perf_counter() - started, 3),
            stage_times_ms=self._link.take_stage_times(),
            physics_hz=round(physics_hz, 1),
        )
        return record, self._film.strip() if keeps_film(self._config.film, record) else None

    def _execute(self, spec: TrialSpec, what: str) -> Outcome:
        task = self._link.start_task(spec.task, spec.object, self._config.time_limit_s)
        started = time.monotonic()
        judge = SuccessJudge(self._config.success_hold_s)
        elapsed = 0.0
        while not task.over and not judge.succeeded:
            time.sleep(SCORE_PERIOD_S)
            self._graph.check()
            elapsed = time.monotonic() - started
            if elapsed > self._config.time_limit_s + OVERTIME_S:
                raise GraphFailed(f"the task node did not end the task after {elapsed:.0f} s")
            score = self._control.score()
            self._stage = score.stage
            judge.update(score.success, elapsed)
            self._tell(f"{what}: {STAGE_WORDS[score.stage]}")
            if self._film.due(elapsed):
                self._film.add(elapsed, self._link.pictures())
        self._film.add(elapsed, self._link.pictures())
        result = task.cancel() if judge.succeeded else task.result()
        return self._outcome(judge.succeeded, result.reason, result.message, round(elapsed, 3))

    def _outcome(self, success: bool, reason: str, message: str, elapsed: float) -> Outcome:
        if success:
            return Outcome(True, self._stage, "success", SUCCESS, elapsed)
        if reason in ENDED_BY_ITSELF:
            return Outcome(False, self._stage, "timeout", FAILURES[self._stage], elapsed)
        return Outcome(False, self._stage, reason, message, elapsed)


def broken_trials(records: Sequence[TrialRecord]) -> list[str]:
    """What went wrong in the graph, a sentence a trial; empty where only the policy failed."""
    return [f"{r.object}, {r.task}: {r.reason}: {r.message}" for r in records if is_broken(r)]
