"""Reads a data set with the real LeRobot reader; run by the Python of LeRobot's own environment.

    LEROBOT_PYTHON teleop/lerobot_reader.py ROOT --horizon 16 < indices.json

LeRobot wants other versions than ours, so it lives apart and this file imports nothing of ours. It
reads the frames whose indices come as a JSON list, with the actions of the next `horizon` steps,
and prints one JSON line: sizes, seconds an item, and the values of the first items for comparison.
"""

import argparse
import importlib
import json
import sys
import time
from typing import Any

SHOWN = 16
"""Items whose values are printed."""
SHOWN_FIELDS = (
    "observation.state.cartesian_position",
    "observation.state.gripper_position",
    "action.cartesian_position",
    "action.gripper_position",
    "action_is_pad",
    "timestamp",
    "episode_index",
    "frame_index",
)


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--horizon", type=int, default=16)
    options = parser.parse_args()
    reader = importlib.import_module("lerobot.datasets.lerobot_dataset")
    importlib.import_module("torch").set_num_threads(1)
    steps = range(options.horizon)
    fps = reader.LeRobotDatasetMetadata("local/export", root=options.root).fps
    dataset = reader.LeRobotDataset(
        "local/export",
        root=options.root,
        delta_timestamps={"action": [i / fps for i in steps]},
    )
    indices = json.load(sys.stdin)
    shown = [_plain(dataset[i]) for i in indices[:SHOWN]]
    started = time.perf_counter()
    for index in indices:
        dataset[index]
    seconds = time.perf_counter() - started
    result = {
        "version": importlib.import_module("importlib.metadata").version("lerobot"),
        "codebase_version": str(dataset.meta.info["codebase_version"]),
        "backend": dataset.video_backend,
        "frames": len(dataset),
        "episodes": dataset.meta.total_episodes,
        "features": sorted(dataset.features),
        "tasks": sorted(dataset.meta.tasks.index),
        "seconds_per_item": seconds / max(len(indices), 1),
        "items": shown,
    }
    print(json.dumps(result), flush=True)


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """Values that tell whether the right step was read; pictures by their mean colour."""
    values = {name: item[name].tolist() for name in SHOWN_FIELDS if name in item}
    values["task"] = item["task"]
    values["action"] = item["action"].tolist()
    for name, value in item.items():
        if name.startswith("observation.images."):
            values[name] = {
                "shape": list(value.shape),
                "mean": value.mean(dim=(1, 2)).tolist(),
                "left_half": value[:, :, : value.shape[2] // 2].mean(dim=(1, 2)).tolist(),
            }
    return values


if __name__ == "__main__":
    main()
