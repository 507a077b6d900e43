"""The live simulation's control channel: JSON lines over TCP on 127.0.0.1, both ends.

One request a line, one answer a line: `{"command": "reset", "task": .., "object": .., "seed": ..}`,
`{"command": "score"}`, `{"command": "truth"}`, `{"command": "status"}`. An answer with the key
`error` says why a request was refused.
"""

from __future__ import annotations

import json
import queue
import socket
import socketserver
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simulation.expert import SceneTruth
from simulation.scoring import Score

HOST: Final = "127.0.0.1"
LONGEST_LINE: Final = 65536
ANSWER_TIMEOUT: Final = 2.0
"""Seconds that the physics loop may take to answer a request."""

Message = Mapping[str, Any]


class LiveControlError(RuntimeError):
    """The simulation does not answer, or refuses; the text says why."""


@dataclass(frozen=True)
class LiveStatus:
    """Mean rate [Hz] of the physics loop and its late ticks since the last call; simulated time."""

    rate_hz: float
    late_ticks: int
    time: float


class LiveControl:
    """Client of one live simulation. Every call may raise LiveControlError."""

    def __init__(self, port: int, timeout: float = 3.0) -> None:
        """`timeout` [s] holds for each call; a connection is made per call."""
        self.port = port
        self.timeout = timeout

    def reset(self, task: str, obj: str, seed: int) -> None:
        """Place the trial's objects and containers; the arm stays where it is."""
        self._ask({"command": "reset", "task": task, "object": obj, "seed": seed})

    def score(self) -> Score:
        """Score of the trial, at most 0.1 s old."""
        answer = self._ask({"command": "score"})
        return Score(bool(answer["success"]), str(answer["stage"]))

    def truth(self) -> SceneTruth:
        """Where the trial's object and target are."""
        answer = self._ask({"command": "truth"})
        return SceneTruth(
            np.array(answer["object_position"], dtype=np.float64),
            float(answer["object_yaw"]),
            np.array(answer["target_position"], dtype=np.float64),
        )

    def status(self) -> LiveStatus:
        """How the physics loop keeps its pace."""
        answer = self._ask({"command": "status"})
        return LiveStatus(
            float(answer["rate_hz"]), int(answer["late_ticks"]), float(answer["time"])
        )

    def _ask(self, request: Message) -> dict[str, Any]:
        where = f"the simulation's control port {self.port}"
        try:
            with socket.create_connection((HOST, self.port), self.timeout) as connection:
                connection.sendall(json.dumps(request).encode() + b"\n")
                line = connection.makefile("rb").readline(LONGEST_LINE)
        except OSError as error:
            raise LiveControlError(f"{where} does not answer: {error}") from error
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise LiveControlError(f"{where} answered {line[:80]!r}, which is not JSON") from error
        if not isinstance(answer, dict) or "error" in answer:
            raise LiveControlError(str(answer["error"] if isinstance(answer, dict) else answer))
        return answer


class ControlServer:
    """Takes requests in threads; `serve_pending` answers them in the loop that owns the world."""

    def __init__(self, port: int) -> None:
        """Raises OSError: the port is in use."""
        self._pending: deque[tuple[Message, queue.SimpleQueue[Message]]] = deque()
        try:
            self._server = _Server((HOST, port), _Connection)
        except OSError as error:
            raise OSError(f"control port {port}: {error.strerror}") from error
        self._server.submit = self._submit
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="control channel", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop accepting; open connections end with the process."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def serve_pending(self, answer: Callable[[Message], Message]) -> None:
        """Answer what came in; `answer` may raise ValueError, whose text is sent back."""
        while self._pending:
            request, reply = self._pending.popleft()
            try:
                reply.put(answer(request))
            except ValueError as error:
                reply.put({"error": str(error)})

    def _submit(self, request: Message) -> Message:
        reply: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._pending.append((request, reply))
        try:
            return reply.get(timeout=ANSWER_TIMEOUT)
        except queue.Empty:
            return {"error": f"the physics loop did not answer within {ANSWER_TIMEOUT} s"}


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    submit: Callable[[Message], Message]


class _Connection(socketserver.StreamRequestHandler):
    """One client: a line in, a line out, until it leaves."""

    server: _Server

    def handle(self) -> None:
        try:
            while line := self.rfile.readline(LONGEST_LINE):
                answer = self._answer(line)
                self.wfile.write(json.dumps(answer).encode() + b"\n")
        except ConnectionError:
            return  # the client left without waiting for its answer

    def _answer(self, line: bytes) -> Message:
        try:
            request = json.loads(line)
        except ValueError as error:
            return {"error": f"a request must be one line of JSON: {error}"}
        if not isinstance(request, dict):
            return {"error": "a request must be a JSON object with the key 'command'"}
        return self.server.submit(request)
