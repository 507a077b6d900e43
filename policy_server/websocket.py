"""openpi's websocket protocol at `/`.

The server sends its metadata first, as msgpack. Each binary message of the client is a request; the
answer is a binary message with the chunk, or a text message `CODE: message`. Answers come in the
order of the requests, and a client that does not read its answers is not read from either.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.utils import get_remote_addr
from websockets.frames import CloseCode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from policy_server import no_masking
from policy_server.frames import Message, MessageReader, binary_header
from policy_server.no_masking import AcceptNoMasking
from policy_server.refusal import MEANINGS, PolicyRefused, Reason
from policy_server.request_layout import LastLayout
from policy_server.service import SENT, STOPPING, PolicyService, Reply
from policy_server.worker import Job

STALL_S = 30.0
"""A message that is not complete after this, or an answer not taken, ends the connection."""
LINGER_S = 3.0
PATH = "/"


class PolicySocket(asyncio.BufferedProtocol):
    """One client's websocket, made by uvicorn when a client asks to upgrade its connection."""

    def __init__(
        self, service: PolicyService, *, config: Any, server_state: Any, app_state: Any
    ) -> None:
        self._service = service
        self._connections: set[Any] = server_state.connections
        self._protocol = ServerProtocol(max_size=config.ws_max_size, extensions=[AcceptNoMasking()])
        self._reader = MessageReader(self._protocol, config.ws_max_size)
        self._waiting: deque[bytes | str] = deque()
        self._job: Job | None = None
        self._busy = False
        self._open = False
        self._writable = True
        self._reading = True
        self._hanging_up = False
        self._message_since: float | None = None
        self._unread_since: float | None = None
        self._client = ""
        self._lock = threading.Lock()
        self._file = -1
        self._unsent = b""
        self._last = LastLayout()

    # -- asyncio's and uvicorn's calls -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)
        if transport.get_extra_info("sslcontext") is None:
            self._file = transport.get_extra_info("socket").fileno()
        address = get_remote_addr(transport)
        self._client = address[0] if address else "unknown"

    def data_received(self, data: bytes) -> None:
        """The request to upgrade, which uvicorn has read."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._answer_handshake(event)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, count: int) -> None:
        if self._hanging_up:
            return  # what still comes is not read, so that our last words are not lost to a reset
        messages = self._reader.received(count)
        while not messages and self._reader.within_payload and (count := self._read_now()):
            messages = self._reader.received(count)
        if not self._reader.within_message:
            self._message_since = None
        elif self._message_since is None:
            self._message_since = time.monotonic()
        for message in messages:
            self._take(message)
        if self._reader.others or self._reader.too_large:
            self._see_to_the_rest()

    def _see_to_the_rest(self) -> None:
        """What came was not only requests."""
        self._reader.others = False
        self._flush()
        if self._reader.too_large:
            self._refuse_size(self._reader.too_large)
        elif self._protocol.parser_exc is not None:
            self._service.metrics.refused(Reason.BAD_MESSAGE)
            self._hang_up()
        elif self._protocol.state is not State.OPEN:
            self._transport.close()

    def _read_now(self) -> int:
        """Bytes of a message begun that are there already: cheaper than another turn of the loop.

        0 if there are none, or if the connection is at its end, which the loop sees next.
        """
        if self._file < 0:
            return 0
        try:
            return os.readv(self._file, [self._reader.get_buffer()])
        except OSError:
            return 0

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        with self._lock:
            self._file = -1  # closed right after this call, and then perhaps another client's
        self._connections.discard(self)
        if self._open:
            self._service.connections -= 1
            self._open = False
        self._waiting.clear()
        if self._job is not None:
            self._job.abandoned = True

    def pause_writing(self) -> None:
        self._writable = False
        self._unread_since = time.monotonic()

    def resume_writing(self) -> None:
        self._writable = True
        self._unread_since = None
        self._next()

    def shutdown(self) -> None:
        """The server stops: say so and hang up."""
        if self._protocol.state is State.OPEN:
            if self._job is not None:
                self._job.abandoned = True
                self._reply(STOPPING)
            self._protocol.send_close(CloseCode.SERVICE_RESTART, "the server stops")
            self._flush()
        self._transport.close()

    def close_if_stalled(self, now: float) -> None:
        """Hang up on a client that neither sends nor takes what has begun; `now` is monotonic."""
        sending = self._message_since if self._reading else None
        if any(since and now - since > STALL_S for since in (sending, self._unread_since)):
            self._transport.abort()

    # -- opening ---------------------------------------------------------------------------------

    def _answer_handshake(self, request: Request) -> None:
        response = self._protocol.accept(request)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            refusal = self._refusal(request)
            if refusal is not None:
                status = MEANINGS[refusal.reason_code].http_status
                response = self._protocol.reject(HTTPStatus(status), str(refusal))
                self._service.metrics.refused(refusal.reason_code)
            elif request.path.partition("?")[0] != PATH:
                response = self._protocol.reject(HTTPStatus.NOT_FOUND, f"ask at {PATH}\n")
        self._protocol.send_response(response)
        self._flush()
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._transport.close()
            return
        self._open = True
        self._reader.unmasked = no_masking.agreed(self._protocol)
        self._service.connections += 1
        self._service.call_when_ready(self._greet)

    def _refusal(self, request: Request) -> PolicyRefused | None:
        most = self._service.options.limits.max_connections
        if self._service.draining:
            return STOPPING
        if self._service.connections >= most:
            text = f"{most} clients are connected already"
            return PolicyRefused(Reason.TOO_MANY_CONNECTIONS, text)
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        try:
            self._service.access.check(headers)
        except PolicyRefused as refusal:
            return refusal
        return None

    def _greet(self) -> None:
        if self._protocol.state is State.OPEN:
            self._send(self._service.metadata())

    # -- requests and answers --------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        if self._busy or self._waiting or not self._writable:
            self._waiting.append(message if isinstance(message, str) else bytes(message))
            if self._reading:
                self._reading = False
                self._transport.pause_reading()
        else:
            self._submit(message)

    def _submit(self, message: Message | bytes) -> None:
        self._busy = True
        self._job = self._service.submit(
            message, self._client, self._reply, self._send_now, self._last
        )

    def _reply(self, reply: Reply) -> None:
        self._busy, self._job = False, None
        self._reader.release()
        if self._protocol.state is not State.OPEN:
            return
        if reply is SENT:
            self._write(b"")
        elif isinstance(reply, bytes):
            self._send(reply)
        else:
            self._protocol.send_text(str(reply).encode())
            self._flush()
        if self._waiting or not self._reading:
            # Not at once: a refusal is answered within `submit`, and this would go on within it.
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._waiting and not self._busy and self._writable:
            self._submit(self._waiting.popleft())
        if not self._waiting and not self._reading and self._writable:
            self._reading = True
            self._transport.resume_reading()

    def _send_now(self, payload: bytes) -> bool:
        """Write an answer from the worker's thread, if nothing else waits to be written.

        It saves a change of threads, which costs as much as everything else on an answer's way.
        """
        frame = binary_header(len(payload)) + payload
        with self._lock:
            if self._file < 0 or self._transport.get_write_buffer_size():
                return False
            try:
                count = os.write(self._file, frame)
            except OSError:  # no room, or nobody there; the event loop sees to both
                return False
            self._unsent = frame[count:]
        return True

    def _send(self, payload: bytes) -> None:
        self._write(binary_header(len(payload)) + payload)

    def _flush(self) -> None:
        if output := b"".join(self._protocol.data_to_send()):
            self._write(output)

    def _write(self, data: bytes) -> None:
        with self._lock:
            output, self._unsent = self._unsent + data, b""
            if output:
                self._transport.write(output)

    def _refuse_size(self, size: int) -> None:
        text = f"message of {size} bytes, at most {self._protocol.max_message_size} are accepted"
        refusal = PolicyRefused(Reason.BAD_MESSAGE, text)
        self._service.metrics.refused(refusal.reason_code)
        self._protocol.send_text(str(refusal).encode())
        self._protocol.send_close(CloseCode.MESSAGE_TOO_BIG, "message too big")
        self._flush()
        self._hang_up()

    def _hang_up(self) -> None:
        """Close once the client has read what was sent, at the latest after LINGER_S."""
        self._hanging_up = True
        asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)
