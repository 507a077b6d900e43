"""What the lab study compares: the arms, the models behind them, and how each is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from training.lab_sizes import Size


@dataclass(frozen=True)
class Arm:
    """A frozen backbone that heads are trained on. `model`: which language model it is, if any."""

    label: str
    group: str
    what: str
    model: str | None = None


ARMS: Final = {
    "random": Arm("Random, frozen", "main", "random weights"),
    "base": Arm("Base", "main", "grounding and general questions", "base"),
    "sft": Arm("RoboAlign (SFT)", "main", "language and FAST tokens", "sft"),
    "sft_rl": Arm("RoboAlign (SFT + RL)", "main", "GRPO on the FAST prefix", "sft_rl"),
    "language_sft": Arm("Language-only SFT", "alternative", "no FAST tokens", "language_sft"),
    "action_sft": Arm("Action-only SFT", "alternative", "nothing but FAST tokens", "action_sft"),
    "ecot_sft": Arm("ECoT SFT", "alternative", "embodied chain of thought", "ecot_sft"),
    "moves_rl": Arm("RL on moves in words", "alternative", "from SFT", "moves_rl"),
    "trajectory_rl": Arm("RL on 2D trajectories", "alternative", "from SFT", "trajectory_rl"),
    "grounded": Arm("Grounding only", "ladder", "the backbone that the base starts from"),
}
SFT_OF: Final = {"base": "grounded"} | dict.fromkeys(
    ("sft", "language_sft", "action_sft", "ecot_sft"), "base"
)
"""Supervised models, and what each starts from."""
RL_OF: Final = {
    "sft_rl": ("fast_reasoning", "fast", 110),
    "moves_rl": ("move_reasoning", "moves", 80),
    "trajectory_rl": ("trajectory", "trajectory", 96),
}
"""Models of Stage 2, all from the SFT model: category asked, reward, longest response [tokens]."""


def seeds_of(size: Size, arm: str) -> int:
    """Heads of an arm. A random backbone gets as few as an alternative: it fails with any."""
    many = ARMS[arm].group == "main" and arm != "random"
    return size.seeds if many else size.alternative_seeds


def trials_of(size: Size, arm: str) -> int:
    """Trials for each task and object; arms outside the table, such as the ladder's, get few."""
    is_main = arm in ARMS and ARMS[arm].group == "main"
    return size.trials if is_main else size.alternative_trials


def steps_of(size: Size, model: str) -> int:
    return {"base": size.base_steps, "sft": size.sft_steps}.get(model, size.other_sft_steps)
