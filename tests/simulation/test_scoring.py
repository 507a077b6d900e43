"""Success is judged by physics, and cannot be had by looking like it."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from simulation import objects, world
from simulation.fast import FastSimulation
from simulation.placement import Placement, sample_placement
from simulation.scoring import Score, Scorer

TASK, OBJECT = "box_to_bowl", "box"


@pytest.fixture(scope="module")
def simulation() -> FastSimulation:
    return FastSimulation(image_size=None)


@pytest.fixture
def placement(simulation: FastSimulation) -> Placement:
    """A fresh trial, arm at its start, object in the source container."""
    placement = sample_placement(TASK, OBJECT, 12)
    simulation.reset(placement)
    return placement


def put_object(simulation: FastSimulation, position: tuple[float, float, float]) -> None:
    joint = simulation.model.joint(objects.object_body(OBJECT))
    start = joint.qposadr[0]
    simulation.data.qpos[start : start + 7] = (*position, 1.0, 0.0, 0.0, 0.0)
    simulation.data.qvel[joint.dofadr[0] : joint.dofadr[0] + 6] = 0.0
    mujoco.mj_forward(simulation.model, simulation.data)


def settle(simulation: FastSimulation, seconds: float = 0.6, gripper: float = 1.0) -> Score:
    simulation.follow(simulation.commanded_pose, gripper, seconds)
    return simulation.score()


def lying_height() -> float:
    floor = objects.CONTAINER_SHAPES["bowl"].floor
    return floor + objects.OBJECT_SHAPES[OBJECT].half_size[2] + 0.002


def test_an_object_lying_in_the_target_is_a_success(
    simulation: FastSimulation, placement: Placement
) -> None:
    target = placement.containers["bowl"]
    put_object(simulation, (target.x, target.y, lying_height()))
    assert settle(simulation) == Score(True, "placed")


def test_an_object_in_the_source_is_none(simulation: FastSimulation, placement: Placement) -> None:
    assert settle(simulation) == Score(False, "none")


def test_an_object_that_hangs_above_the_target_is_none(
    simulation: FastSimulation, placement: Placement
) -> None:
    target = placement.containers["bowl"]
    # At rest by force: nothing touches it, its speed is 0, and it is above the middle.
    put_object(simulation, (target.x, target.y, 0.15))
    assert not Scorer(simulation.model, placement).update(simulation.data).success


@pytest.mark.parametrize("radius", [0.11, 0.20])
def test_an_object_beside_the_target_is_none(
    simulation: FastSimulation, placement: Placement, radius: float
) -> None:
    target = placement.containers["bowl"]
    put_object(simulation, (target.x + radius, target.y, 0.03))
    assert not settle(simulation, 1.0).success


def test_an_object_thrown_off_the_table_is_none(
    simulation: FastSimulation, placement: Placement
) -> None:
    target = placement.containers["bowl"]
    put_object(simulation, (target.x, target.y + 2.0, -0.72))
    assert not settle(simulation).success


def test_an_object_that_flies_through_the_target_is_none(
    simulation: FastSimulation, placement: Placement
) -> None:
    target = placement.containers["bowl"]
    put_object(simulation, (target.x, target.y, lying_height()))
    joint = simulation.model.joint(objects.object_body(OBJECT))
    simulation.data.qvel[joint.dofadr[0]] = 0.4
    assert not Scorer(simulation.model, placement).update(simulation.data).success


def test_an_object_in_the_target_but_still_gripped_is_not_yet_placed(
    simulation: FastSimulation, placement: Placement
) -> None:
    simulation.reset(placement)
    tip = simulation.pose
    target = placement.containers["bowl"]
    down = np.concatenate([[target.x, target.y, 0.20], [1.0, 0.0, 0.0, 0.0]])
    simulation.follow(down, 1.0, 2.0)
    simulation.follow(np.concatenate([[target.x, target.y, 0.025], down[3:]]), 1.0, 2.0)
    assert np.linalg.norm(simulation.pose[:2] - tip[:2]) > 0.02
    put_object(simulation, (target.x, target.y, lying_height()))
    gripped = settle(simulation, 1.0, gripper=0.0)
    assert not gripped.success and gripped.stage == "moved"
    released = settle(simulation, 1.0, gripper=1.0)
    assert released.success


def test_touching_without_lifting_is_grasped_at_most(
    simulation: FastSimulation, placement: Placement
) -> None:
    thing = placement.objects[OBJECT]
    quaternion = np.array([1.0, 0.0, 0.0, 0.0])
    simulation.follow(np.concatenate([[thing.x, thing.y, 0.2], quaternion]), 1.0, 2.0)
    simulation.follow(np.concatenate([[thing.x, thing.y, 0.025], quaternion]), 1.0, 2.0)
    assert simulation.score().stage == "reached"
    assert settle(simulation, 1.0, gripper=0.0).stage == "grasped"
    contacts = simulation.data.contact.geom
    fingers = {simulation.model.body(name).id for name in world.FINGERS}
    assert any(simulation.model.geom_bodyid[g] in fingers for pair in contacts for g in pair)
