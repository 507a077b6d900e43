"""The typed reader: by episode and time, chunks of the future, statistics over everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_episodes import gripper_at, image_at, make_dataset, pose_at, write_episode

from contracts import bundle
from contracts.episode import EpisodeError
from teleop.dataset import DemonstrationDataset, Statistics

HORIZON, TIME_STEP = 16, 0.1


def test_episodes_come_by_number_and_label(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "demos", episodes=2)
    write_episode(dataset, 2, label="failure")
    write_episode(dataset, 3, label="discard")
    assert [h.number for h in DemonstrationDataset(dataset).headers] == [0, 1]
    both = DemonstrationDataset(dataset, labels=("success", "failure"))
    assert [h.number for h in both.headers] == [0, 1, 2]
    first = both.headers[0].task
    assert {h.task for h in DemonstrationDataset(dataset, tasks=[first]).headers} == {first}


def test_a_chunk_is_what_was_commanded_afterwards(made: Path) -> None:
    episode = DemonstrationDataset(made)[1]
    chunk = episode.chunk(0.5, HORIZON, TIME_STEP)
    due = 0.5 + TIME_STEP * np.arange(1, HORIZON + 1)
    inside = due <= 2.0 + 1e-9
    assert chunk.padded.tolist() == (~inside).tolist()
    assert np.allclose(chunk.poses[inside], [pose_at(t + 0.1) for t in due[inside]])
    assert np.allclose(chunk.poses[~inside], pose_at(2.1))
    assert chunk.gripper[inside].tolist() == [gripper_at(t) for t in due[inside] + 1e-9]


def test_many_chunks_are_each_chunk(made: Path) -> None:
    episode = DemonstrationDataset(made)[0]
    times = episode.times(TIME_STEP)
    together = episode.chunks(times, HORIZON, TIME_STEP)
    for i in (0, 7, len(times) - 1):
        one = episode.chunk(times[i], HORIZON, TIME_STEP)
        assert np.array_equal(together.poses[i], one.poses)
        assert np.array_equal(together.padded[i], one.padded)
    assert not together.padded[:, 0].any()


def test_the_picture_is_the_latest_and_never_of_the_future(made: Path) -> None:
    episode = DemonstrationDataset(made)[0]
    for time, shown in ((0.7, 0.7), (0.79, 0.7), (0.8, 0.8), (9.0, 2.0), (-1.0, 0.0)):
        picture = episode.image("front", time).astype(int)
        assert np.abs(picture - image_at("front", shown)).mean() < 3.0, time


def test_an_observation_is_of_one_moment(made: Path) -> None:
    seen = DemonstrationDataset(made)[2].observation(1.05)
    assert seen.state.stamp == pytest.approx(1.04)
    assert np.allclose(seen.state.pose, pose_at(1.04))
    assert seen.frames["wrist"].stamp == pytest.approx(1.0)
    assert "pick up the cup" in seen.instruction


def test_actions_lead_back_to_the_commands(made: Path) -> None:
    episode = DemonstrationDataset(made)[0]
    times = episode.times(TIME_STEP)
    actions = episode.actions(times, HORIZON, TIME_STEP)
    poses, grips = bundle.to_absolute(episode.states_at(times)["pose"][3], actions[3])
    chunk = episode.chunk(times[3], HORIZON, TIME_STEP)
    assert np.allclose(poses, chunk.poses) and np.allclose(grips, chunk.gripper)


def test_statistics_are_of_all_data_and_without_padding(tmp_path: Path) -> None:
    """A short and a long episode: the quantiles are not the mean of each one's."""
    dataset = make_dataset(tmp_path / "demos", episodes=1, seconds=0.4)
    write_episode(dataset, 1, seconds=2.2)
    data = DemonstrationDataset(dataset)
    found = data.statistics(4, TIME_STEP)
    every = []
    for episode in data:
        for time in episode.times(TIME_STEP):
            chunk = episode.chunk(time, 4, TIME_STEP)
            pose = episode.states_at([time])["pose"][0]
            every.append(bundle.to_relative(pose, chunk.poses, chunk.gripper)[~chunk.padded])
    values = np.concatenate(every)
    assert found["action"].count == len(values)
    assert np.allclose(found["action"].q01, np.quantile(values, 0.01, axis=0))
    assert np.allclose(found["action"].mean, values.mean(axis=0))
    parts = [Statistics.of(part) for part in every]
    assert not np.allclose(np.mean([p.q99 for p in parts], axis=0), found["action"].q99)


def test_moments_name_every_episode(made: Path) -> None:
    episodes, times = DemonstrationDataset(made).moments(TIME_STEP)
    assert np.bincount(episodes).tolist() == [20] * 4
    assert times.max() < 2.0


@pytest.mark.parametrize(("horizon", "step"), [(0, 0.1), (4, 0.0)])
def test_impossible_chunks_are_refused(made: Path, horizon: int, step: float) -> None:
    with pytest.raises(ValueError, match="no chunk"):
        DemonstrationDataset(made)[0].chunk(0.0, horizon, step)


def test_missing_things_are_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="no data set"):
        DemonstrationDataset(tmp_path)
    with pytest.raises(EpisodeError, match=r"no picture of 'left'.*front, wrist"):
        DemonstrationDataset(made)[0].image("left", 0.0)
    with pytest.raises(EpisodeError, match="no episode"):
        DemonstrationDataset(made, labels=("failure",)).statistics(4, TIME_STEP)


def test_every_episode_can_be_visited_while_few_stay_open(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teleop.dataset.OPEN_FILES", 1)
    data = DemonstrationDataset(made)
    numbers = [data[i].header.number for i in (0, 3, 1, 0, -1)]
    assert numbers == [0, 3, 1, 0, 3]
