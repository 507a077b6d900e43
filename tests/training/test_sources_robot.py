"""Robot data sets in TFRecord files: the framing, RLDS episodes, RoboVQA's sequences."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy.spatial.transform import Rotation

from training.samples import ACTION_PROMPT, Sample
from training.sources import bridge, droid, robot_qa, robovqa
from training.sources.records import Reason, Records, RejectedSample
from training.sources.tfrecords import (
    Example,
    SequenceExample,
    TfRecordShard,
    framed,
    masked_crc32c,
    parse,
)


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (value, value, value)).save(out, "png")
    return out.getvalue()


def shade(sample: Sample) -> int:
    (picture,) = sample.pictures
    return int(picture[0, 0, 0])


def reason(records: Records, index: int) -> Reason:
    with pytest.raises(RejectedSample) as caught:
        records[index]
    return caught.value.reason


# Example(features={"a": bytes ["xy"], "b": floats [1.5], "c": integers [3]}), encoded by hand: what
# the reader has to understand, whoever wrote it.
EXAMPLE = bytes.fromhex(
    "0a28"  # features, 40 bytes
    "0a0b" "0a0161" "1206" "0a04" "0a027879"
    "0a0d" "0a0162" "1208" "1206" "0a040000c03f"
    "0a0a" "0a0163" "1205" "1a03" "0a0103"
)  # fmt: skip


def test_an_example_written_by_hand_is_read() -> None:
    features = parse(Example, EXAMPLE).features.feature
    assert sorted(features) == ["a", "b", "c"]
    assert list(features["a"].bytes_list.value) == [b"xy"]
    assert list(features["b"].float_list.value) == [1.5]
    assert list(features["c"].int64_list.value) == [3]


def test_what_is_no_example_is_a_value_error() -> None:
    for kind in (Example, SequenceExample):
        with pytest.raises(ValueError, match=f"not a tf.train.{kind.DESCRIPTOR.name}"):
            parse(kind, b"\xff\xff\xff")


def test_checksum_of_the_published_vector() -> None:
    """RFC 3720, B.4: CRC-32C of 32 zero bytes is 0x8a9136aa; the mask is TFRecord's."""
    crc = 0x8A9136AA
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(bytes(32)) == masked


@settings(max_examples=60, deadline=None)
@given(payloads=st.lists(st.binary(max_size=20), max_size=5), cut=st.integers(0, 200))
def test_records_before_a_cut_are_read_and_the_cut_is_reported(
    payloads: list[bytes], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.tfrecord"
    whole = [framed(payload) for payload in payloads]
    path.write_bytes(b"".join(whole)[:cut])
    ends = np.cumsum([len(record) for record in whole]).tolist()
    complete = [p for p, end in zip(payloads, ends, strict=True) if end <= cut]
    at_a_border = cut in (0, *ends) or cut > sum(map(len, whole))
    if at_a_border or complete:
        shard = TfRecordShard(path, "cut")
        assert [shard[i] for i in range(len(shard))] == complete
        assert bool(shard.damage) != at_a_border
    else:
        with pytest.raises(ValueError, match="cut in"):
            TfRecordShard(path, "cut")


def test_an_overwritten_length_is_found(tmp_path: Path) -> None:
    content = bytearray(framed(b"one") + framed(b"two") + framed(b"three"))
    content[len(framed(b"one")) + 1] ^= 1
    (tmp_path / "a").write_bytes(content)
    shard = TfRecordShard(tmp_path / "a", "a")
    assert (len(shard), shard[0]) == (1, b"one")
    assert "wrong checksum at record 1" in shard.damage


def example(**features: Any) -> bytes:
    """Serialized Example; keys have __ for /, values are lists of bytes, or arrays of floats."""
    message: Any = Example()
    for key, values in features.items():
        feature = message.features.feature[key.replace("__", "/")]
        if isinstance(values, np.ndarray):
            feature.float_list.value.extend(values.ravel().tolist())
        else:
            feature.bytes_list.value.extend(values)
    return bytes(message.SerializeToString())


def shard_file(folder: Path, records: list[bytes], name: str = "x-train", of: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.tfrecord-00000-of-{of:05d}"
    path.write_bytes(b"".join(map(framed, records)))
    return path


def bridge_episode(steps: int, instruction: str = "put it away", **changes: Any) -> bytes:
    """Step t has a picture of shade t, x = 0.01 t and the action that leads there."""
    states, actions = np.zeros((steps, 7)), np.zeros((steps, 7))
    states[:, 0] = 0.01 * np.arange(steps)
    states[:, 6] = actions[:, 6] = 1.0
    actions[1:, 0] = 0.01
    actions[1:, 3:6] = (0.02, -0.01, 0.3)
    content = {
        "steps__action": actions,
        "steps__observation__state": states,
        "steps__observation__image_0": [png(t) for t in range(steps)],
        "steps__language_instruction": [instruction.encode()] * steps,
    }
    return example(**(content | changes))


def test_bridge_chunks_are_spread_over_the_episode_without_its_first_step(tmp_path: Path) -> None:
    shard_file(tmp_path / "1.0.0", [bridge_episode(1 + 16 + 14)])
    records = bridge.read_fast(tmp_path)
    assert len(records) == bridge.CHUNKS_PER_EPISODE
    samples = list(records)
    assert [shade(sample) for sample in samples] == [1, 3, 5, 7, 9, 11, 13, 15]
    for sample in samples:
        assert sample.question == ACTION_PROMPT.format(instruction="put it away")
        assert sample.answer == ""
        assert sample.chunk is not None and sample.chunk.shape == (16, 7)
        np.testing.assert_allclose(sample.chunk[:, :3], [[0.01, 0, 0]] * 16, atol=1e-7)
        turn = Rotation.from_rotvec(sample.chunk[0, 3:6]).as_euler("xyz")
        np.testing.assert_allclose(turn, (0.02, -0.01, 0.3), atol=1e-6)
        assert (sample.chunk[:, 6] == 1.0).all()


@settings(max_examples=60, deadline=None)
@given(part=st.integers(0, 7), steps=st.integers(0, 60), horizon=st.integers(1, 20))
def test_chunks_of_an_episode_differ_and_end_inside(part: int, steps: int, horizon: int) -> None:
    starts = [bridge.chunk_start(i, steps, horizon) for i in range(bridge.CHUNKS_PER_EPISODE)]
    given_out = [start for start in starts if start is not None]
    assert starts[part] is None or 0 <= starts[part] <= steps - horizon
    assert len(set(given_out)) == len(given_out)
    assert len(given_out) == min(max(steps - horizon + 1, 0), bridge.CHUNKS_PER_EPISODE)


def test_bridge_rejections_name_the_sample(tmp_path: Path) -> None:
    nan = np.ones((40, 7))
    nan[:, 2] = np.nan
    records = [
        bridge_episode(10),
        bridge_episode(40, ""),
        bridge_episode(40, steps__action=nan),
        bridge_episode(40, steps__observation__image_0=[b"no picture"] * 40),
        bridge_episode(40, steps__action=np.ones((39, 7))),
        bridge_episode(40, steps__observation__image_0=[]),
        b"\xff\xff\xff",
    ]
    shard_file(tmp_path, records, of=2)
    read = bridge.read_fast(tmp_path)
    per_record = bridge.CHUNKS_PER_EPISODE
    assert [reason(read, i * per_record) for i in range(len(records))] == [
        Reason.TOO_SHORT,
        Reason.NO_INSTRUCTION,
        Reason.NOT_FINITE,
        Reason.BAD_PICTURE,
        Reason.BAD_RECORD,
        Reason.BAD_RECORD,
        Reason.BAD_RECORD,
    ]
    with pytest.raises(RejectedSample, match=r"^bridge_fast/x-train\.tfrecord-00000-of-00002#2\.0"):
        read[2 * per_record]
    (missing,) = read.broken
    assert missing.reason == Reason.MISSING_SHARD
    assert missing.name == "bridge_fast/x-train.tfrecord-00001-of-00002"


def numbers(text: str) -> np.ndarray:
    return np.array([float(part) for part in text.replace("[", " ").replace("]", " ").split(",")])


def test_bridge_questions_cover_the_three_kinds(tmp_path: Path) -> None:
    shard_file(tmp_path, [bridge_episode(40)])
    records = bridge.read_qa(tmp_path)
    assert len(records) == robot_qa.SAMPLES_PER_EPISODE
    for i, sample in enumerate(records):
        step = shade(sample)
        assert sample.question.startswith('The robot\'s task is "put it away". ')
        kind = i % robot_qa.KINDS
        if kind == 0:
            assert sample.answer == "move forward"
        elif kind == 1:
            np.testing.assert_allclose(
                numbers(sample.answer), [0.01 * step, 0, 0, 0, 0, 0, 1], atol=6e-4
            )
        else:
            states = numbers(sample.answer).reshape(robot_qa.FUTURE, 7)
            np.testing.assert_allclose(
                states[:, 0], 0.01 * (step + 1 + np.arange(robot_qa.FUTURE)), atol=6e-4
            )
    again = bridge.read_qa(tmp_path)
    assert [shade(sample) for sample in records] == [shade(sample) for sample in again]


def droid_episode(steps: int, **changes: Any) -> bytes:
    """Moves right by 1 cm a step and opens the gripper from closed."""
    poses = np.zeros((steps, 6))
    poses[:, 1] = -0.01 * np.arange(steps)
    content = {
        "steps__observation__cartesian_position": poses,
        "steps__observation__gripper_position": np.linspace(1.0, 0.0, steps),
        "steps__observation__exterior_image_1_left": [png(t) for t in range(steps)],
        "steps__language_instruction": [b""] * steps,
    }
    return example(**(content | changes))


def test_droid_questions_turn_the_gripper_round_and_do_without_instruction(tmp_path: Path) -> None:
    nan = np.full((40, 6), np.nan)
    shard_file(
        tmp_path / "1.0.1",
        [
            droid_episode(40),
            droid_episode(15),
            droid_episode(40, steps__observation__cartesian_position=nan),
        ],
    )
    records = droid.read(tmp_path)
    move, state = records[0], records[1]
    assert move.question == robot_qa.MOVE_QUESTION
    assert move.answer == "move right, open the gripper"
    step = shade(state)
    assert numbers(state.answer)[6] == pytest.approx(step / 39, abs=6e-4)
    assert reason(records, robot_qa.SAMPLES_PER_EPISODE) == Reason.TOO_SHORT
    assert reason(records, 2 * robot_qa.SAMPLES_PER_EPISODE) == Reason.NOT_FINITE


@pytest.mark.parametrize(
    ("displacement", "opening", "words"),
    [
        ((0.05, 0.0, 0.0), 0.0, "move forward"),
        ((-0.05, 0.0, 0.0), 0.0, "move backward"),
        ((0.0, 0.05, 0.0), 0.0, "move left"),
        ((0.0, -0.05, -0.03), 0.0, "move right and down"),
        ((0.02, 0.0, 0.06), 0.0, "move up"),
        ((0.009, 0.0, 0.0), 0.0, "stay"),
        ((0.0, 0.0, 0.0), -1.0, "close the gripper"),
        ((0.0, 0.05, 0.0), 1.0, "move left, open the gripper"),
    ],
)
def test_moves_in_words(displacement: tuple[float, ...], opening: float, words: str) -> None:
    assert robot_qa.move_words(np.array(displacement), opening) == words


@settings(max_examples=60, deadline=None)
@given(displacement=hnp.arrays(float, 3, elements=st.floats(-1, 1)))
def test_the_largest_movement_is_mentioned_first_and_its_opposite_is_opposite(
    displacement: np.ndarray,
) -> None:
    words = robot_qa.move_words(displacement, 0.0)
    if np.abs(displacement).max() < robot_qa.STILL:
        assert words == "stay"
        return
    axis = int(np.argmax(np.abs(displacement)))
    there, back = robot_qa.DIRECTIONS[axis][:: 1 if displacement[axis] > 0 else -1]
    assert words.split()[1] == there
    assert robot_qa.move_words(-displacement, 0.0).split()[1] == back


def test_states_have_no_negative_zero() -> None:
    assert robot_qa.state_text(np.array([-0.0001, 1.0])) == "[0.000, 1.000]"


TEXT = (
    "<task:planning:1>current goal is: tidy up Q: immediate next step? "
    "<PRED>A: put the cup away</PRED>"
    "<task:success:freeform>Q: data: satisfied? <PRED:ANSWER:BINARY>A: yes</PRED:ANSWER:BINARY>"
    "<task:broken>Q: and? "
)


def test_robovqa_texts_become_questions() -> None:
    assert robovqa.questions(TEXT) == [
        ("current goal is: tidy up Q: immediate next step?", "put the cup away"),
        ("Q: data: satisfied?", "yes"),
    ]


def test_robovqa_shows_the_last_frame_and_asks_different_questions(tmp_path: Path) -> None:
    folder = tmp_path / "tfrecord" / "train"
    folder.mkdir(parents=True)
    records = [
        robovqa.serialized([png(1), png(2), png(3)], TEXT),
        robovqa.serialized([png(1), b"cut"], TEXT),
        robovqa.serialized([png(1)], "<task:a>Q: nobody answered"),
        robovqa.serialized([], TEXT),
        example(a=[b"no sequence"]),
    ]
    content = b"".join(map(framed, records))
    (folder / "train-00000-of-00002").write_bytes(content)
    (folder / "train-00001-of-00002").write_bytes(content[:7])
    read = robovqa.read(tmp_path)
    assert len(read) == 2 * len(records)
    assert {read[0].answer, read[1].answer} == {"put the cup away", "yes"}
    assert shade(read[0]) == shade(read[1]) == 3
    assert reason(read, 2) == Reason.BAD_PICTURE
    assert [reason(read, i) for i in (4, 6, 8)] == [Reason.BAD_RECORD] * 3
    (cut,) = read.broken
    assert (cut.reason, cut.name) == (
        Reason.CORRUPT_SHARD,
        "robovqa/tfrecord/train/train-00001-of-00002",
    )


@pytest.mark.parametrize("read", [bridge.read_qa, bridge.read_fast, droid.read, robovqa.read])
def test_robot_readers_want_their_folder(read: Any, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(folder)):
            read(folder)


def test_a_truncated_header_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(framed(b"one") + struct.pack("<Q", 3))
    assert "header of record 1" in TfRecordShard(tmp_path / "a", "a").damage
