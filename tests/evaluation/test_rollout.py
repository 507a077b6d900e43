"""A learned policy's trial on the fast simulation, with policies made for the test."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from contracts.action import ActionChunk
from contracts.observation import Observation
from evaluation.outcome import SuccessJudge
from evaluation.plan import RunConfig
from evaluation.rollout import PolicyController, request_seed, run_trial
from policy_server.client import Answer, PolicyRefused, Reason
from simulation.fast import FastSimulation
from simulation.placement import sample_placement


class DescendingPolicy:
    """Goes down 5 mm a step, with noise from the seed."""

    def __init__(self) -> None:
        self.stamps: list[float] = []
        self.seeds: list[int] = []
        self.refuse_after: int | None = None

    def metadata(self) -> dict[str, Any]:
        return {"execute_steps": 3, "time_step": 0.1}

    def infer(self, observation: Observation, **options: int) -> Answer:
        if self.refuse_after is not None and len(self.seeds) >= self.refuse_after:
            raise PolicyRefused(Reason.INTERNAL, "the network's actions are not finite")
        self.stamps.append(observation.stamp)
        self.seeds.append(options["seed"])
        poses = np.repeat(observation.state.pose[None], 8, axis=0)
        poses[:, 2] -= 0.005 * np.arange(1, 9)
        poses[:, :2] += np.random.default_rng(options["seed"]).normal(0, 1e-3, 2)
        name = f"chunk {len(self.seeds)}"
        chunk = ActionChunk(name, observation.stamp, 0.1, poses, np.ones(8))
        return Answer(chunk, {}, 1.0)


@pytest.fixture(scope="module")
def simulation() -> FastSimulation:
    return FastSimulation(image_size=16)


@pytest.fixture
def short(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, time_limit_s=1.5)


def test_requests_keep_their_pace_and_have_seeds_of_their_own(
    simulation: FastSimulation, short: RunConfig
) -> None:
    policy = DescendingPolicy()
    placement = sample_placement("box_to_bowl", "cup", 3)
    controller = PolicyController(policy, latency_s=0.1)
    outcome = run_trial(simulation, controller, placement, short, None)
    assert (outcome.success, outcome.reason, outcome.duration_s) == (False, "timeout", 1.5)
    np.testing.assert_allclose(policy.stamps, [0.0, 0.3, 0.6, 0.9, 1.2], atol=1e-6)
    assert policy.seeds == [request_seed(placement, i) for i in range(5)]
    assert len(set(policy.seeds)) == 5


def test_nothing_moves_before_the_first_chunk_is_there(
    simulation: FastSimulation, short: RunConfig
) -> None:
    controller = PolicyController(DescendingPolicy(), latency_s=0.1)
    simulation.reset(placement := sample_placement("box_to_bowl", "cup", 3))
    controller.start(placement)
    height = simulation.commanded_pose[2]
    controller.advance(simulation)
    assert simulation.commanded_pose[2] == pytest.approx(height, abs=1e-5)
    controller.advance(simulation)
    assert simulation.commanded_pose[2] < height - 1e-4


def test_same_seed_same_path_whatever_came_before(
    simulation: FastSimulation, short: RunConfig
) -> None:
    paths = []
    for other in (1, 2):
        run_trial(
            simulation, PolicyController(DescendingPolicy(), 0.1),
            sample_placement("plate_to_basket", "box", other), short, None,
        )  # fmt: skip
        run_trial(
            simulation, PolicyController(DescendingPolicy(), 0.1),
            sample_placement("box_to_bowl", "cup", 3), short, None,
        )  # fmt: skip
        paths.append(simulation.data.qpos.copy())
    np.testing.assert_array_equal(*paths)


def test_a_refusal_is_a_failed_trial_with_its_reason(
    simulation: FastSimulation, short: RunConfig
) -> None:
    policy = DescendingPolicy()
    policy.refuse_after = 2
    placement = sample_placement("box_to_bowl", "cup", 3)
    outcome = run_trial(simulation, PolicyController(policy, 0.1), placement, short, None)
    assert (outcome.success, outcome.reason) == (False, "policy_error")
    assert "not finite" in outcome.message
    assert outcome.duration_s < 1.0


def test_success_counts_only_when_it_lasts() -> None:
    judge = SuccessJudge(hold_s=0.3)
    verdicts = [True, True, False, True, True, True, True]
    assert [judge.update(v, 0.1 * i) for i, v in enumerate(verdicts)] == [False] * 6 + [True]
