"""The other sides of the bench, each a process on a free port.

    python -m policy_server.bench_peers echo     # raw TCP: a request's bytes come, an answer's go
    python -m policy_server.bench_peers openpi   # what openpi's websocket policy server does
    python -m policy_server.bench_peers null     # this server, with a policy that computes nothing

Each prints `ready HOST PORT` and serves until its standard input closes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import threading
from collections.abc import Sequence

import numpy as np

from contracts import wire
from contracts.action import ActionChunk
from policy_server.policy import Answer, Request

HORIZON, TIME_STEP = 16, 0.1
SIZES = struct.Struct("!II")
"""Start of an echo request: its bytes and those of the answer."""


def null_chunk() -> ActionChunk:
    """The answer of every side: the right shapes, without a computation."""
    poses = np.tile([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0], (HORIZON, 1))
    return ActionChunk("null", 0.0, TIME_STEP, poses, np.ones(HORIZON))


class _NullManifest:
    name = "null"
    provenance: dict[str, object] = {}


class NullPolicy:
    """What the service needs of a `Policy`, answered at once."""

    manifest = _NullManifest()
    bundle_hash = "null"

    def __init__(self) -> None:
        self._answer = Answer(null_chunk(), dict.fromkeys(("preprocess", "backbone", "head"), 0.0))

    def metadata(self) -> dict[str, object]:
        return {"protocol_version": wire.PROTOCOL_VERSION, "policy": "null"}

    def warm_up(self) -> None:
        """Nothing to warm."""

    def infer_batch(self, requests: Sequence[Request]) -> list[Answer]:
        return [self._answer] * len(requests)


def serve_null(listener: socket.socket) -> None:
    """This project's server."""
    from policy_server.access import AccessLimits
    from policy_server.server import PolicyServer
    from policy_server.service import PolicyService, ServiceOptions

    options = ServiceOptions(limits=AccessLimits(requests_per_second=0.0))
    service = PolicyService(NullPolicy(), lambda name: NullPolicy(), options)
    PolicyServer(service).run(sockets=[listener])


def serve_openpi(listener: socket.socket) -> None:
    """As openpi's websocket_policy_server: msgpack in, `infer` in the event loop, msgpack out."""
    from openpi_client import msgpack_numpy
    from websockets.asyncio.server import ServerConnection, serve

    answer = wire.chunk_to_message(null_chunk())

    async def handle(connection: ServerConnection) -> None:
        packer = msgpack_numpy.Packer()
        await connection.send(packer.pack({"policy": "null"}))
        async for message in connection:
            msgpack_numpy.unpackb(message)
            await connection.send(packer.pack(answer | {"server_timing": {"infer_ms": 0.0}}))

    async def run() -> None:
        async with serve(handle, sock=listener, compression=None, max_size=None):
            await asyncio.get_running_loop().create_future()

    asyncio.run(run())


def serve_echo(listener: socket.socket) -> None:
    """The least that an exchange of the same bytes can cost; one client at a time."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(2**22)
        with connection:
            while receive(connection, memoryview(buffer)[: SIZES.size]):
                asked, answered = SIZES.unpack_from(buffer)
                receive(connection, memoryview(buffer)[:asked])
                connection.sendall(memoryview(buffer)[:answered])


def receive(connection: socket.socket, place: memoryview) -> bool:
    """Fill `place`; False if the other side closed."""
    got = 0
    while got < len(place):
        count = connection.recv_into(place[got:])
        if count == 0:
            return False
        got += count
    return True


PEERS = {"echo": serve_echo, "openpi": serve_openpi, "null": serve_null}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in PEERS:
        sys.exit(f"usage: python -m policy_server.bench_peers {'|'.join(PEERS)}")

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("ready", *listener.getsockname(), flush=True)
        PEERS[name](listener)


if __name__ == "__main__":
    main()
