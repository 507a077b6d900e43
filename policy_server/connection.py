"""A websocket for one blocking caller: no thread of its own, one copy of what is sent.

websockets' own blocking client reads in a second thread, which costs two changes of threads for
each answer. Here the caller's thread does all: the library shakes hands and answers what is not
data; frames with whole messages are taken and made at this place.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from collections.abc import Mapping, Sequence

import numpy as np
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.uri import parse_uri

from policy_server import no_masking
from policy_server.frames import HEADER_ROOM, WHOLE_BINARY, FrameHeader, binary_header, parse_header
from policy_server.no_masking import OfferNoMasking

RECEIVE_BYTES = 64 * 2**10
CLOSE_TIMEOUT_S = 0.5
LARGEST_HANDSHAKE = 64 * 2**10
_END_OF_HEADERS = b"\r\n\r\n"


class BlockingWebSocket:
    """One open connection. Deadlines are of `time.monotonic`.

    Every method raises OSError (TimeoutError is one) if the connection is lost or the deadline
    passes; the connection is then of no more use.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        deadline: float,
        max_bytes: int,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """Connect and shake hands; `trust` is for wss, by default the system's certificates.

        Raises:
            OSError: not there in time.
            InvalidHandshake: there, but refuses (InvalidStatus) or does not speak websocket.
        """
        self._max_bytes = max_bytes
        self._received = b""
        self._fragments = b""
        self._text = False
        self._send_buffer = np.empty(0, np.uint64)
        uri = parse_uri(url)
        self._protocol = ClientProtocol(uri, max_size=max_bytes, extensions=[OfferNoMasking()])
        self._unmasked = False
        self._socket = socket.create_connection((uri.host, uri.port), _remaining(deadline))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if uri.secure:
                context = trust or ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=uri.host)
            self._shake_hands(headers, deadline)
        except BaseException:
            self._socket.close()
            raise

    def send(self, parts: Sequence[bytes | memoryview], deadline: float) -> None:
        """Send one binary message, which may be in parts."""
        length = sum(map(len, parts))
        if self._unmasked:
            self._send_all([binary_header(length), *parts], deadline)
        else:
            self._send_all([self._masked(parts, length)], deadline)

    def _masked(self, parts: Sequence[bytes | memoryview], length: int) -> memoryview:
        """The whole frame, in one piece."""
        mask = secrets.token_bytes(4)
        header = binary_header(length, mask)
        words = (length + 7) // 8
        if len(self._send_buffer) != words + HEADER_ROOM // 8:
            self._send_buffer = np.empty(words + HEADER_ROOM // 8, np.uint64)
        view = memoryview(self._send_buffer).cast("B")
        start, end = HEADER_ROOM - len(header), HEADER_ROOM
        view[start:HEADER_ROOM] = header
        for part in parts:
            view[end : end + len(part)] = part
            end += len(part)
        body = self._send_buffer[HEADER_ROOM // 8 :]
        np.bitwise_xor(body, np.frombuffer(mask * 2, np.uint64)[0], out=body)
        return view[start:end]

    def _send_all(self, parts: Sequence[bytes | memoryview], deadline: float) -> None:
        self._socket.settimeout(_remaining(deadline))
        # TLS has no way to send parts at once, and copies them anyhow.
        secure = isinstance(self._socket, ssl.SSLSocket)
        sent = 0 if secure else self._socket.sendmsg(parts)
        if sent < sum(map(len, parts)):
            self._socket.settimeout(_remaining(deadline))
            self._socket.sendall(memoryview(b"".join(parts))[sent:])

    def receive(self, deadline: float) -> bytes | memoryview | str:
        """The next message, binary or text."""
        while True:
            header = parse_header(self._received)
            if header is not None and header.length > self._max_bytes:
                raise ConnectionError(f"the server announced {header.length} bytes")
            if header is None or len(self._received) < header.header_bytes + header.length:
                self._read(deadline)
                continue
            end = header.header_bytes + header.length
            frame, self._received = self._received[:end], self._received[end:]
            message = self._message(header, frame)
            if message is not None:
                return message

    def close(self) -> None:
        """Hang up, politely if the server still listens."""
        try:
            self._socket.settimeout(CLOSE_TIMEOUT_S)
            if self._protocol.close_expected() is False:
                self._protocol.send_close(1000)
                self._flush()
        except OSError:
            pass  # it is gone already, which is what was wanted
        finally:
            self._socket.close()

    def _message(self, header: FrameHeader, frame: bytes) -> bytes | memoryview | str | None:
        opcode = header.first & 0x0F
        if header.control or header.mask is not None or header.first & 0x70:
            self._protocol.receive_data(frame)
            self._protocol.events_received()
            self._flush()
            ended = self._protocol.close_rcvd or self._protocol.parser_exc
            if ended is not None:
                raise ConnectionError(f"the connection ended: {ended}")
            return None
        if header.first == WHOLE_BINARY and not self._fragments:
            return memoryview(frame)[header.header_bytes :]
        if opcode != Opcode.CONT:
            self._text, self._fragments = opcode == Opcode.TEXT, b""
        payload = frame[header.header_bytes :]
        if self._fragments or not header.final:
            self._fragments += payload
            if len(self._fragments) > self._max_bytes:
                raise ConnectionError(f"the server sent more than {self._max_bytes} bytes")
            payload = self._fragments
        return None if not header.final else payload.decode() if self._text else payload

    def _shake_hands(self, headers: Mapping[str, str], deadline: float) -> None:
        request = self._protocol.connect()
        request.headers.update(headers)
        self._protocol.send_request(request)
        self._flush()
        while _END_OF_HEADERS not in self._received:
            if len(self._received) > LARGEST_HANDSHAKE:
                raise ConnectionError("the answer to the handshake does not end")
            self._read(deadline)
        head, _, rest = self._received.partition(_END_OF_HEADERS)
        self._received = rest
        self._protocol.receive_data(head + _END_OF_HEADERS)
        while not self._protocol.events_received() and self._protocol.handshake_exc is None:
            # A refusal has a body, which says why; it ends with the connection at the latest.
            self._protocol.receive_data(self._received)
            self._received = b""
            try:
                self._read(deadline)
            except ConnectionError:
                self._protocol.receive_eof()
                break
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc
        self._unmasked = no_masking.agreed(self._protocol)

    def _read(self, deadline: float) -> None:
        self._socket.settimeout(_remaining(deadline))
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server hung up")
        self._received = self._received + data if self._received else data

    def _flush(self) -> None:
        if output := b"".join(self._protocol.data_to_send()):
            self._socket.sendall(output)


def _remaining(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)
