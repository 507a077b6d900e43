"""Scene snapshots and demonstrations: the truth beside a picture is the truth in it."""

import numpy as np
import pytest

from contracts import bundle
from contracts.task import OBJECTS, TASKS
from simulation.fast import FastSimulation
from simulation.placement import sample_placement
from training.demonstrations import chunks, demonstrate
from training.scenes import TRUTH_DIMENSION, generate, sample_scene


@pytest.fixture(scope="module")
def simulation():
    simulation = FastSimulation(128)
    yield simulation
    simulation.close()


def test_pointing_truth_hits_the_red_cup(simulation):
    rng, hits = np.random.default_rng(0), []
    for seed in range(400):
        row = sample_scene(simulation, rng, seed)
        if OBJECTS[row.object] != "cup":
            continue
        front = simulation.images()["front"].astype(int)
        x, y = (row.truth[10:12] * 128).astype(int)
        if 2 <= x < 126 and 2 <= y < 126:
            red, green, blue = front[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).T
            hits.append(bool(((red > 90) & (green < 60) & (blue < 60)).any()))
    # The gripper hides the cup in some pictures.
    assert len(hits) > 50
    assert np.mean(hits) > 0.7


def test_same_seed_gives_the_same_snapshots(tmp_path):
    for name in ("a", "b"):
        generate(tmp_path / name, samples=3, seed=5)
    first, second = (np.load(tmp_path / name / "images.npy") for name in ("a", "b"))
    rows = [np.load(tmp_path / name / "rows.npz") for name in ("a", "b")]
    assert np.array_equal(first, second)
    assert np.array_equal(rows[0]["truth"], rows[1]["truth"])
    assert rows[0]["truth"].shape == (3, TRUTH_DIMENSION)


def test_a_demonstration_succeeds_and_its_labels_lead_the_arm(simulation):
    rng = np.random.default_rng(3)
    demo = next(
        d
        for d in (
            demonstrate(simulation, sample_placement("box_to_plate", "cup", s), rng)
            for s in range(4)
        )
        if d is not None
    )
    assert demo.images.shape[1:] == (2, 128, 128, 3)
    assert {0.0, 1.0} == set(demo.grips.tolist())
    # A waypoint is where the arm is one step later, but for its limited acceleration.
    lead = np.linalg.norm(demo.waypoints[:-1, :3] - demo.pose[1:, :3], axis=1)
    assert np.median(lead) < 0.02
    relative = bundle.to_relative(demo.pose[0], chunks(demo.waypoints)[0], chunks(demo.grips)[0])
    assert np.abs(relative[:, :3]).max() < 0.6


def test_chunks_repeat_the_last_value():
    windows = chunks(np.arange(5.0), horizon=3)
    assert windows.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4], [4, 4, 4]]


def test_there_are_sixteen_pairs():
    assert len(TASKS) * len(OBJECTS) == 16
