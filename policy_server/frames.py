"""Websocket frames without copies: what one connection has read, turned into messages.

A request is one masked binary frame of some hundred kilobytes. websockets' own parser copies it
four times; here the kernel writes it where it stays and it is unmasked in place while the rest of
it still travels. Every other frame (text, fragments, ping, close) and every error is the library's
business: it gets those frames unchanged.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

SCRATCH_BYTES = 16 * 2**10
KEPT_BYTES = 2**20
"""A larger message's buffer is given back at once, so that idle clients hold little memory."""
LONGEST_HEADER = 14
HEADER_ROOM = 16
"""Place for a header before a payload, which then begins at a whole word."""
WHOLE_BINARY = 0x82
MASKED = 0x80

Message = memoryview | str


class FrameHeader(NamedTuple):
    """Start of a frame: its first byte (flags and opcode), its size and its mask, if it has one."""

    first: int
    header_bytes: int
    length: int
    mask: bytes | None

    @property
    def control(self) -> bool:
        return bool(self.first & 0x08)

    @property
    def final(self) -> bool:
        return bool(self.first & 0x80)


def parse_header(data: bytes | bytearray | memoryview) -> FrameHeader | None:
    """Header at the start of `data`; None if it is not complete."""
    if len(data) < 2:
        return None
    length, size = data[1] & 0x7F, 2
    if length >= 126:
        form, size = ("!H", 4) if length == 126 else ("!Q", 10)
        if len(data) < size:
            return None
        length = struct.unpack_from(form, data, 2)[0]
    if not data[1] & MASKED:
        return FrameHeader(data[0], size, length, None)
    if len(data) < size + 4:
        return None
    return FrameHeader(data[0], size + 4, length, bytes(data[size : size + 4]))


def binary_header(length: int, mask: bytes | None = None) -> bytes:
    """Header of one whole binary frame."""
    masked = 0 if mask is None else MASKED
    if length < 126:
        head = struct.pack("!BB", WHOLE_BINARY, masked | length)
    elif length < 2**16:
        head = struct.pack("!BBH", WHOLE_BINARY, masked | 126, length)
    else:
        head = struct.pack("!BBQ", WHOLE_BINARY, masked | 127, length)
    return head + (mask or b"")


class MaskedBuffer:
    """Room for one message of known length, unmasked in place as it fills.

    `frame` is the whole frame's place, the payload's header included; `view` is the payload's.
    """

    def __init__(self, length: int, masked: bool = True) -> None:
        self.length = length
        self.masked = masked
        # Whole words, for a mask applied eight bytes at a time.
        room = np.empty((HEADER_ROOM + length + 7) // 8, np.uint64)
        self._words = room[HEADER_ROOM // 8 :]
        header = len(binary_header(length, bytes(4) if masked else None))
        self.frame = memoryview(room).cast("B")[HEADER_ROOM - header : HEADER_ROOM + length]
        self.view = self.frame[header:]
        self.filled = 0
        self._done_words = 0
        self._mask = np.uint64(0)

    def start(self, mask: bytes | None) -> None:
        """Forget the content; `mask` is the next one's, if this is `masked`."""
        self.filled = self._done_words = 0
        if mask is not None:
            self._mask = np.frombuffer(mask * 2, np.uint64)[0]

    def room(self) -> memoryview:
        """Where the next bytes go."""
        return self.view[self.filled :]

    def advance(self, count: int) -> bool:
        """`count` more bytes are there; whether the message is complete."""
        self.filled += count
        complete = self.filled == self.length
        if not self.masked:
            return complete
        end = len(self._words) if complete else self.filled // 8
        words = self._words[self._done_words : end]
        np.bitwise_xor(words, self._mask, out=words)
        self._done_words = end
        return complete


def fits(buffer: MaskedBuffer, header: FrameHeader) -> bool:
    """Whether the message that begins so goes into `buffer`."""
    return buffer.length == header.length and buffer.masked == (header.mask is not None)


class MessageReader:
    """Messages of one client; `protocol` has done the handshake and answers what is not data.

    Call `get_buffer`, fill some of it, then `received`. A memoryview among the messages stays as it
    is until `release`, after which its place is used again.
    """

    def __init__(self, protocol: ServerProtocol, max_bytes: int) -> None:
        self._protocol = protocol
        self._max_bytes = max_bytes
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._header = bytearray()
        self._large: MaskedBuffer | None = None
        self._kept: MaskedBuffer | None = None
        self._finished: MaskedBuffer | None = None
        self._offered = False
        self._passing = 0
        self._fragments: list[bytes] = []
        self._fragmented = False
        self._text = False
        self.unmasked = False
        """Whether whole binary messages may come without a mask (`no_masking`)."""
        self.others = False
        """Set when there were frames for the library: it may want to answer, or to hang up."""
        self.too_large = 0
        """Size of a message that is larger than allowed; nothing is read after it."""

    @property
    def within_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._large or self._header or self._passing or self._fragmented)

    @property
    def within_payload(self) -> bool:
        """Whether the next bytes belong to a message whose header has been read."""
        return self._large is not None

    def get_buffer(self) -> memoryview:
        """Where the next bytes of the connection go."""
        if self._large is not None:
            return self._large.room()
        kept = self._kept
        # A client's messages are mostly of one size: the next one is read to its final place.
        self._offered = kept is not None and kept.length > SCRATCH_BYTES and not self.within_message
        return kept.frame if kept is not None and self._offered else self._scratch

    def release(self) -> None:
        """The messages so far are of no more use."""
        if self._finished is not None:
            self._kept, self._finished = self._finished, None

    def received(self, count: int) -> list[Message]:
        """Messages that `count` more bytes complete; look at the protocol's state afterwards."""
        messages: list[Message] = []
        if self._large is not None:
            self._advance(self._large, count, messages)
            return messages
        data = self._scratch[:count]
        if self._offered and self._kept is not None:
            self._offered, kept = False, self._kept
            header = parse_header(kept.frame[: min(count, LONGEST_HEADER)])
            if header is not None and self._whole(header) and fits(kept, header):
                self._large, self._kept = kept, None
                kept.start(header.mask)
                self._advance(kept, count - header.header_bytes, messages)
                return messages
            data = memoryview(bytes(kept.frame[:count]))
        while data and not self.too_large and self._protocol.parser_exc is None:
            if self._passing:
                part, data = data[: self._passing], data[self._passing :]
                self._passing -= len(part)
                self._pass_on(bytes(part), messages)
            else:
                data = self._begin(data, messages)
        return messages

    def _begin(self, data: memoryview, messages: list[Message]) -> memoryview:
        """Read a frame's header, and the payload if it is a whole message; what is left over."""
        before = len(self._header)
        self._header += data[: LONGEST_HEADER - before]
        header = parse_header(self._header)
        if header is None:
            return data[len(self._header) - before :]
        data = data[header.header_bytes - before :]
        raw = bytes(self._header[: header.header_bytes])
        self._header.clear()
        if header.length > self._max_bytes:
            self.too_large = header.length
            return data
        if self._whole(header) and not self._fragmented:
            buffer = self._buffer(header)
            buffer.start(header.mask)
            part = data[: header.length]
            buffer.view[: len(part)] = part
            self._large = buffer
            self._advance(buffer, len(part), messages)
            return data[len(part) :]
        self._passing = header.length
        if not header.control:
            self._fragmented = not header.final
        self._pass_on(raw, messages)
        return data

    def _whole(self, header: FrameHeader) -> bool:
        masked = header.mask is not None or self.unmasked
        return header.first == WHOLE_BINARY and masked and header.length > 0

    def _buffer(self, header: FrameHeader) -> MaskedBuffer:
        kept, self._kept = self._kept, None
        if kept is not None and fits(kept, header):
            return kept
        return MaskedBuffer(header.length, header.mask is not None)

    def _advance(self, buffer: MaskedBuffer, count: int, messages: list[Message]) -> None:
        if not buffer.advance(count):
            return
        self._large = None
        messages.append(buffer.view)
        self._finished = buffer if buffer.length <= KEPT_BYTES else None

    def _pass_on(self, data: bytes, messages: list[Message]) -> None:
        self.others = True
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._text = event.opcode is Opcode.TEXT
                self._fragments = []
            elif event.opcode is not Opcode.CONT:
                continue
            self._fragments.append(bytes(event.data))
            if event.fin:
                whole = b"".join(self._fragments)
                self._fragments = []
                messages.append(whole.decode(errors="replace") if self._text else memoryview(whole))
