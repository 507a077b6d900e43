"""What the layouts write and read is what `contracts.wire` does, byte for byte, or left to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts import wire
from contracts.action import ActionChunk
from contracts.observation import CameraFrame, Observation, RobotState
from contracts.wire import ActionRequest, WireError
from policy_server.answer_layout import LastAnswerLayout, ServedChunk
from policy_server.request_layout import LastLayout, RequestForm, RequestLayout

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
numbers = st.floats(0.0, 1e12)
names = st.text(min_size=1, max_size=40)
angles = st.floats(-10.0, 10.0)


@st.composite
def chunks(draw: st.DrawFn) -> ActionChunk:
    horizon = draw(st.integers(1, 20))
    poses = np.tile([0.5, 0.0, draw(angles), 0.0, 0.0, 0.0, 1.0], (horizon, 1))
    step, opening = draw(st.floats(0.001, 10.0)), draw(st.floats(0.0, 1.0))
    return ActionChunk(draw(names), draw(numbers), step, poses, np.full(horizon, opening))


@st.composite
def requests(draw: st.DrawFn, form: RequestForm) -> ActionRequest:
    """Any request of this form."""
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    frames = {
        name: CameraFrame(random.integers(0, 256, (h, w, 3), dtype=np.uint8), draw(numbers))
        for name, h, w in form.pictures
    }
    quaternion = random.standard_normal(4)
    pose = np.array([*random.standard_normal(3), *(quaternion / np.linalg.norm(quaternion))])
    joints = random.standard_normal((2, 7))
    opening = draw(st.floats(-0.05, 1.05))
    state = RobotState(pose, joints[0], joints[1], opening, draw(numbers))
    options = draw(st.dictionaries(st.sampled_from(["seed", "steps", "delay"]), st.integers(0, 99)))
    deadline = draw(st.none() | st.floats(0.001, 3600.0))
    previous = draw(st.none() | chunks())
    seen = Observation(form.instruction, frames, state, draw(numbers))
    return ActionRequest(seen, options, previous, deadline)


forms = st.builds(
    RequestForm,
    st.text(min_size=1, max_size=300).filter(str.strip),
    st.lists(
        st.tuples(names, st.integers(1, 300), st.integers(1, 9)),
        min_size=1,
        max_size=3,
        unique_by=lambda picture: picture[0],
    ).map(tuple),
)


def packed(request: ActionRequest) -> bytes:
    return wire.pack(wire.request_to_message(request))


@settings(patient, max_examples=25)
@given(st.data(), forms)
def test_requests_are_written_and_read_as_the_wire_does(
    data: st.DataObject, form: RequestForm
) -> None:
    layout = RequestLayout(form)
    for _ in range(3):
        request = data.draw(requests(form))
        message = b"".join(layout.write(request))
        assert message == packed(request)
        found = layout.read(memoryview(message))
        assert found is not None
        assert packed(found) == packed(wire.request_from_message(wire.unpack(message)))


SMALL = RequestForm("go", (("front", 4, 5), ("wrist", 3, 3)))


def small_request(**changes: object) -> ActionRequest:
    request = ActionRequest(SMALL.example(), {"seed": 3}, None, 5.0)
    return replace(request, **changes)


@settings(patient, max_examples=100)
@given(st.data())
def test_a_changed_byte_is_read_as_the_wire_reads_it(data: st.DataObject) -> None:
    """Whatever the layout takes, the wire takes too, and understands the same."""
    message = bytearray(packed(small_request()))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    found = RequestLayout(SMALL).read(memoryview(message))
    if found is not None:
        assert packed(found) == packed(wire.request_from_message(wire.unpack(bytes(message))))


@patient
@given(st.integers(0, 2000))
def test_a_message_of_another_length_is_not_read_past_its_end(length: int) -> None:
    message = packed(small_request()) + bytes(1000)
    if length != len(message) - 1000:
        assert RequestLayout(SMALL).read(memoryview(message)[:length]) is None


def no_numbers(message: dict[str, object]) -> None:
    message["state"]["pose"] = np.full(7, np.nan)


def no_rotation(message: dict[str, object]) -> None:
    message["state"]["pose"] = np.array([0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0])


def late(message: dict[str, object]) -> None:
    message["deadline"] = -1.0


def more(message: dict[str, object]) -> None:
    message["instructions"] = "another field"


@pytest.mark.parametrize("change", [no_numbers, no_rotation, late, more])
def test_what_is_not_valid_is_left_to_the_wire(change: Callable[[dict], None]) -> None:
    message = wire.request_to_message(small_request())
    change(message)
    assert RequestLayout(SMALL).read(memoryview(wire.pack(message))) is None


def test_a_layout_is_kept_from_the_second_time_on_and_as_long_as_it_fits() -> None:
    last, seen = LastLayout(), SMALL.example()
    assert last.of(seen) is None
    layout = last.of(seen)
    assert layout is not None
    assert last.of(seen) is layout
    other = replace(seen, instruction="stop")
    assert last.of(other) is None
    assert last.of(seen) is None


def test_pictures_are_views_of_the_message() -> None:
    message = bytearray(packed(small_request()))
    found = RequestLayout(SMALL).read(memoryview(message))
    assert found is not None
    picture = found.observation.frames["wrist"].image
    assert picture.max() == 0
    message[:] = b"\x07" * len(message)
    assert (picture == 7).all()


timings = st.dictionaries(st.text(max_size=20), numbers, max_size=5)


@settings(patient, max_examples=60)
@given(chunks(), timings, names, st.lists(numbers, min_size=1, max_size=3))
def test_answers_are_written_and_read_as_the_wire_does(
    chunk: ActionChunk, timing: dict[str, float], bundle_hash: str, stamps: list[float]
) -> None:
    writer, reader = LastAnswerLayout(), LastAnswerLayout()
    for stamp in stamps:
        changed = replace(chunk, observation_stamp=stamp)
        served = ServedChunk(changed, dict.fromkeys(timing, stamp), bundle_hash)
        message = writer.write(served)
        assert message == wire.pack(served.message())
        assert wire.pack(reader.read(message).message()) == message


def test_what_is_no_answer_is_an_error() -> None:
    reader = LastAnswerLayout()
    chunk = ActionChunk("a", 0.0, 0.1, np.array([[0, 0, 0, 0, 0, 0, 1.0]]), np.zeros(1))
    message = wire.pack(ServedChunk(chunk, {"queue": 1.0}, "hash").message())
    reader.read(message)
    for wrong in (
        b"\xc1",
        wire.pack({"actions": 1}),
        message[:-1],
        message.replace(b"\xcb", b"\xc0"),
    ):
        with pytest.raises(WireError):
            reader.read(wrong)
    timing_is_text = wire.pack(wire.chunk_to_message(chunk) | {"server_timing": "1 ms"})
    with pytest.raises(WireError, match="server_timing"):
        reader.read(timing_is_text)
