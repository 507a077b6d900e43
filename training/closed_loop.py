"""Closed-loop success of a chunk policy in the fast simulation, without a bundle or a server.

For the ladder's ceilings, whose policies know what no server may know. Chunks are executed one
after the other, their first steps each; evaluation proper is `python -m evaluation run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from contracts import bundle
from contracts.bundle import Normalisation
from contracts.geometry import Vector
from contracts.task import OBJECTS, TASKS
from simulation.expert import TIME_STEP
from simulation.fast import FastSimulation
from simulation.placement import Placement, sample_placement
from training.action_head import ActionHead
from training.grounding import STATE_RANGE, relative_truth
from training.head import EXECUTED
from training.scenes import truth_row

TIME_LIMIT_S = 20.0

ChunkPolicy = Callable[[FastSimulation, Placement, int], tuple[Vector, Vector]]
"""Poses (horizon, 7) in the base frame and gripper openings (horizon,) for this moment; the last
argument is the request's seed."""


@dataclass(frozen=True)
class Trials:
    """Outcomes in the order task, object, trial."""

    successes: int
    trials: int


def success_rate(
    policy: ChunkPolicy, trials: int, seed: int, objects: Sequence[str] = OBJECTS
) -> Trials:
    """`trials` trials of each task and object, started as `python -m evaluation` starts them."""
    simulation = FastSimulation(None)
    starts = [
        sample_placement(task, obj, seed + trial)
        for task in TASKS
        for obj in objects
        for trial in range(trials)
    ]
    successes = 0
    for start in tqdm(starts, desc="closed loop", mininterval=5):
        successes += run_trial(policy, simulation, start)
    simulation.close()
    return Trials(successes, len(starts))


def run_trial(policy: ChunkPolicy, simulation: FastSimulation, start: Placement) -> bool:
    """Whether the object came to rest in the target before the time was over."""
    simulation.reset(start)
    request = 0
    while simulation.time < TIME_LIMIT_S:
        poses, grips = policy(simulation, start, request)
        request += 1
        for pose, grip in zip(poses[:EXECUTED], grips[:EXECUTED], strict=True):
            simulation.follow(pose, float(grip), TIME_STEP)
            if simulation.score().success:
                return True
    return False


def policy_on_truth(head: ActionHead, action_range: Normalisation) -> ChunkPolicy:
    """The head of `head.truth_data`: it reads the simulator's truth and sees nothing."""
    blind = torch.zeros(1, 1, head.config.hidden)
    mask = torch.ones(1, 1, dtype=torch.bool)

    @torch.no_grad()
    def act(simulation: FastSimulation, start: Placement, request: int) -> tuple[Vector, Vector]:
        pose = simulation.pose
        truth = torch.from_numpy(truth_row(simulation, start)).float()[None]
        position = torch.from_numpy(pose[:3]).float()[None]
        readout = torch.cat([relative_truth(position, truth), truth[:, 6:10]], dim=1)
        state = STATE_RANGE.normalise(bundle.state_vector(pose, simulation.gripper_opening))
        noise = np.random.default_rng([start.seed, request]).standard_normal(
            (1, head.config.horizon, bundle.ACTION_DIMENSION), np.float32
        )
        state_row = torch.from_numpy(state.astype(np.float32))[None]
        actions = head.sample(torch.from_numpy(noise), blind, mask, state_row, readout, 4)
        absolute = action_range.denormalise(actions[0].double().numpy())
        return bundle.to_absolute(pose, absolute)

    return act
