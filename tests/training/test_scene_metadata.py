"""The metadata schema refuses what is not true of any scene, and derives directions."""

import json
from pathlib import Path
from typing import Any

import pytest
from example_scene import SCENE, scene
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.scene_metadata import MetadataError, iou, read_scenes, relations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "extra"),
        ({"name": ""}, "name"),
        ({"images": {}}, "images"),
        ({"end_effector": [0.0] * 6}, "end_effector"),
        ({"end_effector": [float("nan")] + [0.0] * 6}, "finite"),
        ({"end_effector": [0.0] * 6 + [1.5]}, "not in 0..1"),
        ({"end_effector": ["0"] + [0.0] * 6}, "number"),
        ({"next_actions": []}, "next_actions"),
        ({"objects": [{"label": "cup", "boxes": {"front": [0.3, 0, 0.1, 1]}}]}, "x0 < x1"),
        ({"objects": [{"label": "cup", "boxes": {"front": [0, 0, 1, 1.2]}}]}, "less than"),
        ({"objects": [{"label": "cup", "boxes": {"side": [0, 0, 1, 1]}}]}, "not a camera"),
        ({"objects": [{"label": "Cup", "boxes": {}}, {"label": "cup", "boxes": {}}]}, "two obj"),
    ],
)
def test_bad_metadata_are_refused(changes: dict[str, Any], message: str) -> None:
    scene()
    with pytest.raises(ValidationError, match=message):
        scene(**changes)


@pytest.mark.parametrize(
    ("step", "direction"),
    [
        ([0.03, 0.0, 0.0], "forward"),
        ([-0.03, 0.01, 0.0], "backward"),
        ([0.0, 0.03, 0.01], "left"),
        ([0.0, -0.03, 0.0], "right"),
        ([0.0, 0.0, 0.03], "up"),
        ([0.001, 0.0, 0.001], "stay"),
        ([0.03, 0.03, 0.0], None),
    ],
)
def test_directions_follow_the_signs_of_the_base_frame(
    step: list[float], direction: str | None
) -> None:
    assert scene(next_actions=[[*step, 0.0, 0.0, 0.0, 1.0]]).direction == direction


boxes = st.tuples(*[st.floats(0, 0.9)] * 2, *[st.floats(0.02, 0.1)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(a=boxes, b=boxes)
def test_relations_are_opposite_from_the_other_side(a: Any, b: Any) -> None:
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert sorted(relations(a, b)) == sorted(opposite[name] for name in relations(b, a))
    assert iou(a, b) == iou(b, a) <= 1.0
    assert iou(a, a) == pytest.approx(1.0)


def test_bad_lines_are_named_by_their_place(tmp_path: Path) -> None:
    lines = [json.dumps({**SCENE, "name": f"scene-{i}"}) for i in range(3)]
    path = tmp_path / "scenes.jsonl"
    path.write_text("\n".join([lines[0], lines[0][:50], lines[0], lines[1]]))
    found = list(read_scenes(path))
    good = [read for _, read in found if not isinstance(read, MetadataError)]
    assert [read.name for read in good] == ["scene-0", "scene-1"]
    assert good[0].images == {name: tmp_path / f"{name}.png" for name in ("front", "wrist")}
    bad = [str(error) for _, error in found if isinstance(error, MetadataError)]
    assert bad[0].startswith("scenes.jsonl:2: ")
    assert bad[1] == "scenes.jsonl:3: there is an earlier scene 'scene-0'"
