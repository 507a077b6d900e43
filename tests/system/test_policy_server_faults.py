"""What goes wrong in a laboratory, against real server processes; each has its reason code.

The last test prints the table of faults (`pytest -rP`, or on the terminal).
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from server_process import PATIENCE_S, ServerProcess, fetch, running_server
from slow_bundle import save_slow_bundle
from tiny_bundle import make_observation, save_bundle

from contracts import wire
from contracts.observation import CameraFrame
from policy_server.client import Answer, PolicyClient, PolicyRefused
from policy_server.connection import BlockingWebSocket
from policy_server.refusal import Reason

MSGPACK = {"Content-Type": "application/msgpack"}
JSON = {"Content-Type": "application/json"}
TABLE: dict[str, str] = {}
MANY_STEPS = 64
"""Denoising steps that keep the slow bundle busy for a second or more."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_slow_bundle(tmp_path_factory.mktemp("bundles") / "slow")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all faults that it has to survive; it must run to the end."""
    log = tmp_path_factory.mktemp("logs") / "server.jsonl"
    arguments = ("--bundle", str(bundle), "--port", "0", "--log-file", str(log))
    with running_server(*arguments, "--requests-per-second", "0") as process:
        yield process
        assert process.process.poll() is None, process.errors()


def opened(server: ServerProcess) -> BlockingWebSocket:
    """A connection that has read the metadata."""
    connection = BlockingWebSocket(server.url, {}, soon(), wire.MAX_MESSAGE_BYTES)
    assert wire.unpack(connection.receive(soon()))["policy"]
    return connection


def soon() -> float:
    return time.monotonic() + PATIENCE_S


def outcome(reply: bytes | memoryview | str) -> str:
    """The reason code of a reply, or OK for a chunk."""
    if isinstance(reply, str):
        return str(PolicyRefused.from_text(reply).reason_code)
    assert wire.chunk_from_message(wire.unpack(reply)).observation_stamp == 7.25
    return "OK"


def asked(connection: BlockingWebSocket, data: bytes) -> str:
    connection.send([data], soon())
    return outcome(connection.receive(soon()))


def message(**changes: object) -> bytes:
    content = wire.observation_to_message(make_observation(), {"steps": 1})
    return wire.pack(content | changes)


def images(array: np.ndarray) -> dict[str, object]:
    return {"front": array, "wrist": array}


def state(**changes: object) -> dict[str, object]:
    return wire.observation_to_message(make_observation())["state"] | changes


def note(fault: str, seen: str, expected: str) -> None:
    TABLE[fault] = seen
    assert seen == expected, fault


GOOD = message()
PREVIOUS = {
    "chunk_id": "x",
    "observation_stamp": 7.0,
    "time_step": 0.1,
    "actions": np.tile([0.5, 0, 0.3, 1, 0, 0, 0, 1.0], (6, 1)),
}
BAD_MESSAGES: dict[str, tuple[bytes, Reason]] = {
    "garbage bytes": (b"\xc1\x00\xffgarbage" * 50, Reason.BAD_MESSAGE),
    "truncated message": (GOOD[: len(GOOD) // 2], Reason.BAD_MESSAGE),
    "a pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os", Reason.BAD_MESSAGE),
    "nested without end": (b"\x91" * 5000, Reason.BAD_MESSAGE),
    "a million empty maps": (b"\xdd\x00\x10\x00\x00" + b"\x80" * 2**20, Reason.BAD_MESSAGE),
    "wrong picture shape": (
        message(images=images(np.zeros((3, 48, 64), np.uint8))),
        Reason.BAD_OBSERVATION,
    ),
    "wrong picture dtype": (
        message(images=images(np.zeros((48, 64, 3), np.float32))),
        Reason.BAD_OBSERVATION,
    ),
    "picture too large": (
        message(images=images(np.zeros((1, 5000, 3), np.uint8))),
        Reason.BAD_OBSERVATION,
    ),
    "too many cameras": (
        message(images={str(n): np.zeros((8, 8, 3), np.uint8) for n in range(9)}),
        Reason.BAD_OBSERVATION,
    ),
    "camera name too long": (
        message(images={"x" * 65: np.zeros((8, 8, 3), np.uint8)}),
        Reason.BAD_OBSERVATION,
    ),
    "wrong camera names": (
        message(images={"ceiling": np.zeros((8, 8, 3), np.uint8)}),
        Reason.MISSING_CAMERA,
    ),
    "wrong state shape": (message(state=state(pose=np.zeros(6))), Reason.BAD_OBSERVATION),
    "NaN in the state": (
        message(state=state(joint_positions=np.full(7, np.nan))),
        Reason.BAD_OBSERVATION,
    ),
    "unknown instruction": (message(instruction="make coffee"), Reason.UNKNOWN_INSTRUCTION),
    "empty instruction": (message(instruction=" "), Reason.BAD_OBSERVATION),
    "unknown option": (message(options={"temperature": 1}), Reason.BAD_OPTION),
    "steps out of range": (message(options={"steps": 10**9}), Reason.BAD_OPTION),
    "a chunk from the future": (
        message(previous=PREVIOUS | {"observation_stamp": 99.0}),
        Reason.BAD_OPTION,
    ),
    "a broken chunk under execution": (
        message(previous=PREVIOUS | {"actions": np.zeros((6, 7))}),
        Reason.BAD_OBSERVATION,
    ),
    "deadline that makes no sense": (message(deadline=-1.0), Reason.BAD_OBSERVATION),
    "a request past its deadline": (message(deadline=1e-6), Reason.DEADLINE),
}


@pytest.mark.parametrize("fault", BAD_MESSAGES)
def test_bad_message(server: ServerProcess, fault: str) -> None:
    data, reason = BAD_MESSAGES[fault]
    connection = opened(server)
    note(fault, asked(connection, data), reason)
    assert asked(connection, GOOD) == "OK"  # the connection goes on
    connection.close()
    code, body = fetch(server.http + "/infer", data, MSGPACK)
    assert code >= 400
    assert json.loads(body)["reason_code"] == reason


def test_oversize_message(server: ServerProcess) -> None:
    connection = opened(server)
    note("oversize message", asked(connection, bytes(wire.MAX_MESSAGE_BYTES + 1)), "BAD_MESSAGE")
    with pytest.raises(OSError, match="1009"):
        connection.receive(soon())
    connection.close()
    code, body = fetch(server.http + "/infer", bytes(wire.MAX_MESSAGE_BYTES + 1), MSGPACK)
    assert (code, json.loads(body)["reason_code"]) == (400, "BAD_MESSAGE")


def test_bytes_that_are_no_http(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00garbage\r\n\r\n")
        assert b"400" in raw.recv(1000)
    note("bytes that are no HTTP", "HTTP 400", "HTTP 400")


def test_frame_that_breaks_the_protocol(server: ServerProcess) -> None:
    connection = opened(server)
    connection._socket.sendall(b"\x81\x05hello")  # text that is not masked
    with pytest.raises(OSError, match="1002"):
        connection.receive(soon())
    connection.close()
    note("frame that breaks the protocol", "close 1002", "close 1002")


def test_200_connections(server: ServerProcess) -> None:
    with ExitStack() as stack:
        connections = []
        for _ in range(200):
            connections.append(opened(server))
            stack.callback(connections[-1].close)
        for connection in connections:
            connection.send([GOOD], soon())
        seen = {outcome(connection.receive(soon())) for connection in connections}
        assert seen <= {"OK", "QUEUE_FULL"}
        # One after the other, all 200 are answered.
        assert {asked(connection, GOOD) for connection in connections} == {"OK"}
    note("200 connections", "OK", "OK")


def test_client_that_never_reads(server: ServerProcess) -> None:
    connection = opened(server)
    connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stop = time.monotonic() + 1.0
    try:
        while time.monotonic() < stop:
            connection.send([GOOD], stop)
    except OSError:
        pass  # the server has stopped reading from it, too
    other = opened(server)
    note("a client that never reads", asked(other, GOOD), "OK")
    other.close()
    connection._socket.close()


def test_client_killed_within_a_message(server: ServerProcess) -> None:
    connection = opened(server)
    connection._socket.sendall(b"\x82\xff" + (10**6).to_bytes(8, "big") + b"mask" + bytes(1000))
    connection._socket.close()
    other = opened(server)
    note("a client lost within a message", asked(other, GOOD), "OK")
    other.close()


def test_foreign_page(server: ServerProcess) -> None:
    headers = {"Origin": "http://evil.example"}
    with (
        pytest.raises(PolicyRefused) as refused,
        PolicyClient(server.url, timeout_s=PATIENCE_S) as client,
    ):
        client._headers = headers
        client.metadata()
    note("a foreign page in a browser", refused.value.reason_code, Reason.FORBIDDEN)
    code, body = fetch(server.http + "/bundle", b'{"bundle": "shipped"}', JSON | headers)
    assert (code, json.loads(body)["reason_code"]) == (403, "FORBIDDEN")


def test_flipped_byte_at_swap(server: ServerProcess, bundle: Path, tmp_path: Path) -> None:
    damaged = damage(bundle, tmp_path / "damaged")
    body = json.dumps({"bundle": str(damaged)}).encode()
    code, answer = fetch(server.http + "/bundle", body, JSON)
    assert code == 422
    assert "head.onnx" in json.loads(answer)["message"]
    note("flipped byte in the next bundle", json.loads(answer)["reason_code"], Reason.BAD_BUNDLE)
    connection = opened(server)
    assert asked(connection, GOOD) == "OK"
    connection.close()


def test_queue_full(server: ServerProcess) -> None:
    slow = message(options={"steps": 32})
    with ExitStack() as stack:
        connections = [opened(server) for _ in range(24)]
        for connection in connections:
            stack.callback(connection.close)
            connection.send([slow], soon())
        seen = [outcome(connection.receive(soon())) for connection in connections]
    assert set(seen) == {"OK", "QUEUE_FULL"}
    note("more requests than the queue holds", "QUEUE_FULL", "QUEUE_FULL")


def test_disk_full(tmp_path: Path) -> None:
    arguments = ("--bundle", str(save_bundle(tmp_path)), "--port", "0", "--log-file", "/dev/full")
    with running_server(*arguments) as server:
        connection = opened(server)
        for _ in range(20):
            assert asked(connection, GOOD) == "OK"
        connection.close()
        until(lambda: server.metric("policy_log_lines_dropped_total") >= 20)
        assert server.stop() == (0, "")
    note("disk full while logging", "OK", "OK")


def test_too_often_too_many_and_without_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    arguments = ["--bundle", str(save_bundle(tmp_path / "tiny")), "--port", "0"]
    arguments += ["--requests-per-second", "1", "--max-connections", "2"]
    with running_server(*arguments, "--token-file", str(token)) as server, ExitStack() as stack:
        clients = [PolicyClient(server.url, "secret", timeout_s=PATIENCE_S) for _ in range(3)]
        for client in clients:
            stack.enter_context(client)
        clients[0].metadata()
        clients[1].metadata()
        # The library's client waits for a free place; the refusal is in the handshake.
        clients[2].timeout_s = 0.5
        with pytest.raises(Exception, match="TOO_MANY_CONNECTIONS"):
            clients[2].metadata()
        note("a connection too many", "TOO_MANY_CONNECTIONS", "TOO_MANY_CONNECTIONS")
        with pytest.raises(PolicyRefused) as refused:
            for _ in range(2000):
                clients[0].infer(make_observation())
        note("a client that asks too often", refused.value.reason_code, Reason.RATE_LIMITED)
        clients[0].close()
        code, body = fetch(server.http + "/infer", GOOD, MSGPACK)
        assert code == 401
        note("no token", json.loads(body)["reason_code"], Reason.UNAUTHORISED)


def test_killed_in_mid_request_and_restarted(bundle: Path) -> None:
    arguments = ("--bundle", str(bundle), "--port")
    answers: list[Answer] = []
    with running_server(*arguments, "0") as first:
        client = PolicyClient(first.url, timeout_s=PATIENCE_S)
        client.metadata()
        thread = threading.Thread(
            target=lambda: answers.append(client.infer(make_observation(), steps=MANY_STEPS))
        )
        thread.start()
        until(lambda: first.metric("policy_queue_length") == 1.0)
        first.process.kill()
        first.process.wait()
    with running_server(*arguments, str(first.port)):
        thread.join()
        client.close()
    assert answers[0].chunk.observation_stamp == make_observation().stamp
    note("kill -9 in mid-request, restart", "OK", "OK")


def test_told_to_stop_in_mid_request(bundle: Path) -> None:
    arguments = ("--bundle", str(bundle), "--port", "0", "--drain-seconds", str(PATIENCE_S))
    with running_server(*arguments) as server:
        running, late = opened(server), opened(server)
        running.send([message(options={"steps": MANY_STEPS})], soon())
        until(lambda: server.metric("policy_queue_length") == 1.0)
        server.process.send_signal(signal.SIGTERM)
        seen = asked(late, GOOD)
        while seen == "OK":  # the signal travels, too
            seen = asked(late, GOOD)
        assert outcome(running.receive(soon())) == "OK"
        with pytest.raises(OSError, match="1012"):
            running.receive(soon())
        assert server.wait() == (0, "")
        running.close()
        late.close()
    note("SIGTERM in mid-request: the new one", seen, Reason.SHUTTING_DOWN)


def test_flipped_byte_at_start(bundle: Path, tmp_path: Path) -> None:
    damaged = damage(bundle, tmp_path / "damaged")
    command = ["--bundle", str(damaged), "--port", "0"]
    with pytest.raises(AssertionError, match=r"head\.onnx: hash differs"):
        ServerProcess(*command)
    note("flipped byte in the first bundle", "exit 2", "exit 2")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls(tmp_path: Path) -> None:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext"]
    command += ["subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    arguments = ["--bundle", str(save_bundle(tmp_path / "tiny")), "--port", "0"]
    big = {"front": CameraFrame(np.zeros((480, 640, 3), np.uint8), 7.0)}
    observation = make_observation()
    observation = replace(observation, frames={**observation.frames, **big})
    with running_server(*arguments, "--certificate", str(chain), "--key", str(key)) as server:
        assert server.url.startswith("wss://")
        with PolicyClient(server.url, timeout_s=PATIENCE_S, certificate=chain) as client:
            for _ in range(3):
                client.infer(observation)
        with (
            pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"),
            PolicyClient(server.url, timeout_s=1.0) as client,
        ):
            client.infer(observation)
    note("a certificate that nobody vouches for", "refused by client", "refused by client")


def test_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"  {fault:<40} {seen}" for fault, seen in TABLE.items()]
    with capsys.disabled():
        print("\n\n  fault                                    what came\n" + "\n".join(lines))
    print("\n".join(lines))


def damage(bundle: Path, directory: Path) -> Path:
    """A copy of `bundle` with one bit of the head's graph flipped."""
    shutil.copytree(bundle, directory)
    graph = bytearray((directory / "head.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (directory / "head.onnx").write_bytes(graph)
    return directory


def until(condition: Callable[[], bool]) -> None:
    deadline = soon()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
