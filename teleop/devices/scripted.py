"""The simulation's scripted expert as one more device; it reads the simulator's truth."""

from __future__ import annotations

from typing import Final

import numpy as np

from contracts import geometry
from contracts.geometry import Vector
from simulation.expert import TIME_STEP, Expert, SceneTruth, Waypoint
from simulation.fast import CONTROL_PERIOD, FastSimulation
from teleop.devices.device import DeviceCommand

PERIODS: Final = round(TIME_STEP / CONTROL_PERIOD)
"""Control periods between the expert's waypoints."""
WIDE_NOISE: Final = np.array([0.012, 0.012, 0.006])
FINE_NOISE: Final = np.array([0.006, 0.006, 0.003])
"""Standard deviations [m] of the noise on executed waypoints, travelling and near the object."""
NOISE: Final = {
    "reach": WIDE_NOISE,
    "move": WIDE_NOISE,
    "descend": FINE_NOISE,
    "lift": FINE_NOISE,
}


class ScriptedDevice:
    """Goes in straight lines from waypoint to waypoint.

    In a share `disturbed` of the episodes the executed poses carry noise while the wanted ones stay
    clean, so that the data show how to recover.
    """

    name = "scripted"

    def __init__(self, simulation: FastSimulation, disturbed: float, seed: int) -> None:
        if not 0.0 <= disturbed <= 1.0:
            raise ValueError(f"the disturbed share must be 0..1, got {disturbed}")
        self._simulation = simulation
        self._disturbed = disturbed
        self._seed = seed

    def begin(self) -> None:
        placement = self._simulation.placement
        if placement is None:
            raise RuntimeError("reset the simulation before an episode begins")
        self._placement = placement
        self._expert = Expert(placement)
        self._rng = np.random.default_rng([self._seed, placement.seed])
        self._noisy = self._rng.random() < self._disturbed
        self._period = PERIODS

    def command(self, commanded: Vector, opening: float) -> DeviceCommand:
        if self._period == PERIODS:
            self._next_waypoint(commanded, opening)
        self._period += 1
        share = self._period / PERIODS
        pose = geometry.interpolate(self._start, self._waypoint.pose, share)
        executed = np.concatenate([pose[:3] + share * self._offset, pose[3:]])
        return DeviceCommand(pose, self._waypoint.gripper, executed=executed)

    @property
    def finished(self) -> bool:
        return self._expert.done and self._period == PERIODS

    @property
    def phase(self) -> str:
        return self._waypoint.phase

    def _next_waypoint(self, commanded: Vector, opening: float) -> None:
        simulation = self._simulation
        truth = SceneTruth.read(simulation.model, simulation.data, self._placement)
        self._waypoint: Waypoint = self._expert.act(truth, commanded, opening)
        self._start, self._period = commanded, 0
        scale = NOISE.get(self._waypoint.phase) if self._noisy else None
        self._offset = np.zeros(3) if scale is None else self._rng.normal(0.0, scale)
