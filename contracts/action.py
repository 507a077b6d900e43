"""ActionChunk: what the policy answers, as the arm understands it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts import geometry
from contracts.geometry import Vector

MAX_HORIZON = 256


@dataclass(frozen=True)
class ActionChunk:
    """Absolute end-effector waypoints that answer one observation.

    poses: (horizon, 7) in the base frame, metres and unit quaternion xyzw.
    gripper: (horizon,) wanted opening, 0 closed .. 1 open.
    time_step: seconds between waypoints; waypoint i is due (i + 1) time steps after
        observation_stamp.
    """

    chunk_id: str
    observation_stamp: float
    time_step: float
    poses: Vector
    gripper: NDArray[np.float64]

    def __post_init__(self) -> None:
        poses = geometry.check_poses(self.poses, f"action chunk {self.chunk_id!r}: poses")
        gripper = np.asarray(self.gripper, dtype=np.float64)
        if poses.ndim != 2 or not 1 <= len(poses) <= MAX_HORIZON:
            raise ValueError(
                f"action chunk {self.chunk_id!r}: poses must be (1..{MAX_HORIZON}, 7), "
                f"got {poses.shape}"
            )
        if gripper.shape != (len(poses),):
            raise ValueError(
                f"action chunk {self.chunk_id!r}: {len(poses)} poses but gripper {gripper.shape}"
            )
        openings = gripper.tolist()  # plain floats are several times faster
        if not all(map(math.isfinite, openings)):
            raise ValueError(
                f"action chunk {self.chunk_id!r}: gripper has values that are not finite"
            )
        if not 0.001 <= self.time_step <= 10.0:
            raise ValueError(
                f"action chunk {self.chunk_id!r}: time step {self.time_step} s is not in 0.001..10"
            )
        if not math.isfinite(self.observation_stamp) or self.observation_stamp < 0.0:
            raise ValueError(
                f"action chunk {self.chunk_id!r}: bad observation stamp {self.observation_stamp}"
            )
        object.__setattr__(self, "poses", poses)
        inside = min(openings) >= 0.0 and max(openings) <= 1.0
        gripper = gripper.copy() if inside else np.clip(gripper, 0.0, 1.0)
        object.__setattr__(self, "gripper", gripper)

    @property
    def horizon(self) -> int:
        return len(self.poses)

    @property
    def times(self) -> NDArray[np.float64]:
        """Due times (horizon,) [s] of the waypoints."""
        steps = np.arange(1, self.horizon + 1, dtype=np.float64)
        return self.observation_stamp + self.time_step * steps
