"""Placements: reproducible, on the table, apart from each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.task import OBJECTS, TASKS, get_task
from simulation.objects import CONTAINER_SHAPES, OBJECT_SHAPES
from simulation.placement import (
    CONTAINER_SPACING,
    SOURCE_OFFSET,
    TABLE_X,
    TABLE_Y,
    home_joints,
    sample_placement,
)

seeds = st.integers(min_value=0, max_value=2**31)
tasks = st.sampled_from(sorted(TASKS))
objects = st.sampled_from(OBJECTS)


@given(tasks, objects, seeds)
def test_the_same_arguments_give_the_same_placement(task: str, obj: str, seed: int) -> None:
    assert sample_placement(task, obj, seed) == sample_placement(task, obj, seed)


@given(tasks, objects, seeds)
def test_containers_stand_apart_and_on_the_table(task: str, obj: str, seed: int) -> None:
    placement = sample_placement(task, obj, seed)
    spots = np.array([(pose.x, pose.y) for pose in placement.containers.values()])
    gaps = np.linalg.norm(spots[:, None] - spots[None], axis=-1)[np.triu_indices(len(spots), 1)]
    assert gaps.min() >= CONTAINER_SPACING
    assert np.all((spots[:, 0] >= TABLE_X[0]) & (spots[:, 0] <= TABLE_X[1]))
    assert np.all((spots[:, 1] >= TABLE_Y[0]) & (spots[:, 1] <= TABLE_Y[1]))


@given(tasks, objects, seeds)
def test_the_object_lies_in_the_source_and_fits(task: str, obj: str, seed: int) -> None:
    placement = sample_placement(task, obj, seed)
    source = get_task(task).source
    at, thing = placement.containers[source], placement.objects[obj]
    offset = max(abs(thing.x - at.x), abs(thing.y - at.y))
    assert offset <= SOURCE_OFFSET
    assert offset + np.hypot(*OBJECT_SHAPES[obj].half_size[:2]) < CONTAINER_SHAPES[source].inner
    assert thing.z > CONTAINER_SHAPES[source].floor + OBJECT_SHAPES[obj].half_size[2]


@given(tasks, objects, seeds)
def test_a_distracting_object_lies_in_neither_source_nor_target(
    task: str, obj: str, seed: int
) -> None:
    placement = sample_placement(task, obj, seed)
    (other,) = set(placement.objects) - {obj}
    spots = [placement.containers[c] for c in (get_task(task).source, get_task(task).target)]
    thing = placement.objects[other]
    assert all(np.hypot(thing.x - spot.x, thing.y - spot.y) > 0.1 for spot in spots)


def test_another_seed_gives_another_placement() -> None:
    starts = {sample_placement("box_to_bowl", "cup", seed).containers["box"] for seed in range(50)}
    assert len(starts) == 50


def test_the_arm_starts_near_home() -> None:
    starts = np.stack([home_joints(sample_placement("box_to_bowl", "cup", s)) for s in range(50)])
    assert 0.01 < np.abs(starts - starts.mean(axis=0)).max() < 0.35


@pytest.mark.parametrize(("task", "obj"), [("cup_to_moon", "cup"), ("box_to_bowl", "elephant")])
def test_unknown_names_are_refused_with_the_known_ones(task: str, obj: str) -> None:
    with pytest.raises(ValueError, match="known"):
        sample_placement(task, obj, 0)
