"""Every policy meets every start, in an order that no policy profits from."""

from __future__ import annotations

import dataclasses
from itertools import groupby

import pytest

from evaluation.plan import RunConfig, trial_plan
from evaluation.policies import PolicyChoice
from evaluation.trial_order import PlannedTrial, order_trials


@pytest.fixture
def trials(pair_config: RunConfig) -> tuple[PlannedTrial, ...]:
    return order_trials(dataclasses.replace(pair_config, trials=6))


def start(trial: PlannedTrial) -> tuple[str, str, int, int]:
    return trial.spec.task, trial.spec.object, trial.spec.trial, trial.spec.seed


def test_every_trial_once(pair_config: RunConfig) -> None:
    trials = order_trials(pair_config)
    assert sorted(t.spec.key for t in trials) == sorted(s.key for s in trial_plan(pair_config))
    assert [t.number for t in trials] == list(range(1, 65))


def test_a_block_is_one_start_for_all_policies(trials: tuple[PlannedTrial, ...]) -> None:
    blocks = [list(block) for _, block in groupby(trials, key=lambda t: t.block)]
    assert len(blocks) == 96
    for block in blocks:
        assert len({start(t) for t in block}) == 1
        assert sorted(t.spec.policy for t in block) == ["one", "two"]


def test_order_is_random_in_starts_and_policies(trials: tuple[PlannedTrial, ...]) -> None:
    first = [t.spec.policy for t in trials[::2]]
    assert 25 < first.count("one") < 71
    pairs = [(t.spec.task, t.spec.object) for t in trials[::2]]
    rounds = [pairs[i : i + 16] for i in range(0, 96, 16)]
    assert all(len(set(r)) == 16 for r in rounds)
    assert len({tuple(r) for r in rounds}) == 6


def test_order_follows_from_the_seed(pair_config: RunConfig) -> None:
    other = dataclasses.replace(pair_config, seed=8)
    assert order_trials(pair_config) == order_trials(pair_config)
    pairs = [[(t.spec.task, t.spec.object) for t in order_trials(c)] for c in (pair_config, other)]
    assert pairs[0] != pairs[1]


def test_the_live_graph_changes_its_policy_only_between_turns(pair_config: RunConfig) -> None:
    trials = order_trials(dataclasses.replace(pair_config, backend="live", trials=4))
    turns = [(policy, len(list(t))) for policy, t in groupby(trials, lambda t: t.spec.policy)]
    assert len(turns) <= 8
    assert all(count % 16 == 0 for _, count in turns)


def test_a_short_look_keeps_the_order_of_the_tasks() -> None:
    policy = PolicyChoice("one", "one", "hash", 128)
    config = RunConfig((policy,), "live", trials=2, seed=0, rotate_objects=True)
    assert [t.spec for t in order_trials(config)] == list(trial_plan(config))
