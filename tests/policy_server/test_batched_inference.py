"""Several robots in one run of the graphs: each gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import make_observation

from policy_server.policy import Answer, Policy, PolicyRefused, Request
from policy_server.refusal import Reason

INSTRUCTIONS = ("go", "pick up the cup from the box", "put the teddy bear in the bowl, at last")


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def policy(request: pytest.FixtureRequest, bundle_directory: Path) -> Policy:
    shipped = Path(__file__).parents[2] / "policy_server" / "bundles" / "shipped"
    return Policy.load(bundle_directory if request.param == "tiny" else shipped)


def robots() -> list[Request]:
    """Prompts of different lengths, pictures and seeds."""
    return [
        Request(replace(make_observation(seed=i), instruction=text), seed=i)
        for i, text in enumerate(INSTRUCTIONS)
    ]


def same_as_alone(policy: Policy, request: Request, answer: Answer | PolicyRefused) -> None:
    assert isinstance(answer, Answer)
    alone, _ = policy.infer(request.observation, request.steps, request.seed)
    np.testing.assert_allclose(answer.chunk.poses, alone.poses, atol=2e-6)
    np.testing.assert_allclose(answer.chunk.gripper, alone.gripper, atol=1e-5)
    assert answer.chunk.observation_stamp == request.observation.stamp


def test_a_batch_answers_each_robot_as_if_it_were_alone(policy: Policy) -> None:
    requests = robots()
    answers = policy.infer_batch(requests)
    for request, answer in zip(requests, answers, strict=True):
        same_as_alone(policy, request, answer)
    assert len({answer.chunk.chunk_id for answer in answers}) == len(requests)


def test_one_bad_request_does_not_spoil_the_others(policy: Policy) -> None:
    good = robots()
    bad = [
        Request(make_observation(cameras=("front",))),
        Request(make_observation(), steps=0),
        Request(make_observation(), seed=-3),
    ]
    requests = [good[0], bad[0], good[1], bad[1], bad[2], good[2]]
    answers = policy.infer_batch(requests)
    assert [answers[i].reason_code for i in (1, 3, 4)] == [
        Reason.MISSING_CAMERA,
        Reason.BAD_OPTION,
        Reason.BAD_OPTION,
    ]
    for i in (0, 2, 5):
        same_as_alone(policy, requests[i], answers[i])
    assert policy.infer_batch([]) == []
    assert all(isinstance(answer, PolicyRefused) for answer in policy.infer_batch(bad))


def test_robots_may_ask_for_different_numbers_of_steps(bundle_directory: Path) -> None:
    policy = Policy.load(bundle_directory)
    requests = [
        replace(request, steps=steps) for request, steps in zip(robots(), (2, 9, 2), strict=True)
    ]
    for request, answer in zip(requests, policy.infer_batch(requests), strict=True):
        same_as_alone(policy, request, answer)


def test_actions_of_one_row_that_are_not_finite_refuse_that_row_only(
    bundle_directory: Path,
) -> None:
    policy = Policy.load(bundle_directory)
    head = policy._engine.head

    def half_broken(inputs, steps):
        actions = head(inputs, steps)
        actions[1] = np.nan
        return actions

    policy._engine.head = half_broken
    first, second, third = policy.infer_batch(robots())
    assert isinstance(first, Answer) and isinstance(third, Answer)
    assert second.reason_code is Reason.INTERNAL
