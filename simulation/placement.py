"""Where everything stands at the start of a trial, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from contracts.robot import FR3
from contracts.task import CONTAINERS, OBJECTS, Task, check_object, get_task
from simulation import objects, world

TABLE_X = (0.38, 0.60)
TABLE_Y = (-0.25, 0.25)
CONTAINER_SPACING = 0.205
"""Least distance [m] between container centres: the open hand fits between two walls."""
SOURCE_OFFSET = 0.022
"""Largest offset [m] an axis of the object from its container's centre."""


@dataclass(frozen=True)
class BodyPose:
    """Position [m] on the table and turn [rad] about the vertical."""

    x: float
    y: float
    z: float
    yaw: float


@dataclass(frozen=True)
class Placement:
    """Start of one trial: the containers and objects on the table; all others are put away.

    The object goes into, or onto, the container `target`.

    `home_offset` (7,) [rad] moves the arm's start a little from home.
    """

    task: str
    object: str
    target: str
    seed: int
    containers: Mapping[str, BodyPose]
    objects: Mapping[str, BodyPose]
    home_offset: tuple[float, ...]


def sample_placement(task_name: str, obj: str, seed: int) -> Placement:
    """The start that belongs to (task, object, seed): same arguments, same start, anywhere.

    Raises:
        ValueError: unknown task or object.
    """
    return place(get_task(task_name), obj, seed)


def place(task: Task, obj: str, seed: int) -> Placement:
    """The start of any task, one of the evaluation's or another.

    The object lies in the source container; one more container and one more object distract.

    Raises:
        ValueError: unknown object.
    """
    check_object(obj)
    key = [
        seed,
        list(CONTAINERS).index(task.source),
        list(CONTAINERS).index(task.target),
        OBJECTS.index(obj),
    ]
    rng = np.random.default_rng(key)
    other_container = str(
        rng.choice([c for c in CONTAINERS if c not in (task.source, task.target)])
    )
    names = (task.source, task.target, other_container)
    spots = _sample_spots(rng, len(names))
    containers = {
        name: BodyPose(
            x, y, 0.0, float(rng.uniform(-np.pi / 4, np.pi / 4)) if name == "box" else 0.0
        )
        for name, (x, y) in zip(names, spots, strict=True)
    }
    other_object = str(rng.choice([o for o in OBJECTS if o != obj]))
    placed = {
        obj: _object_in(rng, obj, task.source, containers[task.source]),
        other_object: _object_in(rng, other_object, other_container, containers[other_container]),
    }
    offset = rng.uniform(-1, 1, 7) * np.array([0.12, 0.08, 0.05, 0.08, 0.05, 0.08, 0.15])
    return Placement(
        task.name, obj, task.target, seed, containers, placed, tuple(offset.tolist())
    )


def apply_placement(model: mujoco.MjModel, data: mujoco.MjData, placement: Placement) -> None:
    """Put objects and containers where `placement` says, at rest; the arm is not touched."""
    for i, name in enumerate(CONTAINERS):
        pose = placement.containers.get(name, BodyPose(-1.0, 1.5 + 0.5 * i, -0.75, 0.0))
        mocap = model.body(objects.container_body(name)).mocapid[0]
        data.mocap_pos[mocap] = (pose.x, pose.y, pose.z)
        data.mocap_quat[mocap] = _yaw_quaternion(pose.yaw)
    for i, name in enumerate(OBJECTS):
        put_away = BodyPose(
            -1.5, 1.5 + 0.5 * i, -0.75 + objects.OBJECT_SHAPES[name].half_size[2], 0.0
        )
        pose = placement.objects.get(name, put_away)
        joint = model.joint(objects.object_body(name))
        start = joint.qposadr[0]
        data.qpos[start : start + 7] = (pose.x, pose.y, pose.z, *_yaw_quaternion(pose.yaw))
        data.qvel[joint.dofadr[0] : joint.dofadr[0] + 6] = 0.0
    mujoco.mj_forward(model, data)


def home_joints(placement: Placement) -> np.ndarray:
    """Joint positions (7,) [rad] at which the arm starts this trial."""
    return FR3.home_joints + np.asarray(placement.home_offset)


def place_arm(model: mujoco.MjModel, data: mujoco.MjData, joints: np.ndarray) -> None:
    """Set the arm to `joints` (7,) [rad] with the hand open, at rest (fast simulation only)."""
    data.qpos[world.joint_addresses(model, world.ARM_JOINTS)] = joints
    data.qpos[world.joint_addresses(model, world.FINGER_JOINTS)] = FR3.gripper_width / 2
    data.qvel[:] = 0.0
    mujoco.mj_forward(model, data)


def _sample_spots(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Spots at least CONTAINER_SPACING apart, by rejection."""
    while True:
        spots = np.stack([rng.uniform(*TABLE_X, count), rng.uniform(*TABLE_Y, count)], axis=1)
        gaps = np.linalg.norm(spots[:, None] - spots[None], axis=-1)[np.triu_indices(count, 1)]
        if gaps.min() >= CONTAINER_SPACING:
            return [(float(x), float(y)) for x, y in spots]


def _object_in(rng: np.random.Generator, obj: str, container: str, at: BodyPose) -> BodyPose:
    dx, dy = rng.uniform(-SOURCE_OFFSET, SOURCE_OFFSET, 2)
    floor = objects.CONTAINER_SHAPES[container].floor
    z = floor + objects.OBJECT_SHAPES[obj].half_size[2] + 0.001
    return BodyPose(
        float(at.x + dx), float(at.y + dy), z, float(rng.uniform(-np.pi / 4, np.pi / 4))
    )


def _yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    """MuJoCo quaternion (w x y z) of a turn about z."""
    return float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))
