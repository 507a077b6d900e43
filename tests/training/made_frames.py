"""Frames of the other world made up by hand: no simulation runs."""

from __future__ import annotations

import numpy as np

from training.other_world import Entity, Frame, OtherWorldData


def entity(name: str, role: str, x: float, y: float) -> Entity:
    points = {"front": (x, y), "wrist": (x, y)}
    boxes = dict.fromkeys(points, (x - 0.05, y - 0.04, x + 0.05, y + 0.04))
    return Entity(name, role, (0.4, 0.0, 0.02), points, boxes)


def frame(name: str = "other_world/1#0", phase: str = "reach", **changes: object) -> Frame:
    content = {
        "name": name,
        "instruction": "move the red block from the bowl to the plate",
        "phase": phase,
        "state": (0.0,) * 11,
        "pose": (0.45, -0.1, 0.2, 1.0, 0.0, 0.0, 0.0),
        "opening": 1.0,
        "entities": (
            entity("red block", "object", 0.30, 0.40),
            entity("blue can", "other object", 0.55, 0.60),
            entity("bowl", "source", 0.31, 0.42),
            entity("plate", "target", 0.70, 0.50),
            entity("basket", "other container", 0.55, 0.62),
        ),
    }
    return Frame(**(content | changes))


def chunk(x: float = 0.0, y: float = 0.0, z: float = 0.0, opening: float = 1.0) -> np.ndarray:
    """A straight way (16, 7) to (x, y, z) [m] with one gripper opening."""
    way = np.zeros((16, 7))
    way[:, :3] = np.linspace(0, 1, 16)[:, None] * [x, y, z]
    way[:, 6] = opening
    return way


def world_data(rollouts: int = 5, frames: int = 3) -> OtherWorldData:
    """Frames of several rollouts with noise for pictures."""
    rng = np.random.default_rng(0)
    made = [frame(f"other_world/{r}#{i}") for r in range(rollouts) for i in range(frames)]
    images = rng.integers(0, 256, (len(made), 2, 128, 128, 3), dtype=np.uint8)
    ways = np.stack([chunk(*rng.normal(0, 0.1, 3)) for _ in made])
    return OtherWorldData(tuple(made), images, ways)
