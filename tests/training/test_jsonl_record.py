"""The record of work that survives a kill."""

from pathlib import Path

import pytest

from training.jsonl_record import Record, RecordError, Usage, picture_names, picture_paths

SETTINGS = {"seed": 1}
WORK = [("a", 2), ("b", 0), ("c", 3)]


def work(path: Path, units: list[tuple[str, int]] = WORK) -> Record:
    """Do what is not finished yet."""
    with Record(path, SETTINGS) as record:
        for unit, count in units:
            if unit not in record.finished:
                lines = [{"text": f"{unit} ä {i}"} for i in range(count)]
                record.add(unit, lines, {"refused": 1}, Usage(1, 10, 1, 0.5))
    return record


def test_a_record_cut_anywhere_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = work(tmp_path / "whole")
    out = (tmp_path / "whole").read_bytes()
    progress = (tmp_path / "whole.progress").read_bytes()
    assert len(out.splitlines()) == 5
    path, beside = tmp_path / "cut", tmp_path / "cut.progress"
    header = progress.index(b"\n") + 1
    cuts = [(i, len(progress)) for i in range(0, len(out), 3)]
    cuts += [(len(out), i) for i in range(header, len(progress), 3)]
    for cut_out, cut_progress in cuts:
        path.write_bytes(out[:cut_out])
        beside.write_bytes(progress[:cut_progress])
        record = work(path)
        assert path.read_bytes() == out
        assert beside.read_bytes() == progress
        assert record.summary() == whole.summary()


def test_a_record_counts_what_earlier_runs_did(tmp_path: Path) -> None:
    work(tmp_path / "out", WORK[:2])
    record = work(tmp_path / "out")
    assert record.summary() == {
        "finished": 3,
        "lines": 5,
        "counts": {"refused": 3},
        "usage": {
            "requests": 3,
            "prompt_tokens": 30,
            "completion_tokens": 3,
            "cost": 1.5,
            "unmetered": 0,
        },
    }


def test_a_record_is_not_mixed_with_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    work(path)
    with pytest.raises(RecordError, match=r"was begun with .*1.*, not .*2"):
        Record(path, {"seed": 2})
    with Record(path, SETTINGS), pytest.raises(RecordError, match="another process"):
        Record(path, SETTINGS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:] + lines[:1]))
    with pytest.raises(RecordError, match="not where they were written"):
        Record(path, SETTINGS)
    assert len(path.read_bytes().splitlines()) == 5
    (tmp_path / "out.progress").unlink()
    with pytest.raises(RecordError, match="exists without its record"):
        Record(path, SETTINGS)
    (tmp_path / "out.progress").write_text('{"seed": 1}\nnonsense\n')
    with pytest.raises(RecordError, match="is damaged"):
        Record(path, SETTINGS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/dev/full")
    with (
        Record(tmp_path / "out", SETTINGS) as record,
        pytest.raises(RecordError, match=r"No space left on device.*run the same command again"),
    ):
        record.add("a", [{"text": "x"}], {}, Usage())
    assert record.finished == set()


def test_pictures_are_named_from_the_folder_of_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = (tmp_path / "a.png", tmp_path / "out/b.png")
    assert picture_names(pictures, Path("out")) == ["../a.png", "b.png"]
    assert picture_names(pictures, Path()) == ["a.png", "out/b.png"]
    assert picture_paths(["a.png", "out/b.png"], Path()) == pictures
