"""Question data sets in their own layouts, written here in small."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.reasoning import Mcq, write_questions
from training.samples import REASONING_SYSTEM, SYSTEM, Sample
from training.sources import (
    egoplan,
    llava_onevision,
    reasoning,
    refspatial,
    robopoint,
    sharerobot,
    vqa_lines,
)
from training.sources.records import Reason, Records, RejectedSample


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (value, value, value)).save(out, "png")
    return out.getvalue()


def picture_file(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))


def json_file(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1))


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def shades(sample: Sample) -> list[int]:
    """The grey of each picture, which tells the pictures of a test apart."""
    return [int(picture[0, 0, 0]) for picture in sample.pictures]


def reason(records: Records, index: int) -> Reason:
    with pytest.raises(RejectedSample) as caught:
        records[index]
    assert str(caught.value).startswith(caught.value.name)
    return caught.value.reason


def test_llava_onevision_parquet(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{i}",
            "image": {"bytes": content, "path": "x.png"},
            "conversations": turns("<image>\nWhat is it?", f"a cup {i}", "Why?", "It is."),
            "data_source": "aokvqa",
        }
        for i, content in enumerate([png(10), b"\x89PNG broken", png(12)])
    ]
    rows.append(rows[0] | {"image": None})
    (tmp_path / "aokvqa").mkdir()
    path = tmp_path / "aokvqa" / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    records = llava_onevision.read(tmp_path)
    assert len(records) == 4
    sample = records[2]
    assert sample.name == "llava_onevision/aokvqa/train-00000-of-00001.parquet#2"
    assert (sample.question, sample.answer, shades(sample)) == ("What is it?", "a cup 2", [12])
    assert reason(records, 1) == Reason.BAD_PICTURE
    assert reason(records, 3) == Reason.PICTURES


def test_llava_onevision_json_takes_single_views_only(tmp_path: Path) -> None:
    picture_file(tmp_path / "images/a.png", 7)
    json_file(
        tmp_path / "onevision.json",
        [
            {"id": 1, "image": "images/a.png", "conversations": turns("<image>\nq", "a")},
            {"id": 2, "image": ["images/a.png"] * 2, "conversations": turns("<image>\nq", "a")},
            {"id": 3, "image": "images/gone.png", "conversations": turns("<image>\nq", "a")},
            {"id": 4, "image": "images/a.png", "conversations": turns("<image>\nq")},
        ],
    )
    records = llava_onevision.read(tmp_path)
    assert shades(records[0]) == [7]
    assert reason(records, 1) == Reason.PICTURES
    assert reason(records, 2) == Reason.MISSING_FILE
    assert reason(records, 3) == Reason.BAD_RECORD


def test_refspatial_finds_each_files_pictures(tmp_path: Path) -> None:
    picture_file(tmp_path / "2D/image/a.png", 1)
    picture_file(tmp_path / "3D/image_multi_view/b.png", 2)
    picture_file(tmp_path / "3D/image_multi_view/c.png", 3)
    asked = turns("<image>\nq0", "a0", "q1", "a1", "q2", "a2")
    record = {"image": ["a.png"], "depth": ["a.png"], "conversations": asked}
    json_file(tmp_path / "2D/choice_qa.json", [record] * 20)
    views = {"image": ["b.png", "c.png"], "conversations": turns("<image>\n<image>\nq", "a")}
    json_file(tmp_path / "3D/multi_view_qa.json", [views])
    records = refspatial.read(tmp_path)
    assert len(records) == 21
    assert shades(records[20]) == [2, 3]
    pairs = {(sample.question, sample.answer) for sample in records[:20]}
    assert pairs == {("q0", "a0"), ("q1", "a1"), ("q2", "a2")}
    assert records[3].question == refspatial.read(tmp_path)[3].question


def test_robopoint_keeps_points_and_rejects_texts_without_a_picture(tmp_path: Path) -> None:
    picture_file(tmp_path / "images/region_ref/a.png", 5)
    points = "[(0.461, 0.527), (0.498, 0.521)]"
    json_file(
        tmp_path / "robopoint_1432k.json",
        [
            {
                "id": "region_ref/a",
                "image": "region_ref/a.png",
                "conversations": turns("<image>\nPinpoint several points.", points),
            },
            {"id": "text", "conversations": turns("Hello", "Hi")},
        ],
    )
    records = robopoint.read(tmp_path)
    assert (records[0].answer, shades(records[0])) == (points, [5])
    assert records[0].question == "Pinpoint several points."
    assert reason(records, 1) == Reason.PICTURES


EGO = {
    "sample_id": 39,
    "video_source": "EpicKitchens",
    "video_id": "P07_113",
    "question": "What action should I take next?",
    "answer": "grab onion",
    "current_observation_frame": 30,
    "task_progress_metadata": [{"narration_text": "x", "start_frame": 10, "stop_frame": 20}],
}


def test_egoplan_shows_the_current_observation(tmp_path: Path) -> None:
    for number in (20, 30, 31):
        folder = tmp_path / "EPIC-KITCHENS/P07/rgb_frames/P07_113"
        picture_file(folder / f"frame_{number:010d}.jpg", number)
    picture_file(tmp_path / "Ego4D/v1_288p/film/frame_0000000001.jpg", 77)
    (tmp_path / "Ego4D/v1_288p/other.mp4").write_bytes(b"film")
    json_file(
        tmp_path / "EgoPlan_IT.json",
        [
            EGO,
            EGO | {"video_source": "Ego4D", "video_id": "film", "current_observation_frame": 0},
            EGO | {"video_source": "Ego4D", "video_id": "other"},
            EGO | {"current_observation_frame": 32},
            EGO | {"video_source": "VHS"},
        ],
    )
    records = egoplan.read(tmp_path)
    assert (records[0].answer, shades(records[0])) == ("grab onion", [30])
    assert shades(records[1]) == [77]
    with pytest.raises(RejectedSample, match=r"ffmpeg -i .*other\.mp4"):
        records[2]
    assert reason(records, 3) == Reason.MISSING_FILE
    assert reason(records, 4) == Reason.BAD_RECORD


@pytest.mark.parametrize("root", sharerobot.PLANNING_ROOTS)
def test_sharerobot_planning_shows_the_last_frame(tmp_path: Path, root: str) -> None:
    frames = [f"rt_frames_success/e_7/frame_{i}.png" for i in (0, 10, 2)]
    for value, frame in enumerate(frames):
        picture_file(tmp_path / root / frame, value)
    asked = turns("<image 0-25> After <grasp it>, what comes?", "<place it>")
    record = {"id": "e", "task": "Future_Prediction_Task", "selected_step": 3, "image": frames}
    json_file(
        tmp_path / "planning/jsons/future_prediction_task.json", [record | {"conversations": asked}]
    )
    sample = sharerobot.read(tmp_path)[0]
    assert (sample.question, sample.answer) == ("After <grasp it>, what comes?", "<place it>")
    assert shades(sample) == [1]


def test_sharerobot_boxes_and_points_are_fractions(tmp_path: Path) -> None:
    picture_file(tmp_path / "affordance/images/bridge/a.png", 3)
    picture_file(tmp_path / "trajectory/images/bridge/b.png", 4)
    meta = {"original_dataset": "bridge", "original_width": 640, "original_height": 480}
    common = {"id": 1, "meta_data": meta, "instruction": "reach for the carrot"}
    area = {"x": 320.0, "y": 120.0, "width": 64.0, "height": 48.0}
    json_file(
        tmp_path / "affordance/affordance.json",
        [
            common | {"affordance": area, "image_path": "bridge/a.png"},
            common | {"affordance": area | {"x": float("nan")}, "image_path": "bridge/a.png"},
        ],
    )
    points = [[320.0, 120.0], [640.0, 480.0]]
    json_file(
        tmp_path / "trajectory/trajectory.json",
        [
            common | {"points": points, "image_path": "images/bridge/b.png"},
            common | {"trajectory": points, "image_path": "bridge/b.png"},
            common | {"points": points, "image_path": "../../../secret.png"},
        ],
    )
    records = sharerobot.read(tmp_path)
    assert (records[0].answer, shades(records[0])) == ("[0.500, 0.250, 0.600, 0.350]", [3])
    assert reason(records, 1) == Reason.NOT_FINITE
    for i in (2, 3):
        assert records[i].answer == "[(0.500, 0.250), (1.000, 1.000)]"
        assert "reach for the carrot" in records[i].question
    assert reason(records, 4) == Reason.BAD_RECORD


def line(**changes: Any) -> dict[str, Any]:
    written = {"name": "n", "images": ["p/a.png"], "question": "Where?", "answer": "left"}
    return written | {"category": "grounding"} | changes


def test_vqa_lines_keep_their_category(tmp_path: Path) -> None:
    picture_file(tmp_path / "p/a.png", 8)
    lines = [line(), line(category=None), line(question=" "), line(images=[]), {"name": "n"}]
    json_file(tmp_path / "vqa.jsonl", lines)
    records = vqa_lines.read_vqa(tmp_path)
    assert (records[0].category, records[0].answer, shades(records[0])) == (
        "grounding", "left", [8],
    )  # fmt: skip
    assert records[1].category == "roboalign_vqa"
    with pytest.raises(ValueError, match=r"roboalign_vqa/vqa\.jsonl#2: empty question"):
        records[2]
    assert reason(records, 3) == Reason.PICTURES
    assert reason(records, 4) == Reason.BAD_RECORD


def test_multi_view_wants_two_pictures(tmp_path: Path) -> None:
    picture_file(tmp_path / "p/a.png", 8)
    picture_file(tmp_path / "p/b.png", 9)
    json_file(tmp_path / "m.jsonl", [line(images=["p/a.png", "p/b.png"]), line()])
    records = vqa_lines.read_multi_view(tmp_path)
    assert shades(records[0]) == [8, 9]
    assert reason(records, 1) == Reason.PICTURES


def test_reasoning_reads_questions_and_what_distillation_made_of_them(tmp_path: Path) -> None:
    picture_file(tmp_path / "p/a.png", 8)
    (tmp_path / "data").mkdir()
    mcq = Mcq("m", (tmp_path / "p/a.png",), "Where?", ("left", "right"), 1, wording=1)
    write_questions([mcq], tmp_path / "data/questions.jsonl")
    thought = "<think>It is right of it.</think><answer>B</answer>"
    distilled = line(images=["../p/a.png"], system=REASONING_SYSTEM, answer=thought)
    broken = [{"choices": ["left", "left"]}, {"choices": ["left"]}, {"choices": ["a", "b"]}]
    json_file(tmp_path / "data/samples.jsonl", [distilled, *(line() | wrong for wrong in broken)])
    records = reasoning.read(tmp_path / "data")
    asked, answered = records[0], records[1]
    assert (asked.question, asked.answer, asked.system) == (mcq.prompt, "B", SYSTEM)
    assert shades(asked) == shades(answered) == [8]
    assert (answered.answer, answered.system) == (thought, REASONING_SYSTEM)
    assert [reason(records, i) for i in (2, 3, 4)] == [Reason.BAD_RECORD] * 3


READERS = [
    llava_onevision.read, refspatial.read, robopoint.read, egoplan.read, sharerobot.read,
    vqa_lines.read_vqa, vqa_lines.read_multi_view, reasoning.read,
]  # fmt: skip


@pytest.mark.parametrize("read", READERS, ids=lambda read: f"{read.__module__}.{read.__name__}")
def test_every_reader_wants_its_folder(read: Callable[[Path], Records], tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(folder)):
            read(folder)
