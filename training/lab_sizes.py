"""How large a lab study is: one table, the sizes side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Size:
    """Amounts of everything; steps are optimiser steps.

    trials are for each task and object, of which there are `objects`.

    grounding_minutes: wall time of the vision's training from nothing; 0 starts from the shipped
    bundle. stride: every how manyth frame of a demonstration the heads learn from. head_dropout:
    none where the steps are too few to learn anything by heart.
    """

    name: str
    what: str
    scenes: int
    rollouts: int
    per_task: int
    grounding_minutes: float
    base_steps: int
    sft_steps: int
    other_sft_steps: int
    rl_steps: int
    end_to_end_steps: int
    readout_scenes: int
    readout_steps: int
    head_steps: int
    release_steps: int
    head_dropout: float
    stride: int
    seeds: int
    alternative_seeds: int
    objects: int
    trials: int
    alternative_trials: int
    skill_questions: int
    trajectories: int


SIZES: Final = {
    size.name: size
    for size in (
        Size(
            "smoke", "two minutes: whether every stage runs", scenes=40, rollouts=6, per_task=4,
            grounding_minutes=0.0, base_steps=2, sft_steps=2, other_sft_steps=2, rl_steps=1,
            end_to_end_steps=2, readout_scenes=24, readout_steps=3, head_steps=4, release_steps=6,
            head_dropout=0.0, stride=8, seeds=1, alternative_seeds=1, objects=1, trials=1,
            alternative_trials=1, skill_questions=4, trajectories=3,
        ),
        Size(
            "quick", "20 minutes on two cores", scenes=600, rollouts=90, per_task=8,
            grounding_minutes=0.0, base_steps=30, sft_steps=40, other_sft_steps=25, rl_steps=8,
            end_to_end_steps=25, readout_scenes=400, readout_steps=60, head_steps=150,
            release_steps=200, head_dropout=0.0, stride=4, seeds=1, alternative_seeds=1, objects=4,
            trials=1, alternative_trials=1, skill_questions=16, trajectories=4,
        ),
        Size(
            "evening", "three hours on two cores", scenes=10_000, rollouts=1100, per_task=60,
            grounding_minutes=0.0, base_steps=300, sft_steps=320, other_sft_steps=320, rl_steps=80,
            end_to_end_steps=150, readout_scenes=2500, readout_steps=250, head_steps=1600,
            release_steps=4000, head_dropout=0.0, stride=2, seeds=3, alternative_seeds=1, objects=4,
            trials=8, alternative_trials=8, skill_questions=24, trajectories=20,
        ),
        Size(
            "full", "overnight on two cores, from nothing", scenes=60_000, rollouts=5000,
            per_task=60, grounding_minutes=60.0, base_steps=2500, sft_steps=3500,
            other_sft_steps=2500, rl_steps=600, end_to_end_steps=2500, readout_scenes=12_000,
            readout_steps=1500, head_steps=4000, release_steps=8000, head_dropout=0.1, stride=1,
            seeds=3, alternative_seeds=3, objects=4, trials=24, alternative_trials=24,
            skill_questions=200, trajectories=20,
        ),
    )
}  # fmt: skip
