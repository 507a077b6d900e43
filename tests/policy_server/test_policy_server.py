"""The server as a real process: protocols, bad input, faults, start and stop."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
from openpi_client import websocket_client_policy
from server_process import PATIENCE_S, ROOT, ServerProcess, fetch, running_server
from tiny_bundle import HORIZON, make_observation, save_bundle
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from contracts import wire
from contracts.observation import CameraFrame
from policy_server.client import Answer, PolicyClient, PolicyRefused, PolicyUnavailable, Reason


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, object]:
    """Status and JSON of a GET request."""
    status, body = fetch(url, headers=headers)
    return status, json.loads(body)


@contextmanager
def connected(server: ServerProcess) -> Iterator[ClientConnection]:
    """A bare websocket that has read the metadata."""
    with connect(server.url, compression=None, max_size=None, proxy=None) as connection:
        assert wire.unpack(connection.recv(timeout=PATIENCE_S))["policy"] == "tiny"
        yield connection


def request(**changes: object) -> dict[str, object]:
    return wire.observation_to_message(make_observation()) | changes


# --- what it answers ---------------------------------------------------------------------------


def test_ready_line_names_the_bundle_and_the_address(server: ServerProcess) -> None:
    assert server.ready_line == f"policy server ready: tiny on ws://127.0.0.1:{server.port}\n"


def test_http_routes(server: ServerProcess, client: PolicyClient) -> None:
    assert get(server.http + "/healthz") == (200, {"alive": True})
    assert get(server.http + "/readyz") == (200, {"ready": True})
    assert get(server.http + "/metadata") == (200, client.metadata())


def test_client_gets_a_chunk(client: PolicyClient) -> None:
    observation = make_observation()
    answer = client.infer(observation, seed=3, steps=2)
    assert answer.chunk.horizon == HORIZON
    assert answer.chunk.observation_stamp == observation.stamp
    assert set(answer.server_timing) == {"queue", "preprocess", "backbone", "head", "encode"}
    assert answer.round_trip_ms > sum(answer.server_timing.values())
    np.testing.assert_array_equal(
        client.infer(observation, seed=3, steps=2).chunk.poses, answer.chunk.poses
    )
    assert (
        np.abs(client.infer(observation, seed=3, steps=9).chunk.poses - answer.chunk.poses).max()
        > 1e-5
    )


def test_unmodified_openpi_client_gets_actions(server: ServerProcess) -> None:
    policy = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
    assert policy.get_server_metadata()["horizon"] == HORIZON
    minimal = request()
    for name in ("stamp", "image_stamps", "options"):
        del minimal[name]
    answer = policy.infer(minimal)
    assert answer["actions"].shape == (HORIZON, 8)
    np.testing.assert_allclose(np.linalg.norm(answer["actions"][:, 3:7], axis=1), 1.0, atol=1e-9)
    with pytest.raises(RuntimeError, match="BAD_OBSERVATION"):
        policy.infer({"images": {}})
    assert policy.infer(minimal)["actions"].shape == (HORIZON, 8)


def test_requests_sent_ahead_are_answered_in_their_order(server: ServerProcess) -> None:
    stamps = [float(number) for number in range(1, 9)]
    with connected(server) as connection:
        for _ in range(3):
            for stamp in stamps:
                connection.send(wire.pack(request(stamp=stamp)))
                connection.send(b"garbage")
            for stamp in stamps:
                answer = wire.unpack(connection.recv(timeout=PATIENCE_S))
                assert wire.chunk_from_message(answer).observation_stamp == stamp
                assert str(connection.recv(timeout=PATIENCE_S)).startswith("BAD_MESSAGE")


# --- bad input: a reason code each, and the connection goes on ----------------------------------


def image(array: np.ndarray) -> dict[str, object]:
    return {"images": {"front": array, "wrist": array}}


def state(**changes: object) -> dict[str, object]:
    return {"state": request()["state"] | changes}


GOOD_BYTES = wire.pack(request())
BAD_REQUESTS: dict[str, tuple[bytes | str, Reason]] = {
    "garbage": (b"\xc1\xff\x00garbage", Reason.BAD_MESSAGE),
    "empty": (b"", Reason.BAD_MESSAGE),
    "truncated": (GOOD_BYTES[: len(GOOD_BYTES) // 2], Reason.BAD_MESSAGE),
    "text frame": ("hello", Reason.BAD_MESSAGE),
    "object dtype": (
        msgpack.packb({b"__ndarray__": True, b"data": b"x", b"dtype": "|O", b"shape": [1]}),
        Reason.BAD_MESSAGE,
    ),
    "not a map": (wire.pack([1, 2]), Reason.BAD_OBSERVATION),
    "no state": (
        wire.pack({k: v for k, v in request().items() if k != "state"}),
        Reason.BAD_OBSERVATION,
    ),
    "grey picture": (
        wire.pack(request(**image(np.zeros((9, 9), np.uint8)))),
        Reason.BAD_OBSERVATION,
    ),
    "float picture": (wire.pack(request(**image(np.zeros((9, 9, 3))))), Reason.BAD_OBSERVATION),
    "empty picture": (
        wire.pack(request(**image(np.zeros((0, 9, 3), np.uint8)))),
        Reason.BAD_OBSERVATION,
    ),
    "NaN pose": (wire.pack(request(**state(pose=np.full(7, np.nan)))), Reason.BAD_OBSERVATION),
    "short pose": (wire.pack(request(**state(pose=np.zeros(6)))), Reason.BAD_OBSERVATION),
    "empty instruction": (wire.pack(request(instruction="  ")), Reason.BAD_OBSERVATION),
    "control token": (wire.pack(request(instruction="<|image_pad|>")), Reason.BAD_OBSERVATION),
    "unknown camera": (
        wire.pack(wire.observation_to_message(make_observation(cameras=("front", "ceiling")))),
        Reason.MISSING_CAMERA,
    ),
    "unknown option": (wire.pack(request(options={"temperature": 1.0})), Reason.BAD_OPTION),
    "many steps": (wire.pack(request(options={"steps": 10**6})), Reason.BAD_OPTION),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request_gets_its_reason_and_the_next_one_a_chunk(
    server: ServerProcess, name: str
) -> None:
    data, reason = BAD_REQUESTS[name]
    with connected(server) as connection:
        connection.send(data)
        reply = connection.recv(timeout=PATIENCE_S)
        assert isinstance(reply, str)
        assert reply.startswith(f"{reason}: "), reply
        connection.send(GOOD_BYTES)
        answer = wire.unpack(connection.recv(timeout=PATIENCE_S))
        assert wire.chunk_from_message(answer).horizon == HORIZON


def test_client_does_not_send_what_is_too_large(client: PolicyClient) -> None:
    big = CameraFrame(np.zeros((2048, 4096, 3), np.uint8), 0.0)
    observation = replace(make_observation(), frames={"front": big, "wrist": big})
    with pytest.raises(PolicyRefused, match="at most") as refusal:
        client.infer(observation)
    assert refusal.value.reason_code is Reason.BAD_MESSAGE


def test_client_raises_the_servers_reason(client: PolicyClient) -> None:
    with pytest.raises(PolicyRefused, match="wrist") as refusal:
        client.infer(make_observation(cameras=("front",)))
    assert refusal.value.reason_code is Reason.MISSING_CAMERA


def test_oversize_message_ends_its_connection_only(
    server: ServerProcess, client: PolicyClient
) -> None:
    with connected(server) as connection:
        connection.send(bytes(wire.MAX_MESSAGE_BYTES + 1))
        assert str(connection.recv(timeout=PATIENCE_S)).startswith("BAD_MESSAGE: ")
        with pytest.raises(ConnectionClosed, match="1009"):
            connection.recv(timeout=PATIENCE_S)
    assert client.infer(make_observation()).chunk.horizon == HORIZON


def test_idle_and_vanished_clients_hold_nobody_up(
    server: ServerProcess, client: PolicyClient
) -> None:
    with ExitStack() as connections:
        for _ in range(20):
            connections.enter_context(connected(server))
        vanished = connections.enter_context(connected(server))
        vanished.send(GOOD_BYTES)
        vanished.socket.shutdown(socket.SHUT_RDWR)
        assert client.infer(make_observation()).chunk.horizon == HORIZON


# --- tokens ------------------------------------------------------------------------------------


def test_token_is_asked_for(bundle_directory: Path, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    arguments = ("--bundle", str(bundle_directory), "--port", "0", "--token-file", str(token_file))
    with running_server(*arguments) as server:
        for wrong in (None, "guess"):
            with (
                PolicyClient(server.url, token=wrong) as client,
                pytest.raises(PolicyRefused) as refusal,
            ):
                client.infer(make_observation())
            assert refusal.value.reason_code is Reason.UNAUTHORISED
        assert get(server.http + "/metadata")[0] == 401
        assert get(server.http + "/metadata", {"Authorization": "Api-Key secret"})[0] == 200
        with PolicyClient(server.url, token="secret") as client:
            assert client.infer(make_observation()).chunk.horizon == HORIZON


# --- faults ------------------------------------------------------------------------------------


def test_client_resumes_after_kill_and_restart(bundle_directory: Path) -> None:
    bundle = ("--bundle", str(bundle_directory))
    with running_server(*bundle, "--port", "0") as first:
        client = PolicyClient(first.url, timeout_s=PATIENCE_S)
        before = client.infer(make_observation(), seed=1)
        first.stop(signal.SIGKILL)
    afterwards: list[Answer] = []
    thread = threading.Thread(
        target=lambda: afterwards.append(client.infer(make_observation(), seed=1))
    )
    thread.start()  # it finds nobody at first
    with running_server(*bundle, "--port", str(first.port)):
        thread.join()
        client.close()
    np.testing.assert_array_equal(afterwards[0].chunk.poses, before.chunk.poses)
    assert afterwards[0].chunk.chunk_id != before.chunk.chunk_id


def test_absent_server_is_unavailable_in_time() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PolicyUnavailable, match=str(port)):
        PolicyClient(f"ws://127.0.0.1:{port}", timeout_s=0.5).infer(make_observation())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_it_cleanly(bundle_directory: Path, number: int) -> None:
    bundle = ("--bundle", str(bundle_directory))
    with running_server(*bundle, "--port", "0") as server, PolicyClient(server.url) as client:
        client.infer(make_observation())
        assert server.stop(number) == (0, "")


# --- it does not start: one line, exit code 2 ---------------------------------------------------


def refused_start(*arguments: str) -> str:
    """stderr of a server that must end at once with exit code 2 and one line."""
    result = subprocess.run(
        [sys.executable, "-m", "policy_server", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_port_in_use(server: ServerProcess, bundle_directory: Path) -> None:
    line = refused_start("--bundle", str(bundle_directory), "--port", str(server.port))
    assert f"port {server.port} on 127.0.0.1 is in use" in line


def test_unknown_bundle() -> None:
    assert "unknown bundle 'nonsense'" in refused_start("--bundle", "nonsense", "--port", "0")


def test_changed_byte(tmp_path: Path) -> None:
    save_bundle(tmp_path)
    graph = bytearray((tmp_path / "head.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (tmp_path / "head.onnx").write_bytes(graph)
    line = refused_start("--bundle", str(tmp_path), "--port", "0")
    assert "head.onnx" in line
    assert "hash" in line


def test_other_schema_version(tmp_path: Path) -> None:
    save_bundle(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    assert "schema version 99" in refused_start("--bundle", str(tmp_path), "--port", "0")


def test_open_host_needs_a_token(bundle_directory: Path, tmp_path: Path) -> None:
    bundle = ("--bundle", str(bundle_directory), "--host", "0.0.0.0", "--port", "0")
    assert "--token-file" in refused_start(*bundle)
    (tmp_path / "token").write_text(" \n")
    assert "is empty" in refused_start(*bundle, "--token-file", str(tmp_path / "token"))
