"""Scene snapshots: pictures of random moments of the tasks with the simulator's truth beside them.

No physics runs: objects and arm are set where a trial could have them (approaching, carrying, after
release) and drawn, some 200 a second and core. This is the grounding data that the lab backbone
learns from; the demonstrations are separate (`demonstrations.py`).

    python -m training.scenes --samples 24000 --seed 1 --out runs/scenes/1
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from contracts import bundle, geometry, kinematics
from contracts.geometry import Vector
from contracts.robot import FR3
from contracts.task import OBJECTS, TASKS
from simulation import objects, world
from simulation.cameras import CAMERAS
from simulation.expert import DOWN
from simulation.fast import FastSimulation
from simulation.placement import Placement, sample_placement

IMAGE_SIZE = 128
TRUTH_DIMENSION = 18
"""Columns of a truth row: object position (3), target position (3), grasp yaw as cos and sin of
twice and four times the angle (4), object and target in each camera as (x, y) in 0..1 (8)."""


@dataclass(frozen=True)
class SceneRow:
    """One snapshot: state as the head reads it, truth (TRUTH_DIMENSION,), task and object index."""

    state: Vector
    truth: Vector
    task: int
    object: int


def truth_row(simulation: FastSimulation, placement: Placement) -> Vector:
    """Truth (TRUTH_DIMENSION,) of the simulation's present state."""
    body = simulation.data.body(objects.object_body(placement.object))
    target = placement.containers[placement.target]
    matrix = body.xmat.reshape(3, 3)
    yaw = objects.grasp_yaw(placement.object, float(np.arctan2(matrix[1, 0], matrix[0, 0])))
    target_position = np.array([target.x, target.y, target.z])
    points = [
        project(simulation, camera, position)
        for camera in CAMERAS
        for position in (body.xpos, target_position)
    ]
    turns = [np.cos(2 * yaw), np.sin(2 * yaw), np.cos(4 * yaw), np.sin(4 * yaw)]
    return np.concatenate([body.xpos, target_position, turns, *points])


def project(simulation: FastSimulation, camera: str, position: Vector) -> Vector:
    """Picture coordinates (2,) of a point in the base frame; 0..1 inside, x right, y down."""
    view = simulation.data.camera(camera)
    local = view.xmat.reshape(3, 3).T @ (position - view.xpos)
    focal = CAMERAS[camera].focal_length(1)
    depth = -local[2] if local[2] < -1e-3 else 1e-3
    return np.clip([0.5 + focal * local[0] / depth, 0.5 - focal * local[1] / depth], -1.0, 2.0)


def sample_scene(simulation: FastSimulation, rng: np.random.Generator, seed: int) -> SceneRow:
    """Set a random moment of a random trial up and return its row; `images()` then draws it."""
    task_index, object_index = int(rng.integers(len(TASKS))), int(rng.integers(len(OBJECTS)))
    task = list(TASKS.values())[task_index]
    placement = sample_placement(task.name, OBJECTS[object_index], seed)
    simulation.arrange(placement)
    situation = rng.choice(("approach", "carry", "after"), p=(0.6, 0.28, 0.12))
    target = placement.containers[task.target]
    resting = placement.objects[placement.object]
    lying = np.array([resting.x, resting.y, resting.z])
    if situation == "after":
        offset = rng.normal(0, 0.015, 2)
        height = (
            objects.CONTAINER_SHAPES[task.target].floor
            + resting.z
            - objects.CONTAINER_SHAPES[task.source].floor
        )
        lying = np.array([target.x + offset[0], target.y + offset[1], height])
    if situation == "carry":
        pose, opening = _carrying_pose(rng, placement, lying)
        _attach_object(simulation, placement, pose, rng)
    else:
        pose, opening = _free_pose(rng, lying), float(rng.choice((1.0, rng.uniform(0.45, 1.0))))
        _move_object(simulation, placement.object, lying, float(rng.uniform(-np.pi / 4, np.pi / 4)))
    _set_arm(simulation, pose, opening)
    simulation.update_kinematics()
    state = bundle.state_vector(simulation.pose, simulation.gripper_opening)
    return SceneRow(state, truth_row(simulation, placement), task_index, object_index)


def _free_pose(rng: np.random.Generator, around: Vector) -> Vector:
    """Open gripper anywhere over the table, two times in three near the object."""
    if rng.random() < 0.67:
        spread = float(rng.choice((0.008, 0.03, 0.08)))
        xy = around[:2] + rng.normal(0, spread, 2)
    else:
        xy = np.array([rng.uniform(0.30, 0.66), rng.uniform(-0.33, 0.33)])
    # Beside the object the fingers stay above the walls.
    lowest = max(around[2] - 0.005, 0.017) if np.abs(xy - around[:2]).max() < 0.02 else 0.075
    height = rng.uniform(lowest, 0.34) if rng.random() < 0.5 else rng.uniform(lowest, 0.19)
    return _pose(rng, xy, height)


def _carrying_pose(
    rng: np.random.Generator, placement: Placement, lying: Vector
) -> tuple[Vector, float]:
    """Closed gripper somewhere on the way from source to target, and its opening."""
    target = placement.containers[placement.target]
    fraction = rng.choice((0.0, 1.0, rng.uniform(0, 1)))
    xy = (
        (1 - fraction) * lying[:2]
        + fraction * np.array([target.x, target.y])
        + rng.normal(0, 0.015, 2)
    )
    width = 2 * objects.OBJECT_SHAPES[placement.object].half_size[1]
    return _pose(rng, xy, rng.uniform(0.03, 0.22)), width / FR3.gripper_width


def _pose(rng: np.random.Generator, xy: Vector, height: float) -> Vector:
    yaw = float(rng.choice((0.0, rng.uniform(-np.pi / 4, np.pi / 4))))
    tilt = rng.normal(0, 0.03, 3) * (1, 1, 0) + np.array([0, 0, yaw])
    quaternion = geometry.multiply(geometry.from_rotation_vector(tilt), DOWN)
    position = np.clip([xy[0], xy[1], height], (0.28, -0.36, 0.015), (0.70, 0.36, 0.36))
    return np.concatenate([position, quaternion])


def _attach_object(
    simulation: FastSimulation, placement: Placement, pose: Vector, rng: np.random.Generator
) -> None:
    """Put the object between the fingers."""
    half_height = objects.OBJECT_SHAPES[placement.object].half_size[2]
    rotation = geometry.to_matrix(pose[3:])
    slip = np.array([rng.normal(0, 0.006), 0.0, rng.uniform(-0.3, 0.3) * half_height])
    yaw = float(np.arctan2(rotation[1, 0], rotation[0, 0])) + float(rng.normal(0, 0.05))
    position = pose[:3] + rotation @ slip
    _move_object(simulation, placement.object, np.maximum(position, [-9, -9, half_height]), yaw)


def _move_object(simulation: FastSimulation, obj: str, position: Vector, yaw: float) -> None:
    start = simulation.model.joint(objects.object_body(obj)).qposadr[0]
    turn = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
    simulation.data.qpos[start : start + 7] = (*position, *turn)


def _set_arm(simulation: FastSimulation, pose: Vector, opening: float) -> None:
    """Joints by a few steps of inverse kinematics; the pose need only be near."""
    joints = FR3.home_joints.copy()
    for _ in range(6):
        jacobian, reached = kinematics.jacobian(joints)
        joints = joints + kinematics.damped_step(
            jacobian, kinematics.pose_error(pose, reached), np.zeros(7)
        )
    model, data = simulation.model, simulation.data
    data.qpos[world.joint_addresses(model, world.ARM_JOINTS)] = joints
    data.qpos[world.joint_addresses(model, world.FINGER_JOINTS)] = opening * FR3.gripper_width / 2


def generate(out: Path, samples: int, seed: int) -> None:
    """Write images.npy (samples, 2, size, size, 3) and rows.npz (state, truth, task, object)."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    simulation = FastSimulation(IMAGE_SIZE)
    images = open_memmap(
        out / "images.npy",
        mode="w+",
        dtype=np.uint8,
        shape=(samples, len(CAMERAS), IMAGE_SIZE, IMAGE_SIZE, 3),
    )
    rows = []
    for i in tqdm(range(samples), desc="scenes", mininterval=5):
        rows.append(sample_scene(simulation, rng, seed=1_000_000 * seed + i))
        images[i] = np.stack(list(simulation.images().values()))
    images.flush()
    np.savez(
        out / "rows.npz",
        seed=seed,
        state=np.array([row.state for row in rows], np.float32),
        truth=np.array([row.truth for row in rows], np.float32),
        task=np.array([row.task for row in rows]),
        object=np.array([row.object for row in rows]),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw scene snapshots with their truth.")
    parser.add_argument("--samples", type=int, default=24000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    generate(arguments.out, arguments.samples, arguments.seed)
