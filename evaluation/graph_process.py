"""The robot's whole graph on the simulated arm, as one child process that leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from roboalign.graph import Graph, GraphArguments, build_graph

ARM_PORTS: Final = (1337, 1338)
"""libfranka's own, of arm and hand: a client cannot choose others."""
HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 150.0
STOP_TIMEOUT_S: Final = 30.0
"""More than the supervisor takes to kill what does not end by itself."""
POLL_PERIOD_S: Final = 0.2
MARKER: Final = "ROBOALIGN_EVALUATION"
"""Environment variable by which every process of the graph is found again."""
SHARED_MEMORY: Final = Path("/dev/shm")
# The kernel ends the supervisor with us even if we are killed; it then ends everything else.
_BOUND_TO_PARENT: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class GraphFailed(Exception):
    """The graph did not start, stop or work as it must; the text says which part and why."""


class PortTaken(Exception):
    """Somebody else listens where the simulated arm must; the text says where."""


class RobotGraph:
    """The running graph; a context manager. Starting and stopping take some seconds.

    Ctrl-C in the terminal does not reach it: it is stopped from here, in order.
    """

    def __init__(self, bundle: str, log_directory: Path, tell: Callable[[str], None]) -> None:
        """`tell` shows a line about what is being waited for."""
        self._marker = secrets.token_hex(8)
        self.arguments = GraphArguments(
            sim=True,
            bundle=bundle,
            policy_port=_free_port(),
            control_port=_free_port(),
            shared_memory=f"roboalign_{self._marker}",
        )
        self.graph: Graph = build_graph(self.arguments)
        self.domain_id = int(os.environ.get("ROS_DOMAIN_ID") or 1 + secrets.randbelow(100))
        self._logs = log_directory
        self._tell = tell
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RobotGraph:
        """Start, and wait until every process is ready.

        Raises:
            PortTaken, GraphFailed: the text says why.
        """
        check_ports()
        self._logs.mkdir(parents=True, exist_ok=True)
        for old in self._logs.glob("*.log"):
            old.unlink()
        try:
            with self._output().open("wb") as output:
                self._process = self._spawn(output)
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tell("stopping the robot graph")
        left = self.stop()
        if left and error is None:
            raise GraphFailed(f"these processes had to be killed: {', '.join(left)}")

    def check(self) -> None:
        """Raise GraphFailed if the graph has ended."""
        if self._process is None or self._process.poll() is not None:
            raise GraphFailed(self._last_words())

    def stop(self) -> list[str]:
        """End everything; return what did not end by itself. A second Ctrl-C cannot break in."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            if self._process is not None:
                self._process.terminate()
                _wait(self._process, STOP_TIMEOUT_S)
            self._process = None
            left = marked_processes(self._marker)
            for process in left:
                _kill(process)
            (SHARED_MEMORY / self.arguments.shared_memory).unlink(missing_ok=True)
            return sorted(left.values())
        finally:
            signal.signal(signal.SIGINT, before)

    def _spawn(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        a = self.arguments
        supervisor = [
            *(sys.executable, "-m", "roboalign.supervisor"),
            *("sim:=true", f"bundle:={a.bundle}", f"policy_port:={a.policy_port}"),
            *(f"control_port:={a.control_port}", f"shared_memory:={a.shared_memory}"),
            *("--log-directory", str(self._logs), "--domain-id", str(self.domain_id)),
        ]
        return subprocess.Popen(
            [sys.executable, "-S", "-c", _BOUND_TO_PARENT, *supervisor],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, MARKER: self._marker, "PYTHONUNBUFFERED": "1"},
            process_group=0,
        )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while b"graph ready" not in self._output().read_bytes():
            self.check()
            waiting = self._not_ready()
            self._tell("starting " + ", ".join(waiting) if waiting else "the robot graph is ready")
            if time.monotonic() > deadline:
                text = f"not ready within {START_TIMEOUT_S:g} s: {', '.join(waiting)}"
                raise GraphFailed(f"{text}; logs in {self._logs}")
            time.sleep(POLL_PERIOD_S)

    def _not_ready(self) -> list[str]:
        """Processes whose log does not yet say that they work."""
        logs = {p.name: self._logs / f"{p.name}.log" for p in self.graph.processes}
        return [
            p.name
            for p in self.graph.processes
            if not logs[p.name].exists()
            or p.ready_line not in logs[p.name].read_text(errors="replace")
        ]

    def _output(self) -> Path:
        return self._logs / "supervisor.log"

    def _last_words(self) -> str:
        lines = self._output().read_text(errors="replace").splitlines()
        errors = [i for i, line in enumerate(lines) if line.startswith("supervisor: ")]
        text = "\n".join(lines[errors[-1] if errors else -3 :])
        return f"the robot graph ended: {text or 'without a word'}"


def check_ports() -> None:
    """Raise PortTaken unless the simulated arm can have libfranka's ports."""
    for port in ARM_PORTS:
        with socket.socket() as probe:
            # As the simulator does it: connections that only fade away are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise PortTaken(
                    f"port {port} on {HOST} is in use ({error.strerror}): another simulated robot "
                    "is running; end it first"
                ) from error


def marked_processes(marker: str) -> Mapping[int, str]:
    """Command by process id of every process that was started with the marker."""
    wanted = f"{MARKER}={marker}".encode()
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (directory / "environ").read_bytes().split(b"\0"):
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(directory.name)] = command.decode(errors="replace").strip()
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return  # ended by itself after all
