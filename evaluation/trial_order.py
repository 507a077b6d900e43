"""In which order the trials of a run come: randomised, and interleaved between policies in blocks.

A block is one start that every policy meets, one policy after the other in random order: whatever
drifts in the course of a run (light, wear, the person who scores) meets all policies alike, and the
scene is put up once for all of them. Blocks come in rounds, each with every task and object once in
random order, so that the score shown under way is already about all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from evaluation.plan import RunConfig, TrialSpec, trial_plan

Item = TypeVar("Item")


@dataclass(frozen=True)
class PlannedTrial:
    """Trial `number` (from 1) in the order of the run; its `block` (from 1) has one start."""

    number: int
    block: int
    spec: TrialSpec


def order_trials(config: RunConfig) -> tuple[PlannedTrial, ...]:
    """Every trial of a run, in the order that follows from the seed.

    On the live backend another policy means another graph: there the policies take turns within a
    round. A short look (`rotate_objects`) keeps the order of the tasks.
    """
    rng = np.random.default_rng([config.seed, len(config.policies)])
    rounds: dict[int, dict[tuple[str, str], list[TrialSpec]]] = {}
    for spec in trial_plan(config):
        rounds.setdefault(spec.trial, {}).setdefault((spec.task, spec.object), []).append(spec)
    ordered: list[tuple[int, TrialSpec]] = []
    block = 0
    for starts in rounds.values():
        blocks = list(starts.values())
        if not config.rotate_objects:
            blocks = [_shuffled(rng, policies) for policies in _shuffled(rng, blocks)]
        numbered = [(block + i, spec) for i, specs in enumerate(blocks, 1) for spec in specs]
        block += len(blocks)
        if config.backend == "live":
            turn = _shuffled(rng, [policy.name for policy in config.policies])
            numbered.sort(key=lambda item: turn.index(item[1].policy))
        ordered += numbered
    return tuple(PlannedTrial(i, block, spec) for i, (block, spec) in enumerate(ordered, 1))


def _shuffled(rng: np.random.Generator, items: Sequence[Item]) -> list[Item]:
    return [items[i] for i in rng.permutation(len(items))]
