"""Shards, records and pictures, whatever the data set: what is broken is named and left out."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.samples import Sample, SampleError
from training.sources import pictures, vqa_lines
from training.sources.json_records import JsonShard
from training.sources.parquet_records import ParquetShard
from training.sources.records import (
    Reason,
    Records,
    RejectedSample,
    open_shards,
    require_folder,
)

PICTURE = np.zeros((2, 3, 3), np.uint8)


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (value, value, value)).save(out, "png")
    return out.getvalue()


class ListShard:
    """Records in memory."""

    damage = ""

    def __init__(self, name: str, content: list, blocks: tuple[int, ...] = ()) -> None:
        self.name, self.content, self.blocks = name, content, blocks

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, index: int) -> object:
        return self.content[index]


def answering(name: str, record: dict, part: int) -> Sample:
    return Sample(name, "test", (PICTURE,), "q", f"{record['answer']}/{part}")


texts = st.text(alphabet='a"\\[]{},: \n\té', max_size=8)
values = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
arrays = st.lists(st.dictionaries(texts, values, max_size=3), max_size=6)


@settings(max_examples=60, deadline=None)
@given(records=arrays, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_any_json_array_is_found_record_by_record(
    records: list, indent: int | None, ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=ascii_only))
    shard = JsonShard(path, "any.json")
    assert [shard[i] for i in range(len(shard))] == records
    assert shard.damage == ""


@settings(max_examples=60, deadline=None)
@given(records=arrays.filter(len), data=st.data())
def test_a_cut_json_array_keeps_its_whole_records_and_says_so(
    records: list, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.json"
    whole = json.dumps(records).encode()
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole) - 1))])
    shard = JsonShard(path, "cut.json")
    assert "ends in the middle" in shard.damage
    assert [shard[i] for i in range(len(shard))] == records[: len(shard)]


def test_a_cut_json_array_loses_the_last_record_only(tmp_path: Path) -> None:
    whole = json.dumps([{"a": "}]"}] * 3)
    (tmp_path / "cut.json").write_text(whole[:-3])
    assert len(JsonShard(tmp_path / "cut.json", "cut.json")) == 2


@pytest.mark.parametrize("content", ["", '{"a": 1}', "nothing of the kind"])
def test_what_is_no_array_does_not_open(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    shards, broken = open_shards("test", tmp_path, [path], JsonShard)
    assert shards == []
    assert [error.reason for error in broken] == [Reason.CORRUPT_SHARD]
    assert str(broken[0]).startswith("test/bad.json: corrupt shard: ")


def test_json_lines_skip_blanks_and_name_the_broken_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"answer": 1}\n\n{"answer": \n{"answer": 3}')
    records = Records("test", [JsonShard(tmp_path / "a.jsonl", "a.jsonl")], answering)
    assert (records[0].answer, records[2].answer) == ("1/0", "3/0")
    with pytest.raises(RejectedSample, match=r"test/a\.jsonl#1: bad record: JSONDecodeError"):
        records[1]


def test_parquet_rows_are_read_by_index_over_row_groups(tmp_path: Path) -> None:
    rows = [{"answer": i} for i in range(7)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=3)
    shard = ParquetShard(tmp_path / "a.parquet", "a.parquet")
    assert shard.blocks == (3, 3, 1)
    assert [shard[i] for i in range(len(shard))] == rows


def test_a_cut_parquet_file_is_a_corrupt_shard_and_the_others_are_read(tmp_path: Path) -> None:
    for i in range(3):
        path = tmp_path / f"train-{i:05d}-of-00004.parquet"
        pq.write_table(pa.Table.from_pylist([{"answer": i}]), path)
    cut = tmp_path / "train-00001-of-00004.parquet"
    cut.write_bytes(cut.read_bytes()[:-5])
    shards, broken = open_shards("test", tmp_path, tmp_path.glob("*"), ParquetShard)
    records = Records("test", shards, answering, broken=broken)
    assert [sample.answer for sample in records] == ["0/0", "2/0"]
    assert [(error.name, error.reason) for error in records.broken] == [
        ("test/train-00003-of-00004.parquet", Reason.MISSING_SHARD),
        ("test/train-00001-of-00004.parquet", Reason.CORRUPT_SHARD),
    ]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    per_record=st.integers(1, 3),
    blocked=st.booleans(),
    seed=st.integers(0, 9),
)
def test_order_is_a_permutation_that_stays_within_blocks(
    sizes: list[int], per_record: int, blocked: bool, seed: int
) -> None:
    shards = [
        ListShard(f"s{n}", [{"answer": f"{n}.{i}"} for i in range(size)], (size,) * blocked)
        for n, size in enumerate(sizes)
    ]
    records = Records("test", shards, answering, per_record=per_record)
    order = records.order(np.random.default_rng(seed)).tolist()
    assert sorted(order) == list(range(sum(sizes) * per_record)) == list(range(len(records)))
    shard_of = [records[i].name.partition("#")[0] for i in order]
    changes = sum(a != b for a, b in itertools.pairwise(shard_of))
    if blocked:
        assert changes == max(len(set(shard_of)) - 1, 0)


def test_parts_of_a_record_have_names_of_their_own() -> None:
    records = Records("test", [ListShard("s", [{"answer": "a"}])], answering, per_record=2)
    assert [sample.name for sample in records] == ["test/s#0.0", "test/s#0.1"]
    assert [sample.answer for sample in records] == ["a/0", "a/1"]
    with pytest.raises(IndexError):
        records[2]


def test_malformed_records_become_rejections_and_faults_of_the_program_do_not() -> None:
    def fails(name: str, record: type[Exception], part: int) -> Sample:
        raise record("what happened")

    kinds = [KeyError, TypeError, ValueError, AttributeError, SampleError, OSError]
    records = Records("test", [ListShard("s", [*kinds, ZeroDivisionError])], fails)
    for i in range(len(kinds)):
        with pytest.raises(SampleError, match="what happened"):
            records[i]
    with pytest.raises(ZeroDivisionError):
        records[len(kinds)]


def test_a_missing_folder_and_a_folder_without_the_layout_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; put the data set"):
        require_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no file of the layout of roboalign_vqa"):
        vqa_lines.read_vqa(tmp_path)


@pytest.mark.parametrize("kept", [0, 20, 60])
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_cut_pictures_are_rejected_by_name(kind: str, kept: int) -> None:
    out = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(out, kind)
    with pytest.raises(RejectedSample, match=r"^here: picture does not decode") as caught:
        pictures.decode("here", out.getvalue()[:kept])
    assert caught.value.reason == Reason.BAD_PICTURE


def test_pictures_of_any_mode_become_rgb() -> None:
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "1"):
        out = io.BytesIO()
        Image.new(mode, (4, 3)).save(out, "tiff")
        picture = pictures.decode("here", out.getvalue())
        assert (picture.shape, picture.dtype) == ((3, 4, 3), np.uint8)


def test_missing_files_and_videos_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RejectedSample) as caught:
        pictures.load("here", tmp_path / "gone.png")
    assert caught.value.reason == Reason.MISSING_FILE
    with pytest.raises(RejectedSample, match="install ffmpeg and extract its frames") as caught:
        pictures.load("here", tmp_path / "film.mp4")
    assert caught.value.reason == Reason.VIDEO


def test_paths_stay_in_the_data_set(tmp_path: Path) -> None:
    assert pictures.inside(tmp_path, "a/../b.png") == tmp_path / "b.png"
    for outside in ("../b.png", "/etc/hostname", "a/../../b.png"):
        with pytest.raises(ValueError, match="leads out of"):
            pictures.inside(tmp_path, outside)


def test_the_last_frame_is_the_one_with_the_highest_number() -> None:
    assert pictures.last_frame(["e_2/frame_9.png", "e_2/frame_10.png", "e_2/frame_1.png"]) == (
        "e_2/frame_10.png"
    )
    with pytest.raises(ValueError, match="no frames"):
        pictures.last_frame([])
    with pytest.raises(ValueError, match="has no number"):
        pictures.last_frame(["episode_2/last.png"])


def test_slices_are_lists_of_samples(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(9))
    line = {"name": "a", "images": ["p.png"], "question": "q", "answer": "yes"}
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line | {"answer": a}) for a in "xyz"))
    records = vqa_lines.read_vqa(tmp_path)
    assert [sample.answer for sample in records[1:]] == ["y", "z"]
