"""The recorder: whole or not at all, never over another, readable by the mcap library."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from made_episodes import (
    calibration,
    header,
    image_at,
    outcome,
    pose_at,
    write_episode,
    write_moments,
)
from mcap.reader import make_reader

from contracts import episode as layout
from contracts.episode import EpisodeError
from teleop import jpeg
from teleop.episode_file import EpisodeFile
from teleop.recorder import EpisodeWriter, RecordingFailed


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    file = EpisodeFile(write_episode(tmp_path, 3))
    assert file.header == header(3) and file.outcome == outcome()
    assert file.calibration is not None
    assert file.calibration.to_document() == calibration().to_document()
    states = file.rows(layout.ROBOT_STATE)
    times = layout.stamps_of(states)
    assert len(states) == 101 and np.allclose(times, 0.02 * np.arange(101))
    assert np.allclose(states["pose"], [pose_at(t) for t in times])
    pictures = file.pictures("wrist")
    assert np.allclose(pictures.stamps, 0.1 * np.arange(21))
    error = jpeg.decode(pictures.jpeg(7)).astype(int) - image_at("wrist", 0.7)
    assert np.abs(error).mean() < 3.0
    assert file.events() == [(1.0, "phase", "move")]
    assert len(file.pictures("nowhere")) == 0


def test_the_mcap_library_reads_every_message(tmp_path: Path) -> None:
    path = write_episode(tmp_path, 0)
    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        found = list(reader.iter_messages())
    topics = {channel.topic: schema for schema, channel, _ in found}
    assert set(topics) == {
        "/robot_state",
        "/command",
        "/command_filtered",
        "/event",
        "/camera/front/compressed",
        "/camera/wrist/compressed",
    }
    assert all(schema is not None and schema.encoding == "ros2msg" for schema in topics.values())
    assert len(found) == 3 * 101 + 2 * 21 + 1
    assert len(path.read_bytes()) > 0 and not list(path.parent.glob("*.part"))


def test_receipt_is_kept_beside_the_stamp(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path, header()) as writer:
        write_moments(writer, 0.1)
        writer.command(1.0, pose_at(1.0), 1.0, received=1.25)
        path = writer.commit(outcome())
    file = EpisodeFile(path)
    assert file.log_times("/command")[-1] == pytest.approx(1.25)
    assert layout.stamps_of(file.rows(layout.COMMAND))[-1] == pytest.approx(1.0)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    first = write_episode(tmp_path, 0)
    before = first.read_bytes()
    with pytest.raises(RecordingFailed, match="File exists"):
        write_episode(tmp_path, 0, seconds=1.0)
    assert first.read_bytes() == before
    with pytest.raises(RecordingFailed, match=r"teleop\.repair"):
        write_episode(tmp_path, 0)


def test_an_episode_has_no_name_before_it_is_committed(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path, header()) as writer:
        write_moments(writer, 1.0)
        assert [p.name for p in (tmp_path / "episodes").iterdir()] == ["000000.mcap.part"]
    assert [p.name for p in (tmp_path / "episodes").iterdir()] == ["000000.mcap.part"]


def test_a_discarded_episode_is_set_aside(tmp_path: Path) -> None:
    assert write_episode(tmp_path, 0, label="discard").parent.name == "set_aside"


class FullDisk:
    """A file that takes some bytes and then no more."""

    def __init__(self, file: object, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 3_000, 60_000])
def test_a_full_disk_is_one_clear_error(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = write_episode(tmp_path, 0).read_bytes()
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a: FullDisk(opened(self, *a), room) if a == ("xb",) else 0
    )
    with pytest.raises(RecordingFailed, match=r"No space left on device.*make room"):
        write_episode(tmp_path, 1)
    monkeypatch.undo()
    assert (tmp_path / "episodes/000000.mcap").read_bytes() == committed
    assert not (tmp_path / "episodes/000001.mcap").exists()


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = write_episode(tmp_path, 0).read_bytes()
    for name, content in {
        "cut.mcap": whole[: len(whole) // 2],
        "empty.mcap": b"",
        "other.mcap": b"not an episode at all",
        "torn.mcap": whole[:-400] + bytes(392) + whole[-8:],
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(EpisodeError, match=name):
            EpisodeFile(path)
