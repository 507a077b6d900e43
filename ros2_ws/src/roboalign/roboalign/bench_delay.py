"""A policy server that thinks longer: passes everything on, and answers `delay_s` later."""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from contracts import wire

CLOSE_TIMEOUT_S = 1.0


class DelayedServer:
    """A websocket server on a free loopback port in front of the one at `url`; a context manager.

    `delay_s` [s] may be changed at any time, and holds from the next answer on.
    """

    def __init__(self, url: str) -> None:
        """The server at `url` need not be there yet: a client that comes earlier is sent away."""
        self.delay_s = 0.0
        self._behind = url
        self._server = serve(
            self._pass_on, "127.0.0.1", 0, compression=None, max_size=wire.MAX_MESSAGE_BYTES
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="delayed server", daemon=True
        )

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def __enter__(self) -> DelayedServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join(timeout=CLOSE_TIMEOUT_S)

    def _pass_on(self, client: ServerConnection) -> None:
        # Either end may leave; the policy node then connects again by itself.
        with (
            contextlib.suppress(ConnectionClosed, OSError),
            connect(
                self._behind,
                compression=None,
                max_size=wire.MAX_MESSAGE_BYTES,
                close_timeout=CLOSE_TIMEOUT_S,
            ) as server,
        ):
            client.send(server.recv())  # who it is
            for request in client:
                server.send(request)
                answer = server.recv()
                time.sleep(self.delay_s)
                client.send(answer)
