"""The interface of all devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from contracts.geometry import Vector


@dataclass(frozen=True)
class DeviceCommand:
    """What a device wants now.

    pose: end effector (7,) in the base frame; gripper: opening 0..1, closing below 0.5; engaged:
    the deadman is held, else the arm holds still. executed: pose (7,) to follow in place of `pose`,
    which stays what is recorded as wanted (noise in demonstrations: DART, Laskey et al. 2017).
    """

    pose: Vector
    gripper: float
    engaged: bool = True
    executed: Vector | None = None


class Device(Protocol):
    """Asked once a control period for its command, between `begin` and `finished`."""

    name: str

    def begin(self) -> None:
        """A new episode starts; the arm stands still at its start."""

    def command(self, commanded: Vector, opening: float) -> DeviceCommand:
        """Wanted pose, from the last commanded pose (7,) and the measured opening 0..1."""

    @property
    def finished(self) -> bool:
        """The operator has ended the episode."""

    @property
    def phase(self) -> str:
        """What is being done, in one word; empty where a device cannot know."""
