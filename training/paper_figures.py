"""The paper's own figures, in per cent, for the tables that a study is laid beside."""

from __future__ import annotations

from typing import Final

TABLE_4_TASKS: Final = ("box_to_bowl", "box_to_plate", "basket_to_bowl", "plate_to_basket")
TABLE_4: Final = {
    "base": (16.7, 70.8, 20.8, 20.8),
    "sft": (87.5, 58.3, 37.5, 37.5),
    "sft_rl": (87.5, 58.3, 70.8, 50.0),
}
"""Real robot, 96 trials a task; columns as TABLE_4_TASKS."""
TABLE_4_AVERAGE: Final = {"base": 32.3, "sft": 55.2, "sft_rl": 66.7}

TABLE_2_AVERAGE: Final = {
    "base": 73.9,
    "language_sft": 79.6,
    "action_sft": 81.5,
    "sft": 78.7,
    "sft_rl": 86.8,
}
"""LIBERO, average of its four suites, 500 trials each; so are Tables 6 and 7."""
TABLE_6_AVERAGE: Final = {"sft": 79.1, "moves_rl": 83.6, "trajectory_rl": 85.1, "sft_rl": 86.8}
TABLE_7_AVERAGE: Final = {"sft": 79.1, "ecot_sft": 67.7, "sft_rl": 86.8}

TABLE_9: Final = {"base": 39.06, "sft": 43.23, "sft_rl": 69.79}
"""Nearest-neighbour accuracy on LIBERO, backbone Qwen3-VL-8B."""
