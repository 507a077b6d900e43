"""The delayed server passes everything on, unchanged and later."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from roboalign.bench_delay import DelayedServer


def _answer(connection: ServerConnection) -> None:
    connection.send(b"metadata")
    try:
        for request in connection:
            connection.send("refused" if request == b"refuse" else b"answer to " + request)
    except ConnectionClosed:
        return


@pytest.fixture
def url() -> Iterator[str]:
    server = serve(_answer, "127.0.0.1", 0, compression=None)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    server.shutdown()
    thread.join()


def test_answers_come_as_they_are_and_as_much_later_as_is_asked(url: str) -> None:
    with DelayedServer(url) as delayed, connect(delayed.url, compression=None) as client:
        assert client.recv() == b"metadata"
        client.send(b"1")
        assert client.recv() == b"answer to 1"
        client.send(b"refuse")
        assert client.recv() == "refused"
        delayed.delay_s = 0.2
        started = time.monotonic()
        client.send(b"2")
        assert client.recv() == b"answer to 2"
        assert time.monotonic() - started >= 0.2


def test_a_server_that_is_not_there_is_an_end_of_the_connection() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}"
        with (
            DelayedServer(url) as delayed,
            connect(delayed.url, compression=None) as client,
            pytest.raises(ConnectionClosed),
        ):
            client.recv()
