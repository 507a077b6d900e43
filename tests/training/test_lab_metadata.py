"""Frames of the other world become metadata from which the VQA generator writes true pairs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import chunk, entity, frame
from PIL import Image
from scipy.spatial.transform import Rotation

from training import lab_metadata, vqa
from training.lab_metadata import scene_of
from training.scene_metadata import SceneMetadata, read_scenes

IMAGES = {"front": Path("f.png"), "wrist": Path("w.png")}


@pytest.fixture
def other_world(tmp_path: Path) -> Path:
    """A folder as `other_world.generate` writes it: a frame before the grasp, one after it."""
    folder = tmp_path / "other_world"
    folder.mkdir()
    frames = [frame("other_world/1#0"), frame("other_world/1#7", phase="move", opening=0.6)]
    chunks = [chunk(z=-0.1, opening=0.0), chunk(y=0.2, opening=0.0)]
    pictures = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16, 3), dtype=np.uint8)
    np.save(folder / "images.npy", pictures)
    np.save(folder / "chunks.npy", np.stack(chunks))
    (folder / "frames.jsonl").write_text("\n".join(json.dumps(asdict(f)) for f in frames) + "\n")
    return folder


def test_the_vqa_generator_runs_on_what_is_exported(
    other_world: Path, tmp_path: Path, capsys: Any
) -> None:
    metadata, out = tmp_path / "vqa/metadata.jsonl", tmp_path / "vqa/pairs.jsonl"
    lab_metadata.main(["--other-world", str(other_world), "--out", str(metadata)])
    first, second = (scene for _, scene in read_scenes(metadata))
    assert isinstance(first, SceneMetadata) and isinstance(second, SceneMetadata)
    assert (first.direction, first.gripper_change) == ("down", "close")
    assert (second.direction, second.gripper_change) == ("left", "keep")
    pixels = np.load(other_world / "images.npy")
    for scene, pictures in zip((first, second), pixels, strict=True):
        for camera, picture in zip(("front", "wrist"), pictures, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(scene.images[camera])), picture)
    vqa.main(["--metadata", str(metadata), "--out", str(out)])
    assert json.loads(capsys.readouterr().out)["counts"] == {}  # nothing was refused
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    answers = {(p["name"].partition("/")[2][:3], p["category"]): p["answer"] for p in pairs}
    assert answers["1#0", "gripper"] == "The gripper closes."
    assert answers["1#7", "gripper"] == "The gripper keeps its width."
    assert answers["1#7", "move"] == "The hand moves left."
    assert answers["1#0", "state"] == "[0.450, -0.100, 0.200, 3.142, 0.000, 0.000, 1.000]"
    boxes = [p["answer"] for p in pairs if p["category"] == "box"]
    assert len(boxes) == 2 * 2 * 5
    assert boxes[0] == "[0.250, 0.360, 0.350, 0.440]"


def test_boxes_end_with_the_picture_and_what_lies_beyond_has_none() -> None:
    entities = (entity("red block", "object", 0.97, 0.02), entity("bowl", "source", 1.02, 0.5))
    block, bowl = scene_of(frame(entities=entities), chunk(), IMAGES).objects
    assert block.boxes["front"] == pytest.approx((0.92, 0.0, 1.0, 0.06))
    assert bowl.boxes == {}


@given(seed=st.integers(0, 1000))
def test_the_steps_lead_along_the_chunk(seed: int) -> None:
    rng = np.random.default_rng(seed)
    way = np.column_stack([rng.normal(0, 0.1, (16, 3)), rng.normal(0, 0.3, (16, 3)), np.ones(16)])
    steps = np.array(scene_of(frame(), way, IMAGES).next_actions)
    np.testing.assert_allclose(steps[:, :3].cumsum(0), way[:, :3], atol=1e-9)
    turn = Rotation.identity()
    for step, wanted in zip(steps, way, strict=True):
        turn = Rotation.from_euler("xyz", step[3:6]) * turn
        assert (turn * Rotation.from_rotvec(wanted[3:6]).inv()).magnitude() < 1e-6


def test_a_folder_without_frames_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"lab_metadata: .*frames.jsonl"):
        lab_metadata.main(["--other-world", str(tmp_path), "--out", str(tmp_path / "m.jsonl")])
