"""One trial on the fast simulation: a controller moves it, physics judges it.

A learned policy's chunks go through the arm node's own ChunkExecutor, with a modelled latency, so
that fast and live trials run the same stitching code.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

import numpy as np

from contracts.action import ActionChunk
from contracts.observation import Observation
from contracts.task import OBJECTS, TASKS, get_task
from evaluation.film import Film
from evaluation.outcome import FAILURES, SUCCESS, Outcome, SuccessJudge
from evaluation.plan import RunConfig
from policy_server.client import Answer, PolicyRefused
from roboalign.chunk_executor import ChunkExecutor, ChunkRefused, GripperHysteresis
from simulation.expert import Expert, SceneTruth
from simulation.fast import CONTROL_PERIOD, FastSimulation
from simulation.placement import Placement

SCORE_PERIOD_S: Final = 0.1
"""Seconds between two judgements; also the expert's step."""
SCORE_TICKS: Final = round(SCORE_PERIOD_S / CONTROL_PERIOD)


class Controller(Protocol):
    """Whoever moves the arm in a trial."""

    def start(self, placement: Placement) -> None:
        """Forget the last trial and prepare for this one."""

    def advance(self, simulation: FastSimulation) -> None:
        """Move the simulation on by SCORE_PERIOD_S."""


class ChunkPolicy(Protocol):
    """The calls of policy_server.client.LocalPolicy that a trial needs."""

    def metadata(self) -> dict[str, Any]:
        """Holds at least `execute_steps` and `time_step` [s]."""

    def infer(self, observation: Observation, **options: int) -> Answer:
        """Chunk that answers `observation`; the option `seed` decides the noise."""


class PolicyFailed(Exception):
    """The policy gave no usable chunk; the trial has failed for this reason."""


class ScriptedController:
    """The expert of the demonstrations, with the simulator's truth before its eyes."""

    def start(self, placement: Placement) -> None:
        self._placement = placement
        self._expert = Expert(placement)

    def advance(self, simulation: FastSimulation) -> None:
        truth = SceneTruth.read(simulation.model, simulation.data, self._placement)
        waypoint = self._expert.act(truth, simulation.commanded_pose, simulation.gripper_opening)
        simulation.follow(waypoint.pose, waypoint.gripper, SCORE_PERIOD_S)


class PolicyController:
    """Asks a learned policy for chunks at its own pace and follows them."""

    def __init__(self, policy: ChunkPolicy, latency_s: float) -> None:
        """`latency_s`: from the observation until its chunk can be followed."""
        metadata = policy.metadata()
        self._policy = policy
        self._latency_ticks = round(latency_s / CONTROL_PERIOD)
        interval = metadata["execute_steps"] * metadata["time_step"]
        self._request_ticks = max(1, round(interval / CONTROL_PERIOD))
        self.inference_ms: list[float] = []
        """Of this trial's requests, in order."""

    def start(self, placement: Placement) -> None:
        self._placement = placement
        self._instruction = get_task(placement.task).instruction(placement.object)
        self._executor = ChunkExecutor()
        self._hand = GripperHysteresis()
        self._coming: deque[tuple[int, ActionChunk]] = deque()
        self._tick = 0
        self.inference_ms = []

    def advance(self, simulation: FastSimulation) -> None:
        """As Controller.advance.

        Raises:
            PolicyFailed: the policy refused, or its chunk cannot be followed.
        """
        for _ in range(SCORE_TICKS):
            try:
                self._request(simulation)
                self._receive(simulation)
            except (PolicyRefused, ChunkRefused) as error:
                raise PolicyFailed(str(error)) from error
            self._move(simulation)
            self._tick += 1

    def _request(self, simulation: FastSimulation) -> None:
        if self._tick % self._request_ticks:
            return
        seed = request_seed(self._placement, len(self.inference_ms))
        answer = self._policy.infer(simulation.observe(self._instruction), seed=seed)
        self.inference_ms.append(answer.round_trip_ms)
        self._coming.append((self._tick + self._latency_ticks, answer.chunk))

    def _receive(self, simulation: FastSimulation) -> None:
        while self._coming and self._coming[0][0] <= self._tick:
            _, chunk = self._coming.popleft()
            self._executor.add(chunk, simulation.time, current_pose=simulation.commanded_pose)

    def _move(self, simulation: FastSimulation) -> None:
        target = self._executor.target(simulation.time)
        if target is None:
            simulation.advance(simulation.commanded_pose, float(not self._hand.closed))
            return
        closed = self._hand.update(target.gripper)
        simulation.advance(target.pose, float(not closed))


def request_seed(placement: Placement, request: int) -> int:
    """Seed of the policy's noise for one request: another for each, the same in every run."""
    key = [
        placement.seed, list(TASKS).index(placement.task), OBJECTS.index(placement.object), request
    ]  # fmt: skip
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def run_trial(
    simulation: FastSimulation,
    controller: Controller,
    placement: Placement,
    config: RunConfig,
    film: Film | None,
) -> Outcome:
    """Run one trial from its start to sustained success, failure or the time limit."""
    simulation.reset(placement, random_look=config.random_look)
    controller.start(placement)
    judge = SuccessJudge(config.success_hold_s)
    stage, failure = "none", None
    while simulation.time < config.time_limit_s - 1e-6 and failure is None:
        if film is not None and film.due(simulation.time):
            film.add(simulation.time, simulation.images())
        try:
            controller.advance(simulation)
        except PolicyFailed as error:
            failure = error
        score = simulation.score()
        stage = score.stage
        if judge.update(score.success, simulation.time):
            break
    if film is not None:
        film.add(simulation.time, simulation.images())
    duration = round(simulation.time, 3)
    if judge.succeeded:
        return Outcome(True, stage, "success", SUCCESS, duration)
    if failure is not None:
        return Outcome(False, stage, "policy_error", str(failure), duration)
    return Outcome(False, stage, "timeout", FAILURES[stage], duration)
