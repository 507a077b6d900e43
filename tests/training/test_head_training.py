"""Training of heads and readouts on cached features, and the ladder's ceilings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.bundle import ACTION_DIMENSION, STATE_DIMENSION
from simulation.expert import Expert, SceneTruth
from simulation.fast import FastSimulation
from simulation.placement import sample_placement
from training import closed_loop, end_to_end, features, head, lab_stages
from training.action_head import ActionHead, HeadConfig
from training.backbones import LabBackboneConfig
from training.export import load_head
from training.grounding import GroundedBackbone
from training.head import Demonstrations, HeadTraining
from training.readout import READOUT_DIMENSION

FRAMES = 24


@pytest.fixture(scope="module")
def demonstrations() -> Demonstrations:
    rng = np.random.default_rng(0)
    state = rng.uniform(0, 0.3, (FRAMES, STATE_DIMENSION)).astype(np.float32)
    rows = {
        "state": state,
        "actions": rng.normal(0, 0.05, (FRAMES, 16, ACTION_DIMENSION)).astype(np.float32),
        "truth": rng.uniform(0, 0.5, (FRAMES, 18)).astype(np.float32),
        "prompt": np.arange(FRAMES) % 16,
        "episode": np.arange(FRAMES) // 4,
        "seed": np.array(7),
    }
    images = rng.integers(0, 256, (FRAMES, 2, 128, 128, 3), dtype=np.uint8)
    return Demonstrations(images, rows)


@pytest.fixture(scope="module")
def backbone() -> GroundedBackbone:
    return GroundedBackbone(LabBackboneConfig(layers=1, layer=1)).eval()


def config(**changes: object) -> HeadTraining:
    preset = {"steps": 40, "batch": 16, "copies": 1, "threads": 1, "held_out_every": 3}
    return HeadTraining(**(preset | {"report_every": 20} | changes))


def test_the_rate_warms_up_and_falls() -> None:
    rates = [head.schedule(share, 0.1) for share in np.linspace(0, 1, 21)]
    assert rates[0] == 0.0
    assert max(rates) == rates[2]
    assert rates[-1] == pytest.approx(0.01)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_thinning_keeps_rows_together(demonstrations: Demonstrations) -> None:
    part = lab_stages.thinned(demonstrations, 3)
    assert len(part.images) == len(part.rows["state"]) == 8
    np.testing.assert_array_equal(part.rows["episode"], demonstrations.rows["episode"][::3])
    assert part.rows["seed"] == 7


def test_a_head_trains_on_the_cache_and_is_saved_whole(
    backbone: GroundedBackbone, demonstrations: Demonstrations, tmp_path: Path
) -> None:
    prompt = torch.from_numpy(demonstrations.rows["prompt"])
    hidden = features.cache(backbone, demonstrations.images, prompt, tmp_path / "features.npy")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    curve = head.train_on_cache(backbone, demonstrations, hidden, config(steps=80), tmp_path)
    assert curve[-1]["train"] < curve[0]["train"]
    assert np.isfinite([value for row in curve for value in row.values()]).all()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    trained, action_range = load_head(tmp_path / "head.pt")
    assert trained.config.hidden == backbone.config.hidden
    actions = demonstrations.rows["actions"].reshape(-1, ACTION_DIMENSION)
    assert np.allclose(action_range.high, np.maximum(actions.max(0), action_range.high))
    assert json.loads((tmp_path / "head.json").read_text())["curve"] == curve


def test_a_head_on_the_truth_sees_where_the_object_is(demonstrations: Demonstrations) -> None:
    data = head.truth_data(demonstrations, config(), width=8)
    assert data.readout.shape == (FRAMES, READOUT_DIMENSION)
    rows = demonstrations.rows
    relative = rows["truth"][:, :3] - rows["state"][:, :3]
    np.testing.assert_allclose(data.readout[:, :3].numpy(), relative, atol=1e-6)
    assert not data.hidden.any()


def test_end_to_end_training_moves_the_backbone(
    backbone: GroundedBackbone, demonstrations: Demonstrations
) -> None:
    data = head.truth_data(demonstrations, config(), width=8)
    trained = ActionHead(HeadConfig(hidden=192, image_tail=backbone.readout.span))
    before = backbone.model.model.visual.patch_embed.proj.weight.clone()
    settings = end_to_end.EndToEnd(steps=3, batch=4, held_out_every=3)
    curve = end_to_end.train(backbone, trained, data.action_range, demonstrations, settings)
    assert np.isfinite(curve[-1]["train"])
    assert not torch.equal(before, backbone.model.model.visual.patch_embed.proj.weight)


@pytest.fixture(scope="module")
def simulation() -> FastSimulation:
    return FastSimulation(None)


def test_closed_loop_tells_a_good_policy_from_an_idle_one(simulation: FastSimulation) -> None:
    start = sample_placement("box_to_plate", "cup", 3)
    expert = Expert(start)

    def follow_expert(sim: FastSimulation, *_: object) -> tuple[np.ndarray, np.ndarray]:
        """One waypoint at a time: all the steps of a chunk but the first are never asked for."""
        truth = SceneTruth.read(sim.model, sim.data, start)
        waypoint = expert.act(truth, sim.commanded_pose, sim.gripper_opening)
        return waypoint.pose[None], np.array([waypoint.gripper])

    def stay(sim: FastSimulation, *_: object) -> tuple[np.ndarray, np.ndarray]:
        return np.repeat(sim.commanded_pose[None], 16, 0), np.ones(16)

    assert closed_loop.run_trial(follow_expert, simulation, start)
    assert not closed_loop.run_trial(stay, simulation, start)


def test_the_head_on_the_truth_answers_with_a_chunk(
    simulation: FastSimulation, demonstrations: Demonstrations
) -> None:
    data = head.truth_data(demonstrations, config(), width=8)
    untrained = ActionHead(HeadConfig(hidden=8, image_tail=0)).eval()
    policy = closed_loop.policy_on_truth(untrained, data.action_range)
    start = sample_placement("box_to_bowl", "sponge", 1)
    simulation.reset(start)
    poses, grips = policy(simulation, start, 0)
    assert poses.shape == (16, 7) and grips.shape == (16,)
    np.testing.assert_allclose(np.linalg.norm(poses[:, 3:], axis=1), 1.0)
    same, _ = policy(simulation, start, 0)
    other, _ = policy(simulation, start, 1)
    np.testing.assert_array_equal(poses, same)
    assert not np.array_equal(poses, other)
