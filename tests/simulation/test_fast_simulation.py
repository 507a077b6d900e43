"""The fast mode: the expert solves every pair, a seed decides everything, pictures show it."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from contracts.robot import FR3
from contracts.task import OBJECTS, TASKS
from simulation import objects
from simulation.cameras import CAMERAS, FRONT, WRIST
from simulation.expert import TIME_STEP, Expert, SceneTruth
from simulation.fast import FastSimulation
from simulation.placement import sample_placement
from simulation.scoring import STAGES

LONGEST_TRIAL = 20.0


@pytest.fixture(scope="module")
def blind() -> FastSimulation:
    return FastSimulation(image_size=None)


@pytest.fixture(scope="module")
def seeing() -> FastSimulation:
    return FastSimulation(image_size=128)


def run_expert(simulation: FastSimulation, task: str, obj: str, seed: int) -> list[str]:
    """Stages in the order in which the scorer saw them."""
    placement = sample_placement(task, obj, seed)
    simulation.reset(placement)
    expert, stages = Expert(placement), []
    while not expert.done and simulation.time < LONGEST_TRIAL:
        truth = SceneTruth.read(simulation.model, simulation.data, placement)
        waypoint = expert.act(truth, simulation.commanded_pose, simulation.gripper_opening)
        simulation.follow(waypoint.pose, waypoint.gripper, TIME_STEP)
        stages.append(simulation.score().stage)
    simulation.follow(simulation.commanded_pose, 1.0, 0.5)
    return list(dict.fromkeys(stages))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("obj", OBJECTS)
def test_the_expert_solves_every_pair(blind: FastSimulation, task: str, obj: str) -> None:
    stages = run_expert(blind, task, obj, 4711)
    assert blind.score().success
    assert tuple(stage for stage in stages if stage != "none") == STAGES


def test_a_seed_decides_the_whole_trial(blind: FastSimulation) -> None:
    outcomes = []
    for simulation in (blind, blind, FastSimulation(image_size=None)):
        stages = run_expert(simulation, "box_to_plate", "sponge", 5)
        outcomes.append((stages, simulation.time, simulation.data.qpos.tobytes()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_the_hand_opens_and_closes_at_the_arms_speed(blind: FastSimulation) -> None:
    blind.reset(sample_placement("box_to_bowl", "cup", 0))
    assert blind.gripper_opening > 0.97
    seconds = FR3.gripper_width / FR3.gripper_speed
    blind.follow(blind.commanded_pose, 0.0, seconds / 2)
    assert 0.3 < blind.gripper_opening < 0.75
    blind.follow(blind.commanded_pose, 0.0, seconds)
    assert blind.gripper_opening < 0.03


def test_pictures_are_neither_black_nor_uniform(seeing: FastSimulation) -> None:
    seeing.reset(sample_placement("box_to_bowl", "cup", 0))
    for name, image in seeing.images().items():
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8
        assert 40 < image.mean() < 220, name
        assert image.std() > 15, name
        assert (image.sum(axis=2) == 0).mean() < 0.05, name


def test_pictures_change_with_the_scene_and_repeat_with_the_seed(seeing: FastSimulation) -> None:
    pictures = []
    for seed in (1, 2, 1):
        seeing.reset(sample_placement("basket_to_bowl", "teddy bear", seed))
        pictures.append(seeing.images())
    for camera in CAMERAS:
        first, other, again = (p[camera].astype(np.int16) for p in pictures)
        assert np.array_equal(first, again)
        assert np.abs(first - other).mean() > 1.0


def test_each_camera_sees_the_object_move(seeing: FastSimulation) -> None:
    placement = sample_placement("box_to_bowl", "box", 3)
    seeing.reset(placement)
    joint = seeing.model.joint(objects.object_body("box")).qposadr[0]
    x, y = placement.objects["box"].x, placement.objects["box"].y
    # Under the gripper, so that the wrist camera sees it too.
    seeing.data.qpos[joint : joint + 3] = (*seeing.pose[:2], 0.03)
    near = seeing.images()
    seeing.data.qpos[joint : joint + 3] = (x, y, -2.0)
    gone = seeing.images()
    for camera in (FRONT, WRIST):
        changed = np.abs(near[camera].astype(int) - gone[camera]).max(axis=2) > 30
        assert changed.sum() > 20, camera


def test_without_pictures_a_picture_is_refused(blind: FastSimulation) -> None:
    with pytest.raises(RuntimeError, match="without pictures"):
        blind.images()


def test_both_modes_have_the_same_joints_and_bodies() -> None:
    from simulation import world

    live = world.live_simulator()
    live.init()
    live.start()
    fast = world.fast_model()
    assert [live.model.joint(i).name for i in range(live.model.njnt)] == [
        fast.joint(i).name for i in range(fast.njnt)
    ]
    assert live.model.nq == fast.nq and live.model.nmocap == fast.nmocap
    masses = mujoco.mj_getTotalmass(live.model), mujoco.mj_getTotalmass(fast)
    assert masses[0] == pytest.approx(masses[1])
