"""A scripted expert: solves a trial from the simulator's truth, one waypoint every 0.1 s.

It plays the teleoperator of the demonstrations; it is never in a learned policy's loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from contracts import geometry
from contracts.geometry import Vector
from simulation import objects
from simulation.placement import Placement

TIME_STEP = 0.1
"""Seconds between the expert's waypoints."""
TRAVEL_HEIGHT = 0.17
"""Height [m] at which the gripper crosses the table: a carried object clears every wall."""
TRAVEL_STEP = 0.030
DESCENT_STEP = 0.022
TURN_STEP = 0.14
"""Largest changes a waypoint: metres when travelling and when descending, radians about z."""
DOWN = np.array([1.0, 0.0, 0.0, 0.0])
"""Gripper straight down, quaternion xyzw."""
PHASES = ("reach", "descend", "grasp", "lift", "move", "lower", "release", "retreat", "done")


@dataclass(frozen=True)
class SceneTruth:
    """What the expert knows: object position (3,) and yaw, target container centre (3,)."""

    object_position: Vector
    object_yaw: float
    target_position: Vector

    @classmethod
    def read(cls, model: mujoco.MjModel, data: mujoco.MjData, placement: Placement) -> SceneTruth:
        """Truth of the trial `placement` at this moment."""
        body = data.body(objects.object_body(placement.object))
        target = placement.containers[placement.target]
        matrix = body.xmat.reshape(3, 3)
        return cls(
            object_position=body.xpos.copy(),
            object_yaw=float(np.arctan2(matrix[1, 0], matrix[0, 0])),
            target_position=np.array([target.x, target.y, target.z]),
        )


@dataclass(frozen=True)
class Waypoint:
    """Commanded pose (7,), gripper opening (0 or 1) and the phase it belongs to."""

    pose: Vector
    gripper: float
    phase: str


class Expert:
    """State machine over PHASES; `act` is called once a TIME_STEP with the commanded pose."""

    def __init__(self, placement: Placement) -> None:
        self._object = placement.object
        self._shape = objects.OBJECT_SHAPES[placement.object]
        self._floor = objects.CONTAINER_SHAPES[placement.target].floor
        self._phase = 0
        self._waited = 0
        self._grasp_yaw: float | None = None
        self._last_opening = 1.0

    @property
    def phase(self) -> str:
        return PHASES[self._phase]

    @property
    def done(self) -> bool:
        return self.phase == "done"

    def act(self, truth: SceneTruth, commanded: Vector, opening: float) -> Waypoint:
        """Next waypoint from the last commanded pose (7,) and the measured opening 0..1."""
        goal, step = self._goal(truth, commanded)
        pose, arrived = _towards(commanded, goal, step)
        phase, gripper = self.phase, 0.0 if 2 <= self._phase <= 5 else 1.0
        self._advance(arrived, opening)
        return Waypoint(pose, gripper, phase)

    def _goal(self, truth: SceneTruth, commanded: Vector) -> tuple[Vector, float]:
        """Pose (7,) that the phase heads for, and its step [m]."""
        here, obj, target = commanded[:3], truth.object_position, truth.target_position
        grasp_height = max(obj[2], 0.017)
        if self.phase in ("reach", "descend"):
            self._grasp_yaw = objects.grasp_yaw(self._object, truth.object_yaw)
            height = TRAVEL_HEIGHT if self.phase == "reach" else grasp_height
            # Only straight above the object may the gripper go down into the container.
            step = TRAVEL_STEP if self.phase == "reach" else DESCENT_STEP
            return _down_pose(obj[0], obj[1], height, self._grasp_yaw), step
        yaw = self._grasp_yaw or 0.0
        if self.phase == "lift":
            return _down_pose(here[0], here[1], TRAVEL_HEIGHT + 0.02, yaw), TRAVEL_STEP
        # The object may sit off the gripper's centre; bring the object to the middle.
        offset = (
            np.clip(obj[:2] - here[:2], -0.02, 0.02)
            if self.phase in ("move", "lower")
            else np.zeros(2)
        )
        if self.phase == "move":
            return _down_pose(*(target[:2] - offset), TRAVEL_HEIGHT + 0.02, 0.0), TRAVEL_STEP
        if self.phase == "lower":
            hanging = float(np.clip(here[2] - obj[2], -0.02, 0.03))
            height = self._floor + self._shape.half_size[2] + hanging + 0.015
            return _down_pose(here[0], here[1], height, 0.0), DESCENT_STEP
        if self.phase == "retreat":
            return _down_pose(here[0], here[1], TRAVEL_HEIGHT + 0.02, 0.0), TRAVEL_STEP
        return commanded, TRAVEL_STEP

    def _advance(self, arrived: bool, opening: float) -> None:
        self._waited += 1
        if self.phase == "grasp":
            settled = abs(opening - self._last_opening) < 0.01 and self._waited >= 4
            arrived = settled or self._waited >= 12
        elif self.phase == "release":
            arrived = opening > 0.85 or self._waited >= 12
        self._last_opening = opening
        if arrived and not self.done:
            self._phase += 1
            self._waited = 0


def _down_pose(x: float, y: float, z: float, yaw: float) -> Vector:
    turn = geometry.from_rotation_vector(np.array([0.0, 0.0, yaw]))
    return np.concatenate([[x, y, z], geometry.multiply(turn, DOWN)])


def _towards(pose: Vector, goal: Vector, step: float) -> tuple[Vector, bool]:
    """Pose one step nearer to the goal, and whether that is the goal."""
    distance = float(np.linalg.norm(goal[:3] - pose[:3]))
    turn = geometry.to_rotation_vector(geometry.multiply(goal[3:], geometry.conjugate(pose[3:])))
    slower = max(distance / step, float(np.linalg.norm(turn)) / TURN_STEP, 1.0)
    if slower <= 1.0:
        return goal, True
    return geometry.interpolate(pose, goal, 1.0 / slower), False
