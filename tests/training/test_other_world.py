"""The other robot world: same seed, same rollout; nothing of the evaluation's tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.task import TASKS
from training import other_world
from training.other_world import COLOURS, OTHER_TASKS, OtherWorld, OtherWorldData


@pytest.fixture(scope="module")
def world() -> OtherWorld:
    return OtherWorld(image_size=64)


def first_rollout(world: OtherWorld, start: int) -> tuple[int, list]:
    """The first seed from `start` on whose rollout the expert solves."""
    for seed in range(start, start + 10):
        if found := world.rollout(seed):
            return seed, found
    raise AssertionError("the expert failed ten times in a row")


def test_none_of_its_tasks_is_evaluated() -> None:
    assert len(OTHER_TASKS) == 8
    assert not {task.name for task in OTHER_TASKS} & set(TASKS)


def test_a_rollout_depends_on_its_seed_alone(world: OtherWorld) -> None:
    seed, first = first_rollout(world, 3)
    first_rollout(world, seed + 1)  # leaves other colours and cameras behind
    again = world.rollout(seed)
    assert [frame for frame, *_ in first] == [frame for frame, *_ in again]
    for (_, pictures, chunk), (_, same_pictures, same_chunk) in zip(first, again, strict=True):
        np.testing.assert_array_equal(pictures, same_pictures)
        np.testing.assert_array_equal(chunk, same_chunk)


def test_frames_say_what_is_to_be_seen(world: OtherWorld) -> None:
    _, found = first_rollout(world, 20)
    frame, pictures, chunk = found[0]
    assert pictures.shape == (2, 64, 64, 3)
    assert chunk.shape == (16, 7)
    thing = frame.entity("object")
    assert thing.name in frame.instruction
    assert thing.name.split()[0] in COLOURS
    x, y = thing.points["front"]
    assert 0 < x < 1 and 0 < y < 1
    left, top, right, bottom = thing.boxes["front"]
    assert left < x < right and top < y < bottom


def test_the_object_has_the_colour_of_its_name(world: OtherWorld) -> None:
    """At the object's point in the front picture the named colour's channel leads."""
    leads = {"red": 0, "green": 1, "blue": 2}
    checked = 0
    for seed in range(40, 70):
        for frame, pictures, _ in world.rollout(seed)[:1]:
            colour = frame.entity("object").name.split()[0]
            if colour not in leads or frame.phase not in ("reach", "descend"):
                continue
            x, y = (int(64 * v) for v in frame.entity("object").points["front"])
            patch = pictures[0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].reshape(-1, 3)
            checked += int(np.argmax(patch.mean(0)) == leads[colour])
            if checked == 2:
                return
    raise AssertionError("no object looked like its name")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    other_world.generate(tmp_path, rollouts=2, seed=9)
    data = OtherWorldData.load(tmp_path)
    assert len(data) == len(data.images) == len(data.chunks) > 0
    assert data.frames[0].name.startswith("other_world/")
    assert np.isfinite(data.chunks).all()
