"""uvicorn with both doors on one port, and an end that answers what it has taken in."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from contracts.wire import MAX_MESSAGE_BYTES
from policy_server.app import create_app
from policy_server.service import PolicyService
from policy_server.websocket import PolicySocket

DRAIN_S = 5.0
CLOSE_S = 2
"""Seconds that connections get to take their last answers."""
SWEEP_S = 5.0


@dataclass(frozen=True)
class Certificate:
    """Files of the server's TLS certificate (with its chain) and private key, in PEM."""

    chain: Path
    key: Path

    def check(self) -> None:
        """Raises OSError (ssl.SSLError is one) if they cannot be read or do not belong together."""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.chain, self.key)


class PolicyServer(uvicorn.Server):
    """Serves `service` until it is told to stop, then drains it."""

    def __init__(
        self,
        service: PolicyService,
        certificate: Certificate | None = None,
        drain_s: float = DRAIN_S,
    ) -> None:
        """`drain_s` bounds how long requests that are there at the end may take."""
        self._service = service
        self._drain_s = drain_s
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http="h11",
                loop="asyncio",
                ws=partial(PolicySocket, service),
                ws_max_size=MAX_MESSAGE_BYTES,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=CLOSE_S,
                ssl_certfile=certificate.chain if certificate else None,
                ssl_keyfile=certificate.key if certificate else None,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining = True
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or []:
            notice_dead_peers(listener)
        await super().startup(sockets)
        self._sweeper = asyncio.create_task(self._sweep())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # The doors stay open meanwhile, so that whoever comes late hears SHUTTING_DOWN.
        await self._service.drain(self._drain_s)
        self._sweeper.cancel()
        await super().shutdown(sockets)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, PolicySocket):
                    connection.close_if_stalled(now)


def notice_dead_peers(listener: socket.socket) -> None:
    """Let the kernel end connections whose other side has vanished, within a minute.

    Websocket pings would do the same, but ask for an answer from clients that only wait.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
