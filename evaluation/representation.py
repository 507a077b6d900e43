"""How well a backbone's hidden states tell where in a task the robot stands (B.1, Table 9).

Successful trajectories of one task are cut into classes by dynamic time warping over the robot's
states; a nearest-neighbour vote on hidden states of layer k, made from pictures and instruction
alone, then names the class of every frame, with all frames of its own trajectory left out.

The paper leaves the metric, the pooling and the split open. Here: hidden states are averaged over
all tokens of the prompt (the text before the pictures is the same in every frame and adds only a
constant), scaled by the spread of each dimension in the other trajectories, compared by Euclidean
distance, and every trajectory is left out once. The interval is a bootstrap over trajectories,
since frames of one trajectory are anything but independent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.bundle import state_vector
from contracts.geometry import Vector
from contracts.observation import Observation
from contracts.task import OBJECTS, get_task
from evaluation.plan import PlanError
from evaluation.policies import PolicyChoice
from policy_server.client import LocalPolicy
from simulation.expert import TIME_STEP, Expert, SceneTruth
from simulation.fast import FastSimulation
from simulation.placement import sample_placement

TASK: Final = "plate_to_basket"
OBJECT: Final = OBJECTS[0]
CLASSES: Final = 32
NEIGHBOURS: Final = 5
RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.95
MAX_STEPS: Final = 120
SETTLE_STEPS: Final = 3
"""Steps after the expert's last one, for the released object to come to rest."""
MIN_SPREAD: Final = 1e-6
"""Least spread of a dimension; one that never changes says nothing and must not be blown up."""
RESULT: Final = "representation.json"
FEATURES: Final = "features.npz"

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Trajectory:
    """One successful trial of T frames, one a TIME_STEP; `states` (T, 10): see `robot_state`."""

    seed: int
    observations: tuple[Observation, ...]
    states: Vector


@dataclass(frozen=True)
class Representation:
    """Leave-one-trajectory-out accuracy, its 95 % interval, and two levels of chance (0..1).

    chance: always naming the most frequent class; random_guess: one of the classes by lot.
    """

    accuracy: float
    interval: tuple[float, float]
    chance: float
    random_guess: float
    frames: int
    trajectories: int


def analyse(
    choices: Sequence[PolicyChoice], count: int, seed: int, out: Path | None
) -> dict[str, Any]:
    """Figures of every bundle on the same trajectories; those of the first also at the top.

    `out` receives them as representation.json, and features, classes and trajectory numbers as
    features.npz.

    Raises:
        PlanError: too few trajectories, or they are too short for the classes.
        BundleError: a bundle cannot be used.
    """
    check_request(choices, count, seed)
    recorded = {size: list(record(size, count, seed)) for size in {c.image_size for c in choices}}
    reference = recorded[choices[0].image_size]
    labels = np.concatenate(classes([t.states for t in reference]))
    groups = np.repeat(np.arange(count), [len(t.states) for t in reference])
    features = {c.name: pooled_states(c, recorded[c.image_size]) for c in choices}
    models = [
        {"bundle": c.name, "bundle_hash": c.bundle_hash}
        | asdict(measure(features[c.name], labels, groups, seed))
        for c in choices
    ]
    figures = {k: v for k, v in models[0].items() if not k.startswith("bundle")}
    result = figures | {
        "models": models,
        "task": TASK,
        "object": OBJECT,
        "seed": seed,
        "seeds": [t.seed for t in reference],
        "classes": CLASSES,
        "neighbours": NEIGHBOURS,
        "pooling": "mean over all tokens of the prompt",
        "split": "leave one trajectory out",
        "interval_by": "bootstrap over trajectories",
    }
    if out is not None:
        _write(out, result, features, labels, groups)
    return result


def check_request(choices: Sequence[PolicyChoice], count: int, seed: int) -> None:
    """Raise PlanError for what cannot be analysed."""
    if any(choice.bundle is None for choice in choices):
        raise PlanError("the scripted policy has no hidden states; name a bundle")
    if count < 3:
        raise PlanError(
            f"--trajectories must be at least 3, got {count}: one is left out at a time"
        )
    if seed < 0:
        raise PlanError(f"--seed must be a natural number, got {seed}")


def record(image_size: int, count: int, seed: int) -> Iterator[Trajectory]:
    """`count` successful trajectories of the scripted expert, from placement `seed` on.

    Raises:
        PlanError: the expert failed more often than it succeeded.
    """
    simulation = FastSimulation(image_size)
    found = 0
    try:
        for placement_seed in range(seed, seed + 2 * count):
            trajectory = _one_trajectory(simulation, placement_seed)
            if trajectory is not None:
                found += 1
                yield trajectory
            if found == count:
                return
    finally:
        simulation.close()
    raise PlanError(
        f"only {found} of {2 * count} scripted trials of {TASK} succeeded, {count} are needed; "
        "try another --seed"
    )


def _one_trajectory(simulation: FastSimulation, seed: int) -> Trajectory | None:
    placement = sample_placement(TASK, OBJECT, seed)
    instruction = get_task(TASK).instruction(OBJECT)
    simulation.reset(placement)
    expert = Expert(placement)
    observations: list[Observation] = []
    while not expert.done and len(observations) < MAX_STEPS:
        observations.append(simulation.observe(instruction))
        truth = SceneTruth.read(simulation.model, simulation.data, placement)
        waypoint = expert.act(truth, simulation.commanded_pose, simulation.gripper_opening)
        simulation.follow(waypoint.pose, waypoint.gripper, TIME_STEP)
        simulation.score()
    for _ in range(SETTLE_STEPS):
        simulation.follow(simulation.commanded_pose, 1.0, TIME_STEP)
    if not simulation.score().success:
        return None
    return Trajectory(seed, tuple(observations), np.stack([robot_state(o) for o in observations]))


def robot_state(observation: Observation) -> Vector:
    """Measured state (10,): position [m], two columns of the rotation matrix, gripper opening."""
    state = observation.state
    return state_vector(state.pose, state.gripper_opening)[:-1]


def classes(states: Sequence[Vector], number: int = CLASSES) -> list[Labels]:
    """Class (T,) of every frame of each trajectory (T, D).

    The trajectory of median length is the reference: cut into `number` equal parts, it gives the
    classes. A frame of another one gets the class of the reference frame that time warping aligns
    it with, the middle one where there are several.

    Raises:
        PlanError: the reference has fewer frames than there are classes.
    """
    lengths = [len(s) for s in states]
    reference = int(np.argsort(lengths, kind="stable")[len(lengths) // 2])
    if lengths[reference] < number:
        raise PlanError(
            f"the reference trajectory has {lengths[reference]} frames, fewer than {number} classes"
        )
    # Metres, directions and openings count alike.
    spread = np.maximum(np.concatenate(states).std(axis=0), MIN_SPREAD)
    parts = np.arange(lengths[reference]) * number // lengths[reference]
    return [parts[align(s / spread, states[reference] / spread)] for s in states]


def align(states: Vector, reference: Vector) -> Labels:
    """For each of `states` (T, D) the frame of `reference` (R, D) that time warping gives it.

    Dynamic time warping with steps (1, 0), (0, 1) and (1, 1), Euclidean cost, both ends fixed
    (Müller 2007, section 4.1). The usual package for it is under the GPL, which this software is
    not.
    """
    cost = np.linalg.norm(states[:, None] - reference[None], axis=-1)
    path = np.array(warping_path(cost))
    matched = [path[path[:, 0] == t, 1] for t in range(len(states))]
    return np.array([frames[len(frames) // 2] for frames in matched])


def warping_path(cost: Vector) -> list[tuple[int, int]]:
    """Cheapest monotone path through `cost` (T, R) from corner to corner."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(rows):
        for j in range(columns):
            before = min(total[i, j], total[i, j + 1], total[i + 1, j])
            total[i + 1, j + 1] = cost[i, j] + before
    i, j = rows, columns
    path = [(i - 1, j - 1)]
    while (i, j) != (1, 1):
        # The diagonal first: of equally cheap ways the shortest.
        i, j = min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda at: total[at])
        path.append((i - 1, j - 1))
    return path[::-1]


def pooled_states(choice: PolicyChoice, trajectories: Sequence[Trajectory]) -> NDArray[np.float32]:
    """Hidden states of layer k, averaged over the prompt's tokens, (frames, hidden size)."""
    policy = LocalPolicy(str(choice.bundle))
    try:
        return np.stack(
            [policy.hidden_states(o).mean(axis=0) for t in trajectories for o in t.observations]
        )
    finally:
        policy.close()


def measure(features: Vector, labels: Labels, groups: Labels, seed: int) -> Representation:
    """Accuracy on features (N, D) with classes (N,) and trajectory numbers (N,)."""
    right = predict(features, labels, groups) == labels
    numbers = np.unique(groups)
    hits = np.array([right[groups == g].sum() for g in numbers])
    frames = np.array([(groups == g).sum() for g in numbers])
    drawn = np.random.default_rng(seed).integers(len(numbers), size=(RESAMPLES, len(numbers)))
    rates = hits[drawn].sum(axis=1) / frames[drawn].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return Representation(
        accuracy=float(right.mean()),
        interval=(float(low), float(high)),
        chance=float(np.bincount(labels).max() / len(labels)),
        random_guess=1 / len(np.unique(labels)),
        frames=len(labels),
        trajectories=len(numbers),
    )


def predict(
    features: Vector, labels: Labels, groups: Labels, neighbours: int = NEIGHBOURS
) -> Labels:
    """Class (N,) that the nearest frames of other trajectories vote for.

    Of classes with equally many votes the one with the nearer voters wins.
    """
    predicted = np.empty_like(labels)
    # Below one vote even in sum, so that it decides ties alone.
    votes = 1 + np.arange(neighbours)[::-1] / neighbours**2
    for group in np.unique(groups):
        own, others = groups == group, groups != group
        spread = np.maximum(features[others].std(axis=0), MIN_SPREAD)
        known, asked = features[others] / spread, features[own] / spread
        distance = (known**2).sum(1) - 2 * asked @ known.T
        nearest = labels[others][np.argsort(distance, axis=1, kind="stable")[:, :neighbours]]
        predicted[own] = [np.bincount(n, votes[: len(n)]).argmax() for n in nearest]
    return predicted


def _write(
    out: Path,
    result: dict[str, Any],
    features: dict[str, NDArray[np.float32]],
    labels: Labels,
    groups: Labels,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    named = {f"features_{name}": values for name, values in features.items()}
    np.savez(out / FEATURES, labels=labels, trajectory=groups, **named)
    temporary = out / f"{RESULT}.part"
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(out / RESULT)
