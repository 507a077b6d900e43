"""The flight recorder's buffer and its files, without ROS running."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hypothesis import given
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rclpy.serialization import serialize_message
from roboalign_msgs.msg import ArmStatus

from roboalign import flight_recorder_file
from roboalign.flight_recorder import (
    Alarm,
    Excerpt,
    FlightRecorder,
    Message,
    ModeWatch,
    RateLimit,
    RecorderLimits,
    Topic,
)
from roboalign.flight_recorder_file import (
    METADATA,
    DiskLimits,
    RecordingFailed,
    prune,
    recordings,
    write_excerpt,
)
from roboalign.flight_recorder_schema import UnknownMessage, definition, installed_definition

STATUS = Topic("/arm_node/status", "roboalign_msgs/msg/ArmStatus")
LATCHED = Topic("/policy_node/instruction", "std_msgs/msg/String", latched=True)
WHEN = datetime(2026, 11, 25, 19, 30, 47, tzinfo=UTC)
NO_RESERVE = DiskLimits(reserve_bytes=0)


def message(arrived: float, size: int = 10, topic: Topic = STATUS) -> Message:
    nanoseconds = round(arrived * 1e9)
    return Message(topic, bytes(size), arrived, nanoseconds, nanoseconds)


def filled(seconds: float, **limits: float) -> FlightRecorder:
    recorder = FlightRecorder(RecorderLimits(**limits))
    for tick in range(round(seconds * 10)):
        recorder.add(message(tick / 10))
    return recorder


def arrivals(excerpt: Excerpt | None) -> list[float]:
    assert excerpt is not None
    return [m.arrived for m in excerpt.messages]


def test_an_excerpt_has_the_time_before_and_after_a_fault() -> None:
    recorder = filled(100.0, before_s=20.0, after_s=5.0)
    recorder.trigger(Alarm("reflex"), 100.0)
    assert recorder.due(104.9) is None
    for tick in range(1000, 1050):
        recorder.add(message(tick / 10))
    excerpt = recorder.due(105.0)
    assert excerpt is not None
    assert excerpt.reasons == ("reflex",)
    assert excerpt.complete
    assert min(arrivals(excerpt)) == pytest.approx(79.9, abs=0.11)
    assert max(arrivals(excerpt)) == pytest.approx(104.9)
    assert recorder.due(200.0) is None


def test_a_fault_upon_another_joins_it_and_the_next_file_goes_on() -> None:
    recorder = filled(50.0, before_s=20.0, after_s=5.0)
    recorder.trigger(Alarm("hold"), 50.0)
    recorder.trigger(Alarm("error"), 52.0)
    recorder.trigger(Alarm("error"), 53.0)
    first = recorder.due(55.0)
    assert first is not None and first.reasons == ("hold", "error")
    recorder.add(message(56.0))
    recorder.trigger(Alarm("hold again"), 57.0)
    assert arrivals(recorder.due(62.0)) == [56.0]


def test_what_is_latched_outlives_the_buffer() -> None:
    recorder = FlightRecorder(RecorderLimits(before_s=10.0))
    recorder.add(message(0.0, topic=LATCHED))
    recorder.add(message(1.0, topic=LATCHED))
    for second in range(2, 300):
        recorder.add(message(float(second)))
    assert arrivals(recorder.take_now("asked for"))[0] == 1.0
    recorder.add(message(301.0))
    assert arrivals(recorder.take_now("again")) == [1.0, 301.0]


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(1, 400)), min_size=1, max_size=60))
def test_memory_and_time_are_bounded_whatever_arrives(steps: Sequence[tuple[float, int]]) -> None:
    limits = RecorderLimits(before_s=40.0, after_s=5.0, memory_bytes=1000)
    recorder, now = FlightRecorder(limits), 0.0
    for pause, size in steps:
        now += pause
        recorder.add(message(now, size))
        assert recorder.bytes <= limits.memory_bytes
    kept = recorder.take_now("end").messages
    assert kept[-1].arrived == now
    assert now - kept[0].arrived <= 45.0
    assert sum(len(m.data) for m in kept) == recorder.bytes


def test_a_flood_shortens_the_time_and_the_excerpt_says_so() -> None:
    recorder = filled(100.0, memory_bytes=1000)
    excerpt = recorder.take_now("asked for")
    assert not excerpt.complete
    assert len(excerpt.messages) == 100


@pytest.mark.parametrize(
    "values", [{"before_s": 0.0}, {"after_s": -1.0}, {"quiet_s": -1.0}, {"memory_bytes": 0}]
)
def test_limits_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        RecorderLimits(**values)


def test_only_a_change_to_a_hold_or_an_error_is_recorded() -> None:
    watch = ModeWatch()
    assert watch.update("holding", "no waypoint") is None
    assert watch.update("tracking", "") is None
    hold = Alarm("tracking to holding: late chunk", fault=False)
    assert watch.update("holding", "late chunk") == hold
    assert watch.update("holding", "late chunk") is None
    assert watch.update("error", "") == Alarm("holding to error", fault=True)
    assert watch.update("moving", "") is None


def test_holds_after_every_chunk_do_not_fill_the_disk_but_a_fault_is_recorded() -> None:
    recorder = filled(50.0, quiet_s=60.0, after_s=0.0)
    recorder.trigger(Alarm("hold", fault=False), 50.0)
    assert recorder.due(50.0) is not None
    recorder.add(message(60.0))
    recorder.trigger(Alarm("hold", fault=False), 60.0)
    assert recorder.due(60.0) is None
    recorder.trigger(Alarm("reflex"), 61.0)
    assert arrivals(recorder.due(61.0)) == [60.0]
    recorder.add(message(130.0))
    recorder.trigger(Alarm("hold", fault=False), 130.0)
    assert recorder.due(130.0) is not None


def test_pictures_are_thinned_out_by_topic() -> None:
    limit = RateLimit(0.2)
    admitted = [limit.admit("/front", now / 10) for now in range(10)]
    assert sum(admitted) == 5
    assert limit.admit("/wrist", 0.0)


def status_excerpt() -> Excerpt:
    text = ArmStatus(mode="holding", reason="late chunk", queue_remaining_s=0.5)
    diagnostics = DiagnosticArray(
        status=[DiagnosticStatus(name="arm", values=[KeyValue(key="a", value="b")])]
    )
    other = Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    messages = (
        Message(STATUS, serialize_message(text), 1.0, 2_000_000_000, 1_999_000_000),
        Message(other, serialize_message(diagnostics), 1.1, 2_100_000_000, 2_100_000_000),
        Message(STATUS, serialize_message(text), 1.2, 2_200_000_000, 2_199_000_000),
    )
    return Excerpt(("tracking to holding: late chunk",), messages, True)


def test_a_file_is_read_back_by_foxgloves_reader(tmp_path: Path) -> None:
    path = write_excerpt(status_excerpt(), tmp_path, WHEN, installed_definition, NO_RESERVE)
    assert path.name == "flight_20261125T193047.mcap"
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        decoded = list(reader.iter_decoded_messages())
        metadata = {record.name: record.metadata for record in reader.iter_metadata()}
    assert [channel.topic for _, channel, _, _ in decoded] == [
        "/arm_node/status", "/diagnostics", "/arm_node/status",
    ]  # fmt: skip
    assert decoded[0][3].reason == "late chunk"
    assert decoded[0][2].log_time == 2_000_000_000
    assert decoded[1][3].status[0].values[0].key == "a"
    assert json.loads(metadata[METADATA]["reasons"]) == ["tracking to holding: late chunk"]


def test_no_file_takes_anothers_name(tmp_path: Path) -> None:
    excerpt = status_excerpt()
    names = {
        write_excerpt(excerpt, tmp_path, WHEN, installed_definition, NO_RESERVE).name
        for _ in range(3)
    }
    assert len(names) == 3
    assert {path.name for path in recordings(tmp_path)} == names


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil._ntuple_diskusage(2**30, 2**30, 1000)
    monkeypatch.setattr(flight_recorder_file.shutil, "disk_usage", lambda path: free)
    with pytest.raises(RecordingFailed, match="make room there"):
        write_excerpt(status_excerpt(), tmp_path, WHEN, installed_definition)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flight_recorder_file.os, "fsync", refuse)
    with pytest.raises(RecordingFailed, match="No space left on device"):
        write_excerpt(status_excerpt(), tmp_path, WHEN, installed_definition, NO_RESERVE)
    assert not list(tmp_path.iterdir())


def test_nothing_heard_is_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(RecordingFailed, match="no message"):
        write_excerpt(Excerpt(("asked for",), (), True), tmp_path, WHEN, installed_definition)


def test_the_oldest_recordings_make_room(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"flight_{number}.mcap").write_bytes(bytes(100))
    (tmp_path / "mine.mcap").write_bytes(bytes(1000))
    prune(tmp_path, 250)
    assert [path.name for path in recordings(tmp_path)] == ["flight_2.mcap", "flight_3.mcap"]
    prune(tmp_path, 0)
    assert [path.name for path in recordings(tmp_path)] == ["flight_3.mcap"]
    assert (tmp_path / "mine.mcap").exists()


def test_definitions_hold_every_part_once(tmp_path: Path) -> None:
    text = installed_definition("geometry_msgs/msg/PoseStamped")
    parts = [line for line in text.splitlines() if line.startswith("MSG: ")]
    assert parts == [
        "MSG: std_msgs/Header", "MSG: geometry_msgs/Pose", "MSG: builtin_interfaces/Time",
        "MSG: geometry_msgs/Point", "MSG: geometry_msgs/Quaternion",
    ]  # fmt: skip
    folder = tmp_path / "msg"
    folder.mkdir()
    (folder / "Outer.msg").write_text("string<=10 NAME='x/y' # pkg/Not\nInner[<=4] many\n")
    (folder / "Inner.msg").write_text("float32[3] values\n")
    assert "MSG: pkg/Inner" in definition("pkg/msg/Outer", lambda package: tmp_path)
    with pytest.raises(UnknownMessage, match="no definition of pkg/msg/None"):
        definition("pkg/msg/None", lambda package: tmp_path)
