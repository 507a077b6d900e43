"""Scripted demonstrations in the fast simulation: 60 a task, as the paper's data sets.

In part of the episodes the executed waypoints carry noise while the labels stay clean, so that the
data show how to recover (DART, Laskey et al. 2017).

    python -m training.demonstrations --per-task 60 --seed 500000 --out runs/demonstrations
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from contracts import bundle
from contracts.geometry import Vector
from contracts.task import OBJECTS, TASKS
from simulation.expert import TIME_STEP, Expert, SceneTruth, Waypoint
from simulation.fast import FastSimulation
from simulation.placement import Placement, sample_placement
from training.scenes import IMAGE_SIZE, truth_row

HORIZON = 16
MAX_STEPS = 120
NOISY_SHARE = 0.6
WIDE_NOISE = np.array([0.012, 0.012, 0.006])
FINE_NOISE = np.array([0.006, 0.006, 0.003])
"""Standard deviations [m] of the noise on executed waypoints, travelling and near the object."""


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of T steps, a row a TIME_STEP.

    images (T, cameras, size, size, 3); pose (T, 7) and opening (T,) measured; truth (T, 18);
    waypoints (T, 7) and grips (T,) are what the expert commanded.
    """

    images: np.ndarray
    pose: Vector
    opening: Vector
    truth: Vector
    waypoints: Vector
    grips: Vector


def demonstrate(
    simulation: FastSimulation, placement: Placement, rng: np.random.Generator
) -> Demonstration | None:
    """Run the expert once; None if it failed."""
    simulation.reset(placement)
    expert, noisy = Expert(placement), rng.random() < NOISY_SHARE
    rows: dict[str, list[np.ndarray | float]] = {
        name: [] for name in ("images", "pose", "opening", "truth", "waypoints", "grips")
    }
    steps = 0
    while not expert.done and steps < MAX_STEPS:
        rows["images"].append(np.stack(list(simulation.images().values())))
        rows["pose"].append(simulation.pose)
        rows["opening"].append(simulation.gripper_opening)
        rows["truth"].append(truth_row(simulation, placement))
        truth = SceneTruth.read(simulation.model, simulation.data, placement)
        waypoint = expert.act(truth, simulation.commanded_pose, simulation.gripper_opening)
        rows["waypoints"].append(waypoint.pose)
        rows["grips"].append(waypoint.gripper)
        simulation.follow(disturbed(waypoint, noisy, rng), waypoint.gripper, TIME_STEP)
        simulation.score()
        steps += 1
    for _ in range(3):
        simulation.follow(simulation.commanded_pose, 1.0, TIME_STEP)
    if not simulation.score().success:
        return None
    return Demonstration(**{name: np.array(values) for name, values in rows.items()})


def disturbed(waypoint: Waypoint, noisy: bool, rng: np.random.Generator) -> Vector:
    """Pose (7,) that is executed in place of the waypoint's."""
    scale = {
        "reach": WIDE_NOISE,
        "move": WIDE_NOISE,
        "descend": FINE_NOISE,
        "lift": FINE_NOISE,
    }.get(waypoint.phase)
    if not noisy or scale is None:
        return waypoint.pose
    return np.concatenate([waypoint.pose[:3] + rng.normal(0, scale), waypoint.pose[3:]])


def chunks(values: Vector, horizon: int = HORIZON) -> Vector:
    """Windows (T, horizon, ...) of the future; the last value is repeated past the end."""
    index = np.minimum(np.arange(len(values))[:, None] + np.arange(horizon), len(values) - 1)
    return values[index]


def collect(out: Path, per_task: int, seed: int) -> None:
    """Write `per_task` successful demonstrations of each task to images.npy and rows.npz."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    simulation = FastSimulation(IMAGE_SIZE)
    kept: list[tuple[Demonstration, int]] = []
    attempts = 0
    progress = tqdm(total=per_task * len(TASKS), desc="demonstrations", mininterval=5)
    for task_index, task in enumerate(TASKS):
        for i in range(per_task):
            obj = OBJECTS[i % len(OBJECTS)]
            demonstration = None
            while demonstration is None:
                placement = sample_placement(task, obj, seed + attempts)
                demonstration = demonstrate(simulation, placement, rng)
                attempts += 1
            kept.append((demonstration, task_index * len(OBJECTS) + OBJECTS.index(obj)))
            progress.update()
    _write(out, kept, seed)
    progress.write(f"{len(kept)} demonstrations of {attempts} attempts")


def _write(out: Path, kept: list[tuple[Demonstration, int]], seed: int) -> None:
    total = sum(len(demo.pose) for demo, _ in kept)
    shape = (total, *kept[0][0].images.shape[1:])
    images = open_memmap(out / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    start = 0
    for demo, _ in kept:
        images[start : start + len(demo.pose)] = demo.images
        start += len(demo.pose)
    images.flush()
    state = [
        bundle.state_vector(p, float(o))
        for demo, _ in kept
        for p, o in zip(demo.pose, demo.opening, strict=True)
    ]
    actions = [
        bundle.to_relative(pose, waypoints, grips)
        for demo, _ in kept
        for pose, waypoints, grips in zip(
            demo.pose, chunks(demo.waypoints), chunks(demo.grips), strict=True
        )
    ]
    np.savez(
        out / "rows.npz",
        seed=seed,
        state=np.array(state, np.float32),
        actions=np.array(actions, np.float32),
        truth=np.concatenate([demo.truth for demo, _ in kept]).astype(np.float32),
        prompt=np.concatenate([np.full(len(demo.pose), prompt) for demo, prompt in kept]),
        episode=np.concatenate([np.full(len(demo.pose), i) for i, (demo, _) in enumerate(kept)]),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Record scripted demonstrations in the fast simulation."
    )
    parser.add_argument("--per-task", type=int, default=60)
    parser.add_argument("--seed", type=int, default=500_000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    collect(arguments.out, arguments.per_task, arguments.seed)
