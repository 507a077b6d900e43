"""Exports to LeRobot's layouts and back; the real reader reads them where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_episodes import make_dataset, pose_at, write_episode
from scipy.spatial.transform import Rotation

from teleop import droid_fields, lerobot_reader
from teleop.dataset import DemonstrationDataset
from teleop.export import main
from teleop.feature_statistics import PictureCounts, column_statistics
from teleop.import_data import main as import_main
from teleop.lerobot_writer import FORMATS
from teleop.video import VideoWriter, read_video

FPS = 10
LEROBOT_PYTHON = os.environ.get("LEROBOT_PYTHON", "")


@pytest.fixture(scope="module", params=FORMATS)
def exported(
    request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("exported") / "lerobot"
    assert main([str(made), "--format", request.param, "--out", str(out)]) == 0
    return out


def rows(root: Path) -> dict[str, np.ndarray]:
    tables = [
        pq.read_table(path).to_pydict() for path in sorted((root / "data").glob("*/*.parquet"))
    ]
    return {name: np.array([v for t in tables for v in t[name]]) for name in tables[0]}


def test_steps_are_what_was_measured_and_commanded(exported: Path) -> None:
    table = rows(exported)
    assert table["episode_index"].tolist() == np.repeat(np.arange(4), 20).tolist()
    assert table["index"].tolist() == list(range(80))
    assert np.allclose(table["timestamp"], np.tile(np.arange(20) / FPS, 4))
    third = table["episode_index"] == 2
    times = np.arange(20) / FPS
    state = table["observation.state.cartesian_position"][third]
    action = table["action.cartesian_position"][third]
    assert np.allclose(state[:, :3], [pose_at(t)[:3] for t in times], atol=1e-6)
    # Commands lead by a tenth of a second, and an action belongs to the next step.
    assert np.allclose(action[:, :3], [pose_at(t + 0.2)[:3] for t in times], atol=1e-6)
    turn = Rotation.from_euler("xyz", state[7, 3:]).as_quat()
    assert abs(turn @ pose_at(0.7)[3:]) == pytest.approx(1.0, abs=1e-6)
    assert table["is_last"][third].tolist() == [False] * 19 + [True]
    assert table["reward"].sum() == 4 and table["is_episode_successful"].all()
    assert table["observation.state.gripper_position"][third].tolist() == [0.0] * 10 + [1.0] * 10
    assert set(table["collector_id"]) == {"anna"}


def test_velocities_are_droids(exported: Path) -> None:
    """5 cm/s along x is 1/15 s * 0.05 m/s of the 0.075 m that DROID allows in a period."""
    velocity = rows(exported)["action.cartesian_velocity"]
    assert velocity[3, 0] == pytest.approx(0.05 / 15 / 0.075, rel=1e-3)
    assert velocity[3, 5] == pytest.approx(-0.05 / 15 / 0.15, rel=1e-2) or velocity[
        3, 5
    ] == pytest.approx(0.05 / 15 / 0.15, rel=1e-2)


def test_info_counts_what_is_there(exported: Path) -> None:
    info = json.loads((exported / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (4, 80, FPS)
    assert info["splits"] == {"train": "0:4"} and info["total_tasks"] == 4
    features = info["features"]
    assert features["observation.images.wrist_left"]["shape"] == [48, 48, 3]
    assert features["action"]["names"]["axes"][-1] == "gripper"
    columns = set(rows(exported))
    assert columns == {name for name, f in features.items() if f["dtype"] != "video"}


def test_an_export_is_read_back(exported: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "back"
    assert import_main([str(exported), "--format", "lerobot", "--out", str(out)]) == 0
    theirs, ours = DemonstrationDataset(out), DemonstrationDataset(made)
    assert len(theirs) == len(ours)
    for back, first in zip(theirs, ours, strict=True):
        times = first.times(1 / FPS)
        assert back.header.instruction == first.header.instruction
        assert back.header.task == first.header.task and back.header.operator == "anna"
        assert np.allclose(
            back.states["pose"][:, :3], first.states_at(times)["pose"][:, :3], atol=1e-6
        )
        mine = first.chunks(times, 4, 1 / FPS)
        again = back.chunks(times, 4, 1 / FPS)
        whole = ~mine.padded
        assert np.allclose(again.poses[whole][:, :3], mine.poses[whole][:, :3], atol=1e-6)
        assert np.array_equal(again.gripper[whole], mine.gripper[whole])
        picture = back.image("wrist", 1.2).astype(int) - first.image("wrist", 1.2)
        assert np.abs(picture).mean() < 6.0


def test_poses_survive_as_euler_angles() -> None:
    rng = np.random.default_rng(0)
    poses = np.concatenate([rng.normal(size=(50, 3)), Rotation.random(50, rng).as_quat()], axis=1)
    back = droid_fields.euler_to_pose(droid_fields.pose_to_euler(poses))
    assert np.allclose(back[:, :3], poses[:, :3])
    assert np.allclose(np.abs((back[:, 3:] * poses[:, 3:]).sum(axis=1)), 1.0)


def test_picture_statistics_are_those_of_all_pixels() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5, 8, 6, 3)).astype(np.uint8)
    counts = PictureCounts()
    for image in images:
        counts.add(image)
    found = counts.statistics()
    values = images.reshape(-1, 3) / 255.0
    for name, expected in (("mean", values.mean(axis=0)), ("std", values.std(axis=0))):
        assert np.allclose(np.ravel(found[name]), expected), name
    assert np.allclose(np.ravel(found["q50"]), np.median(values, axis=0), atol=0.02)
    assert np.shape(found["min"]) == (3, 1, 1) and found["count"] == [5]
    assert column_statistics(np.arange(5.0))["q50"] == [2.0]


def test_videos_keep_every_picture_in_order(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with VideoWriter(path, FPS, "libx264") as writer:
        for i in range(12):
            writer.add(np.full((32, 32, 3), 20 * i, np.uint8))
    found = [image.mean() for image in read_video(path, 3, 5)]
    assert np.allclose(found, [60, 80, 100, 120, 140], atol=3)


def test_only_successes_are_exported_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "demos", episodes=1, seconds=0.5)
    write_episode(dataset, 1, label="failure", seconds=0.5)
    assert main([str(dataset), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 1
    assert main([str(dataset), "--out", str(tmp_path / "out")]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path / "new")]) == 1
    assert "no data set" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.manual
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not LEROBOT_PYTHON, reason="LEROBOT_PYTHON names no Python with LeRobot")
def test_the_real_lerobot_reader_reads_an_export(made: Path, tmp_path: Path) -> None:
    """v3.0 as it is; v2.1 after LeRobot's own conversion."""
    outs = {kind: tmp_path / "local" / kind for kind in FORMATS}
    for kind, out in outs.items():
        assert main([str(made), "--format", kind, "--out", str(out)]) == 0
    convert = [
        "-m", "lerobot.datasets.v30.convert_dataset_v21_to_v30", "--repo-id=local/lerobot-v2.1",
        f"--root={tmp_path}", "--push-to-hub=false",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    subprocess.run([LEROBOT_PYTHON, *convert], check=True, env=environment)
    for root in outs.values():
        found = subprocess.run(
            [LEROBOT_PYTHON, lerobot_reader.__file__, str(root), "--horizon", "8"],
            input=json.dumps([0, 25, 59, 79]),
            stdout=subprocess.PIPE, text=True, check=True, env=environment,
        )  # fmt: skip
        result = json.loads(found.stdout.splitlines()[-1])
        assert result["codebase_version"] == "v3.0"
        assert (result["frames"], result["episodes"]) == (80, 4)
        table = rows(outs["lerobot-v3"])
        for index, item in zip((0, 25, 59, 79), result["items"], strict=True):
            for name in ("observation.state.cartesian_position", "action.cartesian_position"):
                assert np.allclose(item[name], table[name][index], atol=1e-6)
            left = 20 - item["frame_index"]
            assert item["action_is_pad"] == [i >= left for i in range(8)]
            episode = DemonstrationDataset(made)[item["episode_index"]]
            picture = episode.image("front", item["frame_index"] / FPS) / 255.0
            seen = item["observation.images.exterior_1_left"]
            assert seen["shape"] == [3, 48, 48]
            assert np.allclose(seen["mean"], picture.mean(axis=(0, 1)), atol=0.03)
            assert np.allclose(seen["left_half"], picture[:, :24].mean(axis=(0, 1)), atol=0.03)
            assert item["task"] == episode.header.instruction


def test_the_reader_script_imports_nothing_of_ours() -> None:
    code = f"import runpy; runpy.run_path({lerobot_reader.__file__!r})"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd="/")
