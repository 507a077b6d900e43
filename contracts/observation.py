"""Observation: what the policy sees at one moment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts import geometry
from contracts.geometry import Vector

MAX_INSTRUCTION_LENGTH = 512


@dataclass(frozen=True)
class CameraFrame:
    """One colour picture, uint8 (height, width, 3) RGB, taken at `stamp` [s]."""

    image: NDArray[np.uint8]
    stamp: float

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(
                f"camera frame: expected uint8 (height, width, 3), "
                f"got {self.image.dtype} {self.image.shape}"
            )
        if 0 in self.image.shape:
            raise ValueError(f"camera frame: empty picture {self.image.shape}")
        _check_stamp(self.stamp, "camera frame")


@dataclass(frozen=True)
class RobotState:
    """State of the arm at `stamp` [s].

    pose: measured end-effector pose (7,) in the base frame; joint_positions [rad] and
    joint_velocities [rad/s] (7,); gripper_opening 0 (closed) .. 1 (fully open).
    """

    pose: Vector
    joint_positions: Vector
    joint_velocities: Vector
    gripper_opening: float
    stamp: float

    def __post_init__(self) -> None:
        if np.shape(self.pose) != (7,):
            raise ValueError(f"robot state: pose must be (7,), got {np.shape(self.pose)}")
        object.__setattr__(self, "pose", geometry.check_poses(self.pose, "robot state: pose"))
        for name in ("joint_positions", "joint_velocities"):
            object.__setattr__(self, name, _check_joints(getattr(self, name), name))
        if not -0.05 <= self.gripper_opening <= 1.05:
            raise ValueError(
                f"robot state: gripper_opening must be 0..1, got {self.gripper_opening}"
            )
        _check_stamp(self.stamp, "robot state")


@dataclass(frozen=True)
class Observation:
    """Instruction, one frame a camera (by name) and the robot's state; `stamp` [s] is 'now'."""

    instruction: str
    frames: Mapping[str, CameraFrame]
    state: RobotState
    stamp: float

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise ValueError("observation: the instruction is empty")
        if len(self.instruction) > MAX_INSTRUCTION_LENGTH:
            raise ValueError(
                f"observation: instruction longer than {MAX_INSTRUCTION_LENGTH} characters"
            )
        if not self.frames:
            raise ValueError("observation: no camera frame")
        _check_stamp(self.stamp, "observation")


def _check_joints(values: ArrayLike, name: str) -> Vector:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (7,):
        raise ValueError(f"robot state: {name} must be (7,), got {array.shape}")
    if not all(map(math.isfinite, array.tolist())):
        raise ValueError(f"robot state: {name} has values that are not finite")
    return array


def _check_stamp(stamp: float, what: str) -> None:
    if not math.isfinite(stamp) or stamp < 0.0:
        raise ValueError(f"{what}: stamp must be a time in seconds, got {stamp}")
