"""The wire: what goes in comes out, and nothing else than WireError comes of anything else."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from strategies import floats, joints, poses, vectors

from contracts import wire
from contracts.action import ActionChunk
from contracts.observation import CameraFrame, Observation, RobotState
from contracts.wire import WireError

stamps = floats(0, 2e9)
numeric = st.sampled_from(
    ["u1", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "?", ">f4"]
).flatmap(
    lambda dtype: arrays(
        np.dtype(dtype), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    )
)
pictures = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda size: arrays(np.uint8, (*size, 3))
)
observations = st.builds(
    Observation,
    instruction=st.text(min_size=1, max_size=60).filter(str.strip),
    frames=st.dictionaries(
        st.text(max_size=8), st.builds(CameraFrame, pictures, stamps), min_size=1, max_size=3
    ),
    state=st.builds(
        RobotState,
        pose=poses,
        joint_positions=joints,
        joint_velocities=vectors(7),
        gripper_opening=floats(0, 1),
        stamp=stamps,
    ),
    stamp=stamps,
)
chunks = st.integers(1, 6).flatmap(
    lambda n: st.builds(
        ActionChunk,
        chunk_id=st.text(max_size=12),
        observation_stamp=stamps,
        time_step=floats(0.001, 10),
        poses=st.lists(poses, min_size=n, max_size=n).map(np.array),
        gripper=vectors(n, 0.0, 1.0),
    )
)


@given(numeric)
def test_arrays_survive(array: np.ndarray) -> None:
    back = wire.unpack(wire.pack({"a": [array]}))["a"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@given(
    st.sampled_from(
        [np.float32(1.5), np.int64(-3), np.bool_(True), np.uint8(255), np.float32("nan")]
    )
)
def test_numpy_scalars_survive(value: np.generic) -> None:
    back = wire.unpack(wire.pack(value))
    assert back.dtype == value.dtype
    np.testing.assert_array_equal(back, value)


@settings(max_examples=50)
@given(observations, st.dictionaries(st.sampled_from(["steps", "seed"]), st.integers(0, 99)))
def test_observations_survive(observation: Observation, options: dict[str, int]) -> None:
    message = wire.unpack(wire.pack(wire.observation_to_message(observation, options)))
    back, back_options = wire.observation_from_message(message)
    assert back_options == options
    assert (back.instruction, back.stamp) == (observation.instruction, observation.stamp)
    assert list(back.frames) == list(observation.frames)
    for name, frame in observation.frames.items():
        np.testing.assert_array_equal(back.frames[name].image, frame.image)
        assert back.frames[name].stamp == frame.stamp
    for name, value in vars(observation.state).items():
        np.testing.assert_allclose(getattr(back.state, name), value, atol=1e-15)


@settings(max_examples=50)
@given(chunks)
def test_chunks_survive(chunk: ActionChunk) -> None:
    back = wire.chunk_from_message(wire.unpack(wire.pack(wire.chunk_to_message(chunk))))
    for name, value in vars(chunk).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(getattr(back, name), value, atol=1e-15)
        else:
            assert getattr(back, name) == value


def example() -> dict[str, object]:
    picture = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    state = RobotState(np.array([0.5, 0, 0.3, 1, 0, 0, 0]), np.zeros(7), np.zeros(7), 0.5, 1.0)
    return wire.observation_to_message(
        Observation("go", {"front": CameraFrame(picture, 1.0)}, state, 1.0)
    )


EXAMPLE = wire.pack(example())


def read(data: bytes) -> None:
    """Both readers on whatever unpacks; only WireError may come out."""
    try:
        message = wire.unpack(data)
    except WireError:
        return
    for reader in (wire.request_from_message, wire.chunk_from_message):
        with suppress(WireError):
            reader(message)


@settings(max_examples=30)
@given(observations, st.none() | chunks, st.none() | floats(1e-6, wire.MAX_DEADLINE_S))
def test_requests_survive(
    observation: Observation, previous: ActionChunk | None, deadline: float | None
) -> None:
    request = wire.ActionRequest(observation, {"delay": 3}, previous, deadline)
    back = wire.request_from_message(wire.unpack(wire.pack(wire.request_to_message(request))))
    assert (back.options, back.deadline) == (request.options, deadline)
    assert back.observation.instruction == observation.instruction
    assert (back.previous is None) == (previous is None)
    if previous is not None and back.previous is not None:
        assert back.previous.chunk_id == previous.chunk_id
        assert back.previous.observation_stamp == previous.observation_stamp
        np.testing.assert_allclose(back.previous.poses, previous.poses, atol=1e-15)


def test_encoder_encodes_as_pack_does_even_if_its_last_message_is_still_held() -> None:
    encoder, held = wire.Encoder(), []
    for size in (1, 5, 300_000, 2):
        message = example() | {"size": np.zeros(size, np.uint8)}
        held.append(encoder.encode(message))
        assert bytes(held[-1]) == wire.pack(message)
    held.clear()
    assert bytes(encoder.encode(7)) == wire.pack(7)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"images": {str(n): np.zeros((2, 2, 3), np.uint8) for n in range(9)}}, "9 images"),
        ({"images": {"x" * 65: np.zeros((2, 2, 3), np.uint8)}}, "64 characters"),
        ({"images": {7: np.zeros((2, 2, 3), np.uint8)}}, "must be text"),
        ({"images": {"a": np.zeros((4097, 1, 3), np.uint8)}}, "at most 4096 a side"),
        ({"images": {"a": [[[0]]]}}, "must be an array"),
        ({"previous": 3}, "'previous'"),
        ({"previous": {"actions": np.zeros((2, 8))}}, "'previous'"),
        ({"deadline": 0}, "'deadline'"),
        ({"deadline": float("nan")}, "'deadline'"),
        ({"deadline": True}, "'deadline'"),
        ({"deadline": "soon"}, "'deadline'"),
    ],
)
def test_requests_beyond_the_limits_are_refused(changes: dict[str, object], match: str) -> None:
    message = wire.unpack(wire.pack(example() | changes))
    with pytest.raises(WireError, match=match):
        wire.request_from_message(message)


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 600,
        b"\xdc\x02\x00" + b"\x80" * 512,
        msgpack.packb(list(range(300))),
        msgpack.packb({n: n for n in range(300)}),
        msgpack.packb("x" * 20_000),
        msgpack.packb(msgpack.ExtType(4, b"x")),
        msgpack.packb([[[]] * 200] * 200),
    ],
)
def test_what_would_grow_in_memory_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.unpack(data)


@given(st.binary(max_size=200))
def test_garbage_raises_wire_error_only(data: bytes) -> None:
    read(data)


@pytest.mark.parametrize("length", range(0, len(EXAMPLE), 7))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(WireError):
        wire.unpack(EXAMPLE[:length])


@settings(max_examples=300)
@given(st.integers(0, len(EXAMPLE) - 1), st.integers(1, 255))
def test_a_damaged_byte_raises_wire_error_only(place: int, flip: int) -> None:
    data = bytearray(EXAMPLE)
    data[place] ^= flip
    read(bytes(data))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | numeric,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(
    st.sampled_from(
        ["instruction", "stamp", "images", "image_stamps", "state", "options"]
        + ["previous", "deadline"]
    ),
    anything,
)
def test_a_field_of_another_type_raises_wire_error_only(name: str, value: object) -> None:
    read(wire.pack(example() | {name: value}))


@settings(max_examples=200)
@given(
    st.sampled_from(["pose", "joint_positions", "joint_velocities", "gripper_opening", "stamp"]),
    anything,
)
def test_a_state_field_of_another_type_raises_wire_error_only(name: str, value: object) -> None:
    message = example()
    read(wire.pack(message | {"state": message["state"] | {name: value}}))


@given(
    st.text("<>=|()[],0123f4iubeMVSO?@", max_size=4) | st.binary(max_size=4), st.binary(max_size=8)
)
def test_any_dtype_is_numeric_or_refused(dtype: str | bytes, data: bytes) -> None:
    packed = msgpack.packb(
        {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": [len(data)]}
    )
    with suppress(WireError):
        assert wire.unpack(packed).dtype.kind in "biuf"


@pytest.mark.parametrize(
    "fields",
    [
        {b"dtype": "|O", b"shape": [1], b"data": b"x"},
        {b"dtype": ",", b"shape": [1], b"data": b"x"},
        {b"dtype": "|u1", b"shape": [-1], b"data": b"x"},
        {b"dtype": "|u1", b"shape": [2], b"data": b"x"},
        {b"dtype": "|u1", b"shape": [2**40, 0], b"data": b""},
        {b"dtype": "|u1", b"shape": [1] * 9, b"data": b"x"},
        {b"dtype": "|u1", b"shape": "x", b"data": b"x"},
        {b"dtype": "|u1", b"shape": [1], b"data": "x"},
        {b"dtype": None, b"shape": [1], b"data": b"x"},
    ],
)
def test_arrays_that_lie_are_refused(fields: dict[bytes, object]) -> None:
    with pytest.raises(WireError):
        wire.unpack(msgpack.packb({b"__ndarray__": True} | fields))


@pytest.mark.parametrize(
    ("dtype", "data"), [("|u1", 300), ("<i4", None), ("<f4", [1, 2]), ("<f4", {}), ("|O", 1)]
)
def test_numbers_that_lie_are_refused(dtype: str, data: object) -> None:
    with pytest.raises(WireError):
        wire.unpack(msgpack.packb({b"__npgeneric__": True, b"dtype": dtype, b"data": data}))


def test_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError, match="at most"):
        wire.unpack(bytes(wire.MAX_MESSAGE_BYTES + 1))


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array(["a"]), object(), np.complex64(1)]
)
def test_only_numbers_can_be_sent(value: object) -> None:
    with pytest.raises(WireError, match="cannot be sent"):
        wire.pack({"x": value})


def test_minimal_request_has_defaults() -> None:
    message = example()
    for name in ("stamp", "image_stamps", "options"):
        del message[name]
    message["state"] = {name: message["state"][name] for name in ("pose", "gripper_opening")}
    observation, options = wire.observation_from_message(message)
    assert (observation.stamp, options) == (0.0, {})
    np.testing.assert_array_equal(observation.state.joint_positions, np.zeros(7))


@pytest.mark.parametrize("name", ["instruction", "images", "state"])
def test_missing_field_is_named(name: str) -> None:
    message = example()
    del message[name]
    with pytest.raises(WireError, match=f"'{name}' is missing"):
        wire.observation_from_message(message)
