"""RoboAlign VQA: what the templates say is true; runs can be continued."""

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import chat_server, completion
from example_scene import GOOD, SCENE, scene
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.jsonl_record import RecordError
from training.scene_metadata import SceneMetadata
from training.teacher import REFUSALS, TeacherError, TeacherRefused
from training.vqa import from_truth, generate, main, teacher_prompt
from training.vqa_checks import checked_pairs

boxes = st.tuples(*[st.floats(0, 0.9)] * 2, *[st.floats(0.02, 0.1)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
labels = st.lists(
    st.sampled_from(["cup", "bowl", "left drawer", "up-side crate", "A (b) \\1", "teddy bear"]),
    unique=True,
    max_size=4,
)


@given(names=labels, data=st.data(), moved=st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=3))
def test_whatever_the_templates_say_is_true(
    names: list[str], data: st.DataObject, moved: list[float]
) -> None:
    objects = [{"label": name, "boxes": {"front": data.draw(boxes)}} for name in names]
    opening = data.draw(st.floats(0, 1))
    truth = scene(objects=objects, next_actions=[[*moved, 0, 0, 0, opening]])
    good, refused = checked_pairs(from_truth(truth), truth, frozenset(names))
    assert not refused
    found = Counter(pair.category for pair in good)
    assert found["box"] == found["point"] == len(names)
    assert found["task"] == found["state"] == found["gripper"] == 1


def test_the_teacher_is_told_the_metadata_but_no_paths() -> None:
    text = teacher_prompt(scene())
    assert SCENE["instruction"] in text
    assert '"label": "left drawer"' in text
    assert "front, wrist" in text
    assert ".png" not in text


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """Four good scenes among a torn line, a doubled name and a picture that does not decode."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name in ("front.png", "wrist.png"):
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "front.png").read_bytes()[:40])
    lines = [json.dumps({**SCENE, "name": f"scene-{i}"}) for i in range(4)]
    broken = json.dumps({**SCENE, "name": "dark", "images": {"front": "broken.png", "wrist": "x"}})
    lines[2:2] = [lines[0][:50], lines[1], broken]
    path = folder / "scenes.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_truth_needs_no_network(
    metadata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    out = tmp_path / "out" / "vqa.jsonl"
    main(["--metadata", str(metadata), "--out", str(out)])
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"metadata": 2, "picture": 1}
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert report["lines"] == len(lines) == 4 * 12
    assert report["usage"]["cost"] == 0
    for line in lines:
        assert list(line) == ["name", "images", "category", "question", "answer"]
        assert all((out.parent / image).is_file() for image in line["images"])
    assert {line["category"] for line in lines} == set(GOOD)


class Killed(Exception):
    pass


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_file(
    metadata: Path, tmp_path: Path, workers: int
) -> None:
    settings = {"generator": "truth"}
    whole = generate(metadata, tmp_path / "whole", from_truth, settings=settings)
    asked: list[str] = []

    def dies(scene: SceneMetadata) -> str:
        if scene.name == "scene-2":
            raise Killed
        asked.append(scene.name)
        return from_truth(scene)

    out = tmp_path / "out"
    with pytest.raises(Killed):
        generate(metadata, out, dies, settings=settings, workers=workers)
    with out.open("ab") as file:
        file.write(b'{"name": "scene-2#0", "ima')
    asked.clear()

    def goes_on(scene: SceneMetadata) -> str:
        asked.append(scene.name)
        return from_truth(scene)

    record = generate(metadata, out, goes_on, settings=settings, workers=workers)
    assert sorted(asked) == ["scene-2", "scene-3"]  # several workers have no order
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert record.summary() == whole.summary()
    out.write_bytes(out.read_bytes()[:-200])
    generate(metadata, out, from_truth, settings=settings)
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    with pytest.raises(RecordError, match="was begun with"):
        generate(metadata, out, from_truth, settings={"generator": "teacher"})


def test_the_teacher_writes_what_holds_and_its_cost_is_told(
    metadata: Path, tmp_path: Path, capsys: Any
) -> None:
    good = {"category": "box", **GOOD["box"]}
    bad = {"category": "move", **GOOD["move"], "direction": "up", "answer": "Up."}
    reply = completion(json.dumps({"pairs": [good, bad]}), 1_000_000, 100_000)
    out = tmp_path / "vqa.jsonl"
    with chat_server(lambda _, i: completion("") if i == 3 else reply) as chat:
        options = ["--teacher", chat.url, "--model", "m", "--price-in", "1", "--price-out", "10"]
        main(["--metadata", str(metadata), "--out", str(out), *options, "--workers", "1"])
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"metadata": 2, "picture": 1, "wrong_direction": 3, "no_answer": 1}
    assert report["usage"]["requests"] == 4
    assert report["usage"]["cost"] == pytest.approx(3 * 2.0 + 0.002)
    assert [json.loads(line)["name"] for line in out.read_text().splitlines()] == [
        f"scene-{i}#0" for i in range(3)
    ]
    parts = chat.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]


def test_a_teacher_without_a_model_is_refused(metadata: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "vqa.jsonl")
    with pytest.raises(SystemExit, match="name the model"):
        main(["--metadata", str(metadata), "--out", out, "--teacher", "http://127.0.0.1:1/v1"])


def test_single_refusals_are_counted_and_many_in_a_row_stop_the_run(
    metadata: Path, tmp_path: Path
) -> None:
    def sometimes(scene: SceneMetadata) -> str:
        if scene.name == "scene-1":
            raise TeacherRefused("too dark")
        return from_truth(scene)

    record = generate(metadata, tmp_path / "some", sometimes, settings={})
    assert record.counts["teacher_refused"] == 1
    lines = [json.dumps({**SCENE, "name": f"s{i}"}) for i in range(REFUSALS + 1)]
    metadata.write_text("\n".join(lines))

    def never(scene: SceneMetadata) -> str:
        raise TeacherRefused("no")

    with pytest.raises(TeacherError, match="refused 5 scenes in a row"):
        generate(metadata, tmp_path / "none", never, settings={})
