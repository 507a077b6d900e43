"""Classes by time warping, and a nearest-neighbour vote that sees nothing of its own trajectory."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluation.__main__ import main
from evaluation.plan import PlanError
from evaluation.policies import PolicyChoice
from evaluation.representation import (
    CLASSES,
    align,
    check_request,
    classes,
    measure,
    predict,
    warping_path,
)  # fmt: skip

TRAJECTORIES, FRAMES, KINDS = 10, 40, 8
BUNDLE = PolicyChoice("a", "a", "0", 128)


@pytest.fixture
def groups() -> np.ndarray:
    return np.repeat(np.arange(TRAJECTORIES), FRAMES)


@pytest.fixture
def labels() -> np.ndarray:
    return np.tile(np.arange(FRAMES) * KINDS // FRAMES, TRAJECTORIES)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.integers(0, 9).map(float))
    )
)
def test_no_other_path_is_cheaper(cost: np.ndarray) -> None:
    path = warping_path(cost)
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(path)]
    assert path[0] == (0, 0)
    assert path[-1] == (cost.shape[0] - 1, cost.shape[1] - 1)
    assert set(steps) <= {(1, 1), (1, 0), (0, 1)}

    @cache
    def cheapest(i: int, j: int) -> float:
        if i == j == 0:
            return cost[0, 0]
        before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        return cost[i, j] + min(cheapest(*at) for at in before if min(at) >= 0)

    assert sum(cost[at] for at in path) == cheapest(*path[-1])


def test_a_slower_copy_is_aligned_frame_by_frame(rng: np.random.Generator) -> None:
    reference = rng.normal(size=(20, 3))
    assert align(np.repeat(reference, 2, axis=0), reference).tolist() == sorted([*range(20)] * 2)


def test_classes_follow_the_course_of_the_trajectory(rng: np.random.Generator) -> None:
    line = np.linspace(0.0, 1.0, 64)[:, None] * [1.0, -2.0]
    states = [line, np.repeat(line, 2, axis=0), line[::2]]
    found = classes(states)
    assert found[0].tolist() == (np.arange(64) * CLASSES // 64).tolist()
    for frames, labels in zip(states, found, strict=True):
        assert len(labels) == len(frames)
        assert np.all(np.diff(labels) >= 0)
        assert (labels[0], labels[-1]) == (0, CLASSES - 1)


def test_a_reference_shorter_than_the_classes_is_refused() -> None:
    with pytest.raises(PlanError, match="9 frames"):
        classes([np.zeros((9, 2))] * 3)


def test_features_that_name_the_class_are_always_right(
    labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> None:
    features = np.eye(KINDS)[labels] + rng.normal(scale=0.05, size=(len(labels), KINDS))
    result = measure(features, labels, groups, seed=0)
    assert result.accuracy == 1.0
    assert result.interval == (1.0, 1.0)
    assert (result.frames, result.trajectories) == (TRAJECTORIES * FRAMES, TRAJECTORIES)


def test_random_features_are_at_chance(
    labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> None:
    result = measure(rng.normal(size=(len(labels), 16)), labels, groups, seed=0)
    assert result.chance == result.random_guess == 1 / KINDS
    assert abs(result.accuracy - result.chance) < 0.06
    assert result.interval[0] <= result.accuracy <= result.interval[1]


def test_chance_is_the_share_of_the_most_frequent_class(groups: np.ndarray) -> None:
    labels = np.where(np.arange(len(groups)) % 4 == 0, 1, 0)
    result = measure(np.zeros((len(groups), 2)), labels, groups, seed=0)
    assert result.chance == 0.75
    assert result.random_guess == 0.5


def test_knowing_the_trajectory_does_not_help(groups: np.ndarray, rng: np.random.Generator) -> None:
    """Frames of one trajectory share class and features: any leak gives a perfect score."""
    labels = groups % 2
    features = rng.normal(size=(TRAJECTORIES, 12))[groups] * 100
    features += rng.normal(size=features.shape) * 1e-3
    assert measure(features, labels, groups, seed=0).accuracy <= 0.7
    # Frames drawn by lot instead of whole trajectories: this is what a leak would look like.
    leaky = rng.permutation(groups)
    assert measure(features, labels, leaky, seed=0).accuracy == 1.0


def test_a_frame_never_votes_for_its_own_trajectory() -> None:
    """Every class lives in one trajectory only, so that no vote can be right."""
    groups = np.repeat(np.arange(4), 10)
    features = np.random.default_rng(1).normal(size=(40, 3))
    assert not np.any(predict(features, groups, groups) == groups)


def test_nearer_voters_win_a_tie() -> None:
    features = np.array([[0.0], [0.1], [0.2], [1.0], [1.1]])
    labels, groups = np.array([7, 3, 3, 4, 4]), np.array([0, 1, 1, 2, 2])
    assert predict(features, labels, groups, neighbours=4)[0] == 3


def test_scale_of_a_dimension_does_not_matter(
    labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> None:
    features = np.eye(KINDS)[labels] + rng.normal(scale=0.4, size=(len(labels), KINDS))
    scaled = features * 10.0 ** np.arange(KINDS)
    assert (predict(features, labels, groups) == predict(scaled, labels, groups)).all()


def test_interval_grows_when_trajectories_differ(groups: np.ndarray) -> None:
    """Half of the trajectories right, half wrong: far wider than 400 independent frames give."""
    labels = np.tile(np.arange(FRAMES) % 2, TRAJECTORIES)
    features = np.eye(2)[np.where(groups < 8, labels, 1 - labels)]
    result = measure(features, labels, groups, seed=0)
    assert result.accuracy == 0.8
    assert result.interval[1] - result.interval[0] > 0.3


@pytest.mark.parametrize(
    ("choices", "count", "seed", "text"),
    [
        ([PolicyChoice("scripted", None, None, 128)], 20, 0, "no hidden states"),
        ([BUNDLE], 2, 0, "at least 3"),
        ([BUNDLE], 20, -1, "natural number"),
    ],
)
def test_what_cannot_be_analysed_is_refused(
    choices: list[PolicyChoice], count: int, seed: int, text: str
) -> None:
    with pytest.raises(PlanError, match=text):
        check_request(choices, count, seed)


def test_command_ends_in_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures"
    code = main(
        ["representation", "--bundle", "shipped", "--json", "--trajectories", "3",
         "--seed", "5", "--out", str(out)]
    )  # fmt: skip
    assert code == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["interval"][0] <= figures["accuracy"] <= figures["interval"][1]
    assert 1 / CLASSES <= figures["chance"] < 1
    assert [m["bundle"] for m in figures["models"]] == ["shipped"]
    assert figures["models"][0]["accuracy"] == figures["accuracy"]
    assert json.loads((out / "representation.json").read_text()) == figures
    with np.load(out / "features.npz") as saved:
        again = measure(
            saved["features_shipped"], saved["labels"], saved["trajectory"], figures["seed"]
        )
    assert again.accuracy == figures["accuracy"]
