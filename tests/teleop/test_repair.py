"""What a crash leaves: committed episodes whole, the one under way recovered as far as it got."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_episodes import header, make_dataset, outcome, pose_at, write_episode, write_moments

from contracts import episode as layout
from teleop.dataset import DemonstrationDataset
from teleop.episode_file import EpisodeFile
from teleop.lock import DatasetLock
from teleop.recorder import CHUNK_BYTES, EpisodeWriter
from teleop.repair import main, repair


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_episode(tmp_path_factory.mktemp("whole"), 0).read_bytes()


def part_of(dataset: Path, content: bytes, number: int = 0) -> Path:
    part = dataset / layout.EPISODES / f"{number:06d}{layout.PART_SUFFIX}"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)
    return part


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0.0, 0.999))
def test_a_recording_cut_anywhere_gives_what_was_written(
    share: float, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = tmp_path_factory.mktemp("cut")
    cut = int(share * len(whole))
    part = part_of(dataset, whole[:cut])
    (recovery,) = repair(dataset)
    assert not part.exists()
    if recovery.path is None:
        assert recovery.messages == 0 and cut < CHUNK_BYTES + 10_000
        return
    file = EpisodeFile(Path(recovery.path))
    assert file.outcome.label == "incomplete" and file.path.parent.name == "recovered"
    states = file.rows(layout.ROBOT_STATE)
    times = layout.stamps_of(states)
    assert np.allclose(
        states["pose"].reshape(-1, 7), np.array([pose_at(t) for t in times]).reshape(-1, 7)
    )
    kept = sum(len(data) for topic in file.topics for _, _, data in file.messages(topic))
    assert kept >= cut - 2 * CHUNK_BYTES
    assert repair(dataset) == []


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, 10**9), value=st.integers(1, 255))
def test_a_flipped_byte_costs_at_most_what_follows(
    at: int, value: int, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever was damaged: no exception, no wrong number, the damaged file kept or recovered."""
    dataset = tmp_path_factory.mktemp("flip")
    at %= len(whole) - 600
    damaged = bytearray(whole[: len(whole) - 600])
    damaged[at] ^= value
    part_of(dataset, bytes(damaged))
    (recovery,) = repair(dataset)
    if recovery.path is not None:
        states = EpisodeFile(Path(recovery.path)).rows(layout.ROBOT_STATE)
        times = layout.stamps_of(states)
        assert all(np.allclose(s, pose_at(t)) for s, t in zip(states["pose"], times, strict=True))
    assert any((dataset / f).glob("000000*") for f in (layout.EPISODES, layout.RECOVERED))


def test_a_whole_recording_without_its_name_is_committed(tmp_path: Path, whole: bytes) -> None:
    part = part_of(tmp_path, whole)
    (recovery,) = repair(tmp_path)
    assert recovery.path == str(tmp_path / "episodes/000000.mcap") and not part.exists()
    assert len(DemonstrationDataset(tmp_path)) == 1


@pytest.mark.parametrize("label", ["success", "discard", "incomplete"])
def test_a_crash_between_name_and_cleaning_up_leaves_one_episode(
    tmp_path: Path, label: str
) -> None:
    committed = write_episode(tmp_path, 0, label=label)
    part = tmp_path / "episodes/000000.mcap.part"
    os.link(committed, part)
    (recovery,) = repair(tmp_path)
    assert recovery.text == "was already committed" and not part.exists() and committed.exists()


def test_the_command_says_what_it_did(
    tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "demos", episodes=1)
    part_of(dataset, whole[: len(whole) * 3 // 4], number=7)
    assert main([str(dataset), "--json"]) == 0
    (recovered,) = json.loads(capsys.readouterr().out)["recovered"]
    assert recovered["part"] == "000007.mcap.part" and recovered["messages"] > 50
    assert main([str(dataset)]) == 0
    assert "nothing to repair" in capsys.readouterr().err
    with DatasetLock(dataset):
        assert main([str(dataset)]) == 1
    assert "another collector" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 1


def test_a_recording_that_had_not_begun_leaves_nothing(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path, header(0)) as writer:
        write_moments(writer, 0.1)
    (recovery,) = repair(tmp_path)
    assert recovery.path is None and recovery.text == "had not recorded anything yet"
    assert not list((tmp_path / "episodes").iterdir())


def test_recording_goes_on_beside_an_abandoned_part(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path, header(0)) as writer:
        write_moments(writer, 0.5)
    with EpisodeWriter(tmp_path, header(1)) as writer:
        write_moments(writer, 0.5)
        writer.commit(outcome())
    assert [h.number for h in DemonstrationDataset(tmp_path).headers] == [1]
