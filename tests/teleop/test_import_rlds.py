"""RLDS episodes as ours; another implementation than the one that reads writes the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_episodes import image_at
from scipy.spatial.transform import Rotation

from contracts.episode import EpisodeError
from teleop import jpeg
from teleop.dataset import DemonstrationDataset
from teleop.import_data import main
from teleop.importers import rlds
from teleop.importers.tfrecord import parse_example, records

tfrecords = pytest.importorskip("training.sources.tfrecords")
STEPS = 12


def example(**features: Any) -> bytes:
    message = tfrecords.Example()
    for name, value in features.items():
        feature = message.features.feature[name.replace("__", "/")]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif np.issubdtype(value.dtype, np.floating):
            feature.float_list.value.extend(value.ravel().tolist())
        else:
            feature.int64_list.value.extend(value.ravel().tolist())
    return bytes(message.SerializeToString())


def write(folder: Path, *payloads: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    content = b"".join(tfrecords.framed(payload) for payload in payloads)
    (folder / "train.tfrecord-00000-of-00001").write_bytes(content)
    return folder


def bridge(instruction: str = "put the carrot on the plate", **changes: Any) -> bytes:
    rng = np.random.default_rng(3)
    states = np.concatenate([rng.uniform(-0.3, 0.3, (STEPS, 6)), np.ones((STEPS, 1))], axis=1)
    actions = np.concatenate([rng.uniform(-0.02, 0.02, (STEPS, 6)), np.ones((STEPS, 1))], axis=1)
    actions[0, :6] = 0.0
    actions[6:, 6] = 0.0
    features = {
        "steps__observation__state": states.astype(np.float32),
        "steps__action": actions.astype(np.float32),
        "steps__observation__image_0": [
            jpeg.encode(image_at("front", t / 5)) for t in range(STEPS)
        ],
        "steps__language_instruction": [instruction.encode()] * STEPS,
    }
    return example(**(features | changes))


def test_features_survive() -> None:
    payload = example(
        a=np.array([1.5, -2.25], np.float32), b=np.array([7, -3, 2**40]), c=[b"x", b""]
    )
    found = parse_example(payload)
    assert np.array_equal(found["a"], [1.5, -2.25])
    assert np.array_equal(found["b"], [7, -3, 2**40])
    assert found["c"] == [b"x", b""]


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x0a\x7f\x00", b"\x0a\x05\x0a\x03abc"])
def test_garbage_is_no_example(payload: bytes) -> None:
    with pytest.raises(EpisodeError, match=r"not a tf\.train\.Example"):
        parse_example(payload)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, bridge())
    path = rlds.shards(folder)[0]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EpisodeError, match="ends within a record"):
        list(records(path))


def test_bridge_becomes_episodes(tmp_path: Path) -> None:
    source = write(tmp_path / "bridge", bridge(), bridge(""), bridge("close the drawer"))
    out = tmp_path / "out"
    assert main([str(source), "--format", "bridge", "--out", str(out)]) == 0
    data = DemonstrationDataset(out)
    assert [h.instruction for h in data.headers] == [
        "put the carrot on the plate",
        "close the drawer",
    ]
    episode = data[0]
    assert len(episode.states) == STEPS - 1 and episode.header.device == "bridge"
    raw = parse_example(bridge())
    states = np.reshape(raw["steps/observation/state"], (STEPS, 7))[1:]
    actions = np.reshape(raw["steps/action"], (STEPS, 7))[1:]
    assert np.allclose(episode.states["pose"][:, :3], states[:, :3], atol=1e-6)
    assert np.allclose(episode.commands["pose"][:, :3], (states + actions)[:, :3], atol=1e-6)
    wanted = Rotation.from_euler("xyz", actions[4, 3:6]) * Rotation.from_euler(
        "xyz", states[4, 3:6]
    )
    assert abs(wanted.as_quat() @ episode.commands["pose"][4, 3:]) == pytest.approx(1.0, abs=1e-6)
    assert episode.commands["gripper"].tolist() == [1.0] * 5 + [0.0] * 6
    chunk = episode.chunk(0.0, 4, 0.2)
    assert np.allclose(chunk.poses, episode.commands["pose"][:4])
    assert np.abs(episode.image("front", 0.4) - image_at("front", 0.6).astype(int)).mean() < 4.0
    with pytest.raises(EpisodeError, match="knows no joints"):
        episode.observation(0.4)


def test_droid_becomes_episodes(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pose, wanted = rng.uniform(-0.3, 0.3, (2, STEPS, 6)).astype(np.float32)
    joints = rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32)
    closed = np.linspace(0, 1, STEPS, dtype=np.float32)
    pictures = [jpeg.encode(image_at("wrist", 0.0))] * STEPS
    payload = example(
        steps__observation__cartesian_position=pose,
        steps__observation__gripper_position=closed,
        steps__observation__joint_position=joints,
        steps__action_dict__cartesian_position=wanted,
        steps__action_dict__gripper_position=closed,
        steps__observation__wrist_image_left=pictures,
        steps__language_instruction=[b"stack the cups"] * STEPS,
    )
    out = tmp_path / "out"
    assert (
        main([str(write(tmp_path / "droid", payload)), "--format", "droid", "--out", str(out)]) == 0
    )
    (episode,) = DemonstrationDataset(out)
    assert episode.cameras == ("wrist",)
    assert np.allclose(episode.states["joint_positions"], joints)
    assert np.allclose(episode.states["gripper_opening"], 1.0 - closed)
    assert np.allclose(episode.commands["pose"][:, :3], wanted[:, :3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps__action": np.zeros(6, np.float32)}, "steps/action is missing or not"),
        ({"steps__observation__image_0": [b"x"] * 3}, "3 pictures of 'front' for 12 steps"),
        ({"steps__observation__image_0": np.zeros(2)}, "image_0 is missing"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "bridge", bridge(**changes))
    assert main([str(source), "--format", "bridge", "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--format", "droid", "--out", str(tmp_path / "out")]) == 1
    assert "no *.tfrecord* file" in capsys.readouterr().err
    assert main([str(tmp_path), "--format", "lerobot", "--out", str(tmp_path / "out")]) == 1
    assert "no LeRobot data set" in capsys.readouterr().err
