"""Metadata of a scene made up by hand, and a true pair of every category about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training import scene_metadata
from training.scene_metadata import SceneMetadata

SCENE: dict[str, Any] = {
    "name": "scene-1",
    "images": {"front": "front.png", "wrist": "wrist.png"},
    "objects": [
        {"label": "cup", "boxes": {"front": [0.1, 0.1, 0.3, 0.3], "wrist": [0.4, 0.4, 0.8, 0.8]}},
        {"label": "left drawer", "boxes": {"front": [0.6, 0.15, 0.9, 0.35]}},
    ],
    "end_effector": [0.4, 0.0, 0.2, 3.14, 0.0, -3.13, 1.0],
    "instruction": "pick up the cup and put it into the left drawer",
    "next_actions": [[0.001, 0.0, -0.02, 0, 0, 0, 1.0], [0.0, 0.002, -0.01, 0, 0, 0, 0.0]],
}


def scene(**changes: Any) -> SceneMetadata:
    return scene_metadata.SCENE.validate_json(json.dumps({**SCENE, **changes}))


GOOD: dict[str, dict[str, Any]] = {
    "caption": {
        "question": "What is here?",
        "objects": ["cup", "left drawer"],
        "answer": "A cup stands before the left drawer.",
    },
    "box": {
        "question": "Where is the cup?",
        "camera": "front",
        "object": "cup",
        "box": [0.12, 0.1, 0.3, 0.3],
    },
    "point": {
        "question": "Point at the Cup.",
        "camera": "front",
        "object": "cup",
        "point": [0.2, 0.29],
    },
    "relation": {
        "question": "Where is the cup from the left drawer?",
        "camera": "front",
        "subject": "cup",
        "relation": "left of",
        "reference": "left drawer",
        "answer": "The cup is to the left of the left drawer.",
    },
    "move": {"question": "Where to?", "direction": "down", "answer": "The hand moves down."},
    "gripper": {"question": "And then?", "change": "close", "answer": "The gripper is closing."},
    "state": {
        "question": "Where is the hand?",
        "state": [0.401, 0.003, 0.198, -3.14, 0.0, 3.14, 0.97],
    },
    "task": {
        "question": "What is to be done?",
        "answer": "Pick up the cup and put it in the left drawer.",
    },
}


def write_scenes(folder: Path) -> Path:
    """Metadata of two scenes with three objects each in the first picture, pictures beside it."""
    for name in ("front.png", "wrist.png"):
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(folder / name)
    bowl = {"label": "bowl", "boxes": {"front": [0.2, 0.6, 0.5, 0.9]}}
    objects = [{"label": "cup", "boxes": {"front": [0.1, 0.1, 0.3, 0.3]}}, bowl]
    objects.append({"label": "plate", "boxes": {"front": [0.7, 0.3, 0.9, 0.5]}})
    lines = [json.dumps({**SCENE, "name": f"scene-{i}", "objects": objects}) for i in range(2)]
    path = folder / "scenes.jsonl"
    path.write_text("\n".join(lines))
    return path
