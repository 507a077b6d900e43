"""The stages of the lab study in their order, and what each waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training import lab_stages
from training.lab_arms import ARMS, RL_OF, SFT_OF, seeds_of, steps_of, trials_of
from training.lab_sizes import Size


@dataclass(frozen=True)
class Stage:
    """A step with the stages that it waits for and about how many minutes of one core it takes."""

    name: str
    run: Callable[[Path], None]
    after: tuple[str, ...] = ()
    minutes: float = 1.0


def stages(size: Size) -> list[Stage]:
    """All stages, the most telling first: main arms, ladder, alternatives."""
    found = [
        Stage("scenes", lambda out: lab_stages.make_scenes(out, size), (), size.scenes / 2500),
        Stage(
            "other_world",
            lambda out: lab_stages.make_other_world(out, size),
            (),
            size.rollouts / 170,
        ),
        Stage(
            "demonstrations",
            lambda out: lab_stages.make_demonstrations(out, size),
            (),
            size.per_task / 18,
        ),
        Stage("grounded", lambda out: lab_stages.make_grounded(out, size), ("scenes",)),
    ]
    for group in ("main", "ladder", "alternative"):
        arms = [key for key, arm in ARMS.items() if arm.group == group]
        for arm in arms:
            if model := ARMS[arm].model:
                found.append(_model_stage(size, model))
        for arm in arms:
            found += _arm_stages(size, arm)
        found += _ladder_stages(size) if group == "ladder" else []
    return found + _release_stages(size)


def _release_stages(size: Size) -> list[Stage]:
    main = [key for key, arm in ARMS.items() if arm.group == "main"]
    trials = tuple(f"trials:{arm}:{seed}" for arm in main for seed in range(seeds_of(size, arm)))
    return [
        Stage(
            "head:release:0",
            lambda out: lab_stages.train_release(out, size),
            trials,
            size.release_steps / 400,
        ),
        Stage(
            "trials:release:0",
            lambda out: lab_stages.run_trials(out, size, "release", 0),
            ("head:release:0",),
            size.alternative_trials / 4,
        ),
    ]


def _model_stage(size: Size, name: str) -> Stage:
    if name in RL_OF:
        run, minutes = (lambda out: lab_stages.train_rl(out, size, name)), size.rl_steps / 12
        return Stage(f"model:{name}", run, ("model:sft",), minutes)
    start = SFT_OF[name]
    after = ("scenes", "other_world", start if start == "grounded" else f"model:{start}")
    minutes = steps_of(size, name) / 30
    return Stage(f"model:{name}", lambda out: lab_stages.train_sft(out, size, name), after, minutes)


def _arm_stages(size: Size, arm: str) -> list[Stage]:
    model = ARMS[arm].model
    start = f"model:{model}" if model else "grounded"
    found = [
        Stage(
            f"features:{arm}",
            lambda out: lab_stages.make_features(out, size, arm),
            (start, "demonstrations", "scenes"),
            3.0,
        )
    ]
    for seed in range(seeds_of(size, arm)):
        found += [
            Stage(
                f"head:{arm}:{seed}",
                lambda out, seed=seed: lab_stages.train_head(out, size, arm, seed),
                (f"features:{arm}",),
                size.head_steps / 400,
            ),
            Stage(
                f"trials:{arm}:{seed}",
                lambda out, seed=seed: lab_stages.run_trials(out, size, arm, seed),
                (f"head:{arm}:{seed}",),
                trials_of(size, arm) / 4,
            ),
        ]
    if ARMS[arm].group == "main":  # Table 9 has no alternatives
        run = partial(lab_stages.neighbours, size=size, arm=arm)
        found.append(Stage(f"knn:{arm}", run, (f"head:{arm}:0",)))
    if model:
        found.append(
            Stage(f"skills:{arm}", lambda out: lab_stages.score_skills(out, size, arm), (start,))
        )
    return found


def _ladder_stages(size: Size) -> list[Stage]:
    return [
        Stage(
            "ladder:state",
            lambda out: lab_stages.state_ceiling(out, size),
            ("demonstrations",),
            4.0,
        ),
        Stage(
            "head:end_to_end:0",
            lambda out: lab_stages.train_end_to_end(out, size),
            ("head:grounded:0",),
            size.end_to_end_steps / 60,
        ),
        Stage(
            "trials:end_to_end:0",
            lambda out: lab_stages.run_trials(out, size, "end_to_end", 0),
            ("head:end_to_end:0",),
            2.0,
        ),
    ]
