"""Frames of `other_world` as the scene metadata that RoboAlign VQA starts from.

    python -m training.lab_metadata --other-world runs/other_world --out data/vqa/lab/metadata.jsonl
    python -m training.vqa --metadata data/vqa/lab/metadata.jsonl --out data/vqa/vqa.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from contracts.geometry import Vector
from simulation.cameras import CAMERAS
from training.other_world import Entity, Frame, OtherWorldData
from training.scene_metadata import SCENE, Box, SceneMetadata, SceneObject


def scene_of(frame: Frame, chunk: Vector, images: dict[str, Path]) -> SceneMetadata:
    """Metadata of a frame and the chunk (horizon, 7) that follows it."""
    objects = tuple(SceneObject(entity.name, _boxes(entity)) for entity in frame.entities)
    turn = Rotation.from_quat(frame.pose[3:]).as_euler("xyz").tolist()
    state = (*frame.pose[:3], *turn, frame.opening)
    # While the fingers rest on the object, a command to close changes nothing.
    closed = frame.opening if frame.phase in ("lift", "move", "lower") else 0.0
    steps = tuple(map(tuple, _steps(chunk, closed).tolist()))
    return SceneMetadata(frame.name, images, objects, state, frame.instruction, steps)


def _boxes(entity: Entity) -> dict[str, Box]:
    """Boxes in the cameras whose picture holds the entity's point, cut at the picture's edge."""
    return {
        camera: tuple(np.clip(box, 0.0, 1.0).tolist())
        for camera, box in entity.boxes.items()
        if all(0.0 < value < 1.0 for value in entity.points[camera])
    }


def _steps(chunk: Vector, closed: float) -> Vector:
    """Changes (horizon, 7) from step to step; a chunk's waypoints are all seen from its start."""
    from_start = np.vstack([np.zeros(6), chunk[:, :6]])
    turns = Rotation.from_rotvec(from_start[:, 3:])
    turned = (turns[1:] * turns[:-1].inv()).as_euler("xyz")  # about the base's fixed axes
    openings = np.where(chunk[:, 6:] < 0.5, closed, 1.0)
    return np.hstack([np.diff(from_start[:, :3], axis=0), turned, openings])


def export(data: OtherWorldData, out: Path) -> None:
    """Write a line for each frame, in order, and its pictures as PNG into `pictures` beside it."""
    (out.parent / "pictures").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, frame in enumerate(tqdm(data.frames, desc="frames", mininterval=5)):
        images = {camera: Path("pictures", f"{number:06}_{camera}.png") for camera in CAMERAS}
        for image, pixels in zip(images.values(), data.images[number], strict=True):
            Image.fromarray(pixels).save(out.parent / image)
        lines.append(SCENE.dump_json(scene_of(frame, data.chunks[number], images)) + b"\n")
    out.write_bytes(b"".join(lines))  # last: it says that all is there


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write scene metadata of other_world's frames.")
    parser.add_argument("--other-world", type=Path, required=True, help="what other_world wrote")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines of SceneMetadata")
    options = parser.parse_args(arguments)
    try:
        export(OtherWorldData.load(options.other_world), options.out)
    except (OSError, ValueError) as error:
        sys.exit(f"lab_metadata: {error}")


if __name__ == "__main__":
    main()
