"""Success judged by physics: the object in or on the target, released, at rest."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from contracts.robot import FR3
from simulation import objects, world
from simulation.placement import Placement

REST_SPEED = 0.03
"""Below this speed [m/s] the object is at rest."""
LIFTED_HEIGHT = 0.05
"""Rise [m] of the object above its start that counts as lifted."""
STAGES = ("reached", "grasped", "lifted", "moved", "placed")


@dataclass(frozen=True)
class Score:
    """Success, and the furthest stage so far (one of STAGES, or 'none')."""

    success: bool
    stage: str


class Scorer:
    """Watches one trial; call `update` about ten times a second."""

    def __init__(self, model: mujoco.MjModel, placement: Placement) -> None:
        self._placement = placement
        self._body = model.body(objects.object_body(placement.object)).id
        self._velocity = model.joint(objects.object_body(placement.object)).dofadr[0]
        self._object_bodies = {self._body}
        self._finger_bodies = {model.body(name).id for name in world.FINGERS}
        self._hand = model.body(world.HAND).id
        self._fingers = world.joint_addresses(model, world.FINGER_JOINTS)
        self._geom_body = model.geom_bodyid
        self._target = placement.containers[placement.target]
        self._shape = objects.CONTAINER_SHAPES[placement.target]
        self._half_height = min(objects.OBJECT_SHAPES[placement.object].half_size)
        self._start_height = placement.objects[placement.object].z
        self._furthest = -1

    def update(self, data: mujoco.MjData) -> Score:
        """Score at this moment."""
        position = data.xpos[self._body]
        touched = self._touched(data)
        resting = float(np.linalg.norm(data.qvel[self._velocity : self._velocity + 3])) < REST_SPEED
        inside = self._inside(position)
        success = inside and resting and not touched
        grasped = touched and float(data.qpos[self._fingers].sum()) < FR3.gripper_width - 0.004
        lifted = position[2] > self._start_height + LIFTED_HEIGHT
        hand = data.xpos[self._hand]
        reached = (
            float(np.linalg.norm(hand[:2] - position[:2])) < 0.03 and hand[2] - position[2] < 0.15
        )
        reached_stages = (reached, grasped, grasped and lifted, inside, success)
        for stage, achieved in enumerate(reached_stages):
            if achieved:
                self._furthest = max(self._furthest, stage)
        return Score(bool(success), STAGES[self._furthest] if self._furthest >= 0 else "none")

    def _inside(self, position: np.ndarray) -> bool:
        """Centre within the target's inner outline and no higher than a lying object would be."""
        offset = position[:2] - (self._target.x, self._target.y)
        if self._shape.round:
            within = float(np.linalg.norm(offset)) < self._shape.inner
        else:
            cos, sin = np.cos(self._target.yaw), np.sin(self._target.yaw)
            along = np.abs([cos * offset[0] + sin * offset[1], cos * offset[1] - sin * offset[0]])
            within = float(along.max()) < self._shape.inner
        height = position[2] - self._shape.floor
        return within and self._half_height * 0.5 < height < 0.05

    def _touched(self, data: mujoco.MjData) -> bool:
        """Whether a finger touches the object."""
        for contact in data.contact.geom if data.ncon else ():
            bodies = {int(self._geom_body[contact[0]]), int(self._geom_body[contact[1]])}
            if self._body in bodies and bodies & self._finger_bodies:
                return True
        return False
