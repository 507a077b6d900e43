"""Where views come from: a robot that can be sent to a pose, and one camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from calibration.pinhole import Intrinsics
from contracts.geometry import Vector

ON_HAND: Final = {"front": False, "wrist": True}
"""The cameras of a set-up by name, and whether the hand carries them."""


class MotionError(RuntimeError):
    """The robot did not arrive; the text says where it stands."""


@dataclass(frozen=True)
class Shot:
    """Picture (height, width, 3) uint8 RGB of `stamp` [s], and the arm while it was taken.

    pose: measured end-effector pose (7,) in the base frame of `robot_stamp` [s], in one clock.
    """

    image: np.ndarray
    stamp: float
    pose: Vector
    robot_stamp: float


class ViewSource(Protocol):
    """One set-up with one camera; `camera` is `front` or `wrist`, `factory` what it says itself."""

    @property
    def camera(self) -> str: ...

    @property
    def serial(self) -> str: ...

    @property
    def robot(self) -> str: ...

    @property
    def factory(self) -> Intrinsics | None: ...

    def move_to(self, pose: Vector) -> None:
        """Move the end effector to `pose` (7,) and stand still. Raises MotionError."""

    def take(self) -> Shot:
        """A picture taken now. Raises CaptureError: no picture, or no robot state."""

    def close(self) -> None:
        """Let go of robot and camera."""
