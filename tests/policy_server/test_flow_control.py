"""A client that does not read its answers is not read from, and costs no more than that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from policy_server import websocket
from policy_server.access import Access, AccessLimits
from policy_server.metrics import Gauges, ServerMetrics
from policy_server.service import ServiceOptions
from policy_server.websocket import STALL_S, PolicySocket

GAUGES = Gauges(True, False, 0, 0, 0, 0, 0, "", "")


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sslcontext": "so that files are not used"})
        self.written, self.reading, self.aborted = b"", True, False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class FakeService:
    """Takes requests and answers when it is told to."""

    def __init__(self) -> None:
        self.options = ServiceOptions(limits=AccessLimits())
        self.access, self.metrics = Access(None), ServerMetrics(lambda: GAUGES)
        self.draining, self.connections = False, 0
        self.taken: list[bytes] = []
        self.replies: list[Callable[[bytes], None]] = []

    def call_when_ready(self, call: Callable[[], None]) -> None:
        call()

    def metadata(self) -> bytes:
        return b"hello"

    def submit(self, data, client, reply, send_now, last):
        self.taken.append(bytes(data))
        self.replies.append(reply)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


async def connected(service: FakeService) -> tuple[PolicySocket, FakeTransport]:
    config = SimpleNamespace(ws_max_size=1000)
    state = SimpleNamespace(connections=set())
    made = PolicySocket(service, config=config, server_state=state, app_state={})
    transport = FakeTransport()
    made.connection_made(transport)
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"))
    client.send_request(client.connect())
    made.data_received(b"".join(client.data_to_send()))
    assert transport.written.endswith(b"hello")
    transport.written = b""
    return made, transport


def send(socket: PolicySocket, *messages: bytes) -> None:
    data = b"".join(Frame(Opcode.BINARY, message).serialize(mask=True) for message in messages)
    socket.get_buffer(0)[: len(data)] = data
    socket.buffer_updated(len(data))


def test_one_request_of_a_client_at_a_time(service: FakeService) -> None:
    async def run() -> None:
        socket, transport = await connected(service)
        send(socket, b"one", b"two", b"three")
        assert service.taken == [b"one"]
        assert not transport.reading
        for number, name in enumerate((b"one", b"two", b"three"), start=1):
            assert len(service.taken) == number
            service.replies[-1](b"answer to " + name)
            await asyncio.sleep(0)
        assert service.taken == [b"one", b"two", b"three"]
        await asyncio.sleep(0)
        assert transport.reading
        order = [transport.written.index(b"to " + name) for name in service.taken]
        assert order == sorted(order)

    asyncio.run(run())


def test_answers_that_are_not_taken_stop_the_next_request(service: FakeService) -> None:
    async def run() -> None:
        socket, transport = await connected(service)
        socket.pause_writing()
        send(socket, b"one")
        assert service.taken == []
        assert not transport.reading
        socket.resume_writing()
        assert service.taken == [b"one"]
        assert transport.reading

    asyncio.run(run())


def test_stalled_clients_are_hung_up_and_idle_ones_are_not(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(websocket.time, "monotonic", lambda: now)

    async def run() -> None:
        idle, idle_transport = await connected(service)
        half, half_transport = await connected(service)
        deaf, deaf_transport = await connected(service)
        half.get_buffer(0)[:3] = b"\x82\xfe\x01"
        half.buffer_updated(3)
        deaf.pause_writing()
        for later, aborted in ((STALL_S - 1, False), (STALL_S + 1, True)):
            for socket in (idle, half, deaf):
                socket.close_if_stalled(now + later)
            assert half_transport.aborted == deaf_transport.aborted == aborted
        assert not idle_transport.aborted

    asyncio.run(run())


def test_a_vanished_client_gives_its_place_back(service: FakeService) -> None:
    async def run() -> None:
        socket, _ = await connected(service)
        send(socket, b"one")
        assert service.connections == 1
        socket.connection_lost(None)
        assert service.connections == 0
        service.replies[-1](b"too late")  # nobody is told, and nothing breaks

    asyncio.run(run())
