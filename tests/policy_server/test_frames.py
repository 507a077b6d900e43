"""Frames: however the network cuts them, the messages are those that were sent."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from policy_server.frames import SCRATCH_BYTES, Message, MessageReader, binary_header, parse_header

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MAX_BYTES = 100_000
binaries = st.binary(max_size=400) | st.builds(
    lambda start, size: start + bytes(range(256)) * (size // 256),
    st.binary(max_size=9),
    st.integers(1000, 60_000),
)


def reader() -> tuple[MessageReader, ServerProtocol]:
    protocol = ServerProtocol(max_size=MAX_BYTES, state=State.OPEN)
    return MessageReader(protocol, MAX_BYTES), protocol


def read(data: bytes, cuts: list[int]) -> tuple[list[bytes | str], ServerProtocol]:
    """Messages in `data`, which arrives in pieces of `cuts` bytes, in turn."""
    received, protocol = reader()
    found: list[bytes | str] = []
    place = turn = 0
    while place < len(data):
        room = received.get_buffer()
        assert len(room)
        count = min(len(room), cuts[turn % len(cuts)], len(data) - place)
        room[:count] = data[place : place + count]
        found += [copied(message) for message in received.received(count)]
        place, turn = place + count, turn + 1
    assert not received.within_message or protocol.parser_exc is not None
    return found, protocol


def copied(message: Message) -> bytes | str:
    return message if isinstance(message, str) else bytes(message)


def framed(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


@settings(patient, max_examples=60)
@given(st.lists(binaries, min_size=1, max_size=4), st.lists(st.integers(1, 40_000), min_size=1))
def test_binary_messages_survive_any_cut(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(framed(Opcode.BINARY, message) for message in messages)
    assert read(data, cuts)[0] == messages


@settings(patient, max_examples=60)
@given(st.data(), st.lists(st.integers(1, 3000), min_size=1))
def test_the_other_frames_go_between_them(data: st.DataObject, cuts: list[int]) -> None:
    sent, expected = b"", []
    pongs = 0
    for kind in data.draw(st.lists(st.sampled_from("btfp"), min_size=1, max_size=6)):
        content = data.draw(binaries)
        if kind == "b":
            sent += framed(Opcode.BINARY, content)
            expected.append(content)
        elif kind == "t":
            sent += framed(Opcode.TEXT, b"text")
            expected.append("text")
        elif kind == "p":
            sent += framed(Opcode.PING, content[:100])
            pongs += 1
        else:
            middle = len(content) // 2
            sent += framed(Opcode.BINARY, content[:middle], fin=False)
            sent += framed(Opcode.PING, b"within")
            sent += framed(Opcode.CONT, content[middle:])
            expected.append(content)
            pongs += 1
    found, protocol = read(sent, cuts)
    assert found == expected
    assert protocol.parser_exc is None
    assert sum(part[0] == 0x8A for part in protocol.data_to_send()) == pongs


@patient
@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(1, 50), min_size=1))
def test_garbage_is_a_protocol_error_or_nothing(data: bytes, cuts: list[int]) -> None:
    received, protocol = reader()
    place = turn = 0
    while place < len(data) and protocol.parser_exc is None and not received.too_large:
        room = received.get_buffer()
        count = min(len(room), cuts[turn % len(cuts)], len(data) - place)
        room[:count] = data[place : place + count]
        received.received(count)
        place, turn = place + count, turn + 1


@settings(patient, max_examples=20)
@given(
    st.lists(st.tuples(binaries, st.booleans()), min_size=1, max_size=6),
    st.lists(st.integers(1, 20) | st.integers(1, 40_000), min_size=1),
    st.booleans(),
)
def test_messages_of_one_size_keep_their_place(
    messages: list[tuple[bytes, bool]], cuts: list[int], released: bool
) -> None:
    """Where both ends have agreed on it (`no_masking`), a message may come without a mask."""
    received, protocol = reader()
    received.unmasked = True
    large = bytes(SCRATCH_BYTES * 2)
    sent = [(content, masked) for pair in messages for content, masked in (pair, (large, False))]
    for number, (content, masked) in enumerate(sent):
        found: list[Message] = []
        data = Frame(Opcode.BINARY, content).serialize(mask=masked or not content)
        cut = cuts[number % len(cuts)]
        while data:
            room = received.get_buffer()
            count = min(len(room), cut, len(data))
            cut = len(data)
            room[:count] = data[:count]
            found += received.received(count)
            data = data[count:]
        assert [copied(message) for message in found] == [content]
        if released:
            received.release()
    assert protocol.parser_exc is None


def test_a_message_stays_as_it_is_until_it_is_released() -> None:
    received, _ = reader()
    kept = []
    for byte in (1, 2, 3):
        data = framed(Opcode.BINARY, bytes([byte]) * 50_000)
        while data:
            room = received.get_buffer()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            kept += received.received(count)
            data = data[count:]
        if byte == 2:
            received.release()
    assert bytes(kept[0]) == b"\x01" * 50_000
    assert bytes(kept[1]) == b"\x03" * 50_000, "the second one's place is used again"


def test_unmasked_data_is_refused() -> None:
    _, protocol = read(Frame(Opcode.BINARY, b"x" * 50).serialize(mask=False), [1000])
    assert protocol.parser_exc is not None
    assert protocol.state is not State.OPEN


@pytest.mark.parametrize("fragmented", [False, True])
def test_too_large_is_seen_in_the_header(fragmented: bool) -> None:
    received, _ = reader()
    start = framed(Opcode.BINARY, bytes(MAX_BYTES + 1), fin=not fragmented)[:SCRATCH_BYTES]
    received.get_buffer()[: len(start)] = start
    assert received.received(len(start)) == []
    assert received.too_large == MAX_BYTES + 1


@patient
@given(st.integers(0, 2**40), st.none() | st.binary(min_size=4, max_size=4))
def test_header_is_parsed_as_it_was_made(length: int, mask: bytes | None) -> None:
    header = binary_header(length, mask)
    for end in range(len(header)):
        assert parse_header(header[:end]) is None
    found = parse_header(header)
    assert found is not None
    assert (found.header_bytes, found.length, found.mask) == (len(header), length, mask)


def test_the_library_reads_what_is_written_here() -> None:
    client = ClientProtocol(parse_uri("ws://host/"), state=State.OPEN)
    for size in (0, 125, 126, 65535, 65536):
        client.receive_data(binary_header(size) + bytes(size))
        (frame,) = client.events_received()
        assert (frame.opcode, len(frame.data)) == (Opcode.BINARY, size)
