"""The bench's own parts: its sides answer, and nothing waits for ever."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from tiny_bundle import make_observation

from contracts import wire
from policy_server.bench import in_turns, timed
from policy_server.bench_peers import SIZES, null_chunk, receive
from policy_server.bench_processes import BenchError, BenchProcess, percentile
from policy_server.client import PolicyClient

PEERS = "policy_server.bench_peers"
PATIENCE_S = 120.0


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    with BenchProcess(PEERS, request.param) as peer:
        _, host, port = peer.line("ready", PATIENCE_S).split()
        yield host, int(port)


@pytest.mark.parametrize("address", ["echo"], indirect=True)
def test_the_echo_exchanges_as_many_bytes_as_it_is_told(address: tuple[str, int]) -> None:
    with socket.create_connection(address, PATIENCE_S) as connection:
        for asked, answered in ((300_000, 1_000), (10, 50_000)):
            connection.sendall(SIZES.pack(asked, answered) + bytes(asked))
            assert receive(connection, memoryview(bytearray(answered)))
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)


@pytest.mark.parametrize("address", ["openpi"], indirect=True)
def test_openpis_side_answers_openpis_client(address: tuple[str, int]) -> None:
    answer = WebsocketClientPolicy(*address).infer(wire.observation_to_message(make_observation()))
    np.testing.assert_array_equal(answer["actions"][:, :7], null_chunk().poses)


@pytest.mark.parametrize("address", ["null"], indirect=True)
def test_our_side_answers_both_clients(address: tuple[str, int]) -> None:
    with PolicyClient("ws://{}:{}".format(*address), timeout_s=PATIENCE_S) as client:
        np.testing.assert_array_equal(
            client.infer(make_observation()).chunk.poses, null_chunk().poses
        )
    answer = WebsocketClientPolicy(*address).infer(wire.observation_to_message(make_observation()))
    assert answer["actions"].shape == (16, 8)


def test_a_side_that_ends_or_never_speaks_is_an_error_in_time() -> None:
    with (
        BenchProcess(PEERS, "nonsense") as peer,
        pytest.raises(BenchError, match=r"bench_peers nonsense: ended with exit code 1"),
    ):
        peer.line("ready", PATIENCE_S)
    with (
        BenchProcess(PEERS, "echo") as peer,
        pytest.raises(BenchError, match=r"no answer within 0 s"),
    ):
        peer.line("something else", 0.1)


def test_sides_take_turns_and_stop_in_time() -> None:
    order: list[str] = []
    sides = {name: timed(lambda name=name: order.append(name)) for name in ("a", "b")}
    times = in_turns(sides)
    assert len(times["a"]) == len(times["b"]) == order.count("a") == order.count("b")
    changes = sum(x != y for x, y in itertools.pairwise(order))
    assert changes >= 9


def test_percentiles_are_measured_values() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert percentile(values, 0.5) == 3.0
    assert percentile(values, 0.99) == percentile(values, 1.0) == 5.0
    assert percentile([7.0], 0.5) == 7.0
