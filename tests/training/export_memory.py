"""Exports a random Qwen2.5-VL of about SIZE megabytes to DIRECTORY and prints its memory, in JSON.

Run by test_export_qwen.py in a process of its own, since a peak cannot be taken back.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from transformers import Qwen2_5_VLConfig

from training.export_qwen import DATA, PrefixSpec, export_prefix
from training.qwen_prefix import without_weights

LAYERS = 4


class RandomWeights:
    """bfloat16 weights that are made when they are asked for, and kept nowhere."""

    def __init__(self, config: Qwen2_5_VLConfig) -> None:
        self._shapes = {n: tuple(p.shape) for n, p in without_weights(config).named_parameters()}

    def read(self, name: str) -> np.ndarray:
        shape = self._shapes[name]
        row = np.random.default_rng(len(name)).standard_normal(shape[-1], np.float32) * 0.02
        return np.broadcast_to(row.astype(ml_dtypes.bfloat16), shape).copy()


def large_config(megabytes: int) -> Qwen2_5_VLConfig:
    """A Qwen2.5-VL whose first LAYERS layers take about `megabytes` in bfloat16."""
    # A layer has 11 hidden^2 weights here: 9 in its feed-forward part, 2 in attention.
    hidden = round((megabytes * 1e6 / 2 / LAYERS / 11) ** 0.5 / 128) * 128
    text = {
        "vocab_size": 1100,
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    ids = (1050, 1051, 1052, 1053)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, **dict(zip(names, ids, strict=True))
    )


def memory(field: str) -> int:
    """VmHWM (the peak) or VmRSS of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    size, directory = int(sys.argv[1]), Path(sys.argv[2])
    before = memory("VmRSS")
    config = large_config(size)
    export_prefix(config, RandomWeights(config), PrefixSpec(LAYERS, 56, 1), directory)
    weights = (directory / DATA).stat().st_size
    print(json.dumps({"weights": weights, "before": before, "peak": memory("VmHWM")}))
