"""Messages without a mask: only where both ends have agreed on it."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
from server_process import PATIENCE_S, ServerProcess
from tiny_bundle import make_observation
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.sync.server import ServerConnection, serve
from websockets.uri import parse_uri

from contracts import wire
from contracts.action import ActionChunk
from policy_server import no_masking
from policy_server.client import PolicyClient
from policy_server.frames import binary_header
from policy_server.no_masking import OfferNoMasking


def events(connection: socket.socket, protocol: ClientProtocol) -> list[object]:
    """What comes next; empty at the end."""
    while True:
        data = connection.recv(2**16)
        if not data:
            return []
        protocol.receive_data(data)
        if found := protocol.events_received():
            return found


@pytest.mark.parametrize("agreed", [True, False])
def test_the_server_takes_a_bare_message_only_if_agreed(
    server: ServerProcess, agreed: bool
) -> None:
    protocol = ClientProtocol(
        parse_uri(server.url), extensions=[OfferNoMasking()] if agreed else None
    )
    request = wire.pack(wire.observation_to_message(make_observation()))
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
        protocol.send_request(protocol.connect())
        connection.sendall(b"".join(protocol.data_to_send()))
        found = events(connection, protocol)
        while not any(isinstance(event, Frame) for event in found):
            found += events(connection, protocol)
        assert no_masking.agreed(protocol) is agreed
        connection.sendall(binary_header(len(request)) + request)
        (frame,) = events(connection, protocol)
        if agreed:
            assert frame.opcode is Opcode.BINARY
            wire.chunk_from_message(wire.unpack(frame.data))
        else:
            assert frame.opcode is Opcode.CLOSE


def test_a_server_that_does_not_know_it_gets_masked_messages() -> None:
    """The library's server hangs up on a frame without a mask."""
    poses = np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    metadata = wire.pack({"protocol_version": wire.PROTOCOL_VERSION, "policy": "plain"})
    pictures = []

    def answer(connection: ServerConnection) -> None:
        connection.send(metadata)
        for message in connection:
            asked = wire.request_from_message(wire.unpack(message)).observation
            pictures.append({name: frame.image for name, frame in asked.frames.items()})
            chunk = ActionChunk("a", asked.stamp, 0.1, poses, np.zeros(1))
            connection.send(wire.pack(wire.chunk_to_message(chunk)))

    with serve(answer, "127.0.0.1", 0, compression=None) as plain:
        thread = threading.Thread(target=plain.serve_forever)
        thread.start()
        try:
            port = plain.socket.getsockname()[1]
            with PolicyClient(f"ws://127.0.0.1:{port}", timeout_s=PATIENCE_S) as client:
                for seed in range(4):
                    seen = make_observation(seed=seed)
                    assert client.infer(seen).chunk.observation_stamp == seen.stamp
                    for name, frame in seen.frames.items():
                        np.testing.assert_array_equal(pictures[-1][name], frame.image)
        finally:
            plain.shutdown()
            thread.join()
