"""The policy server as a user starts it."""

from __future__ import annotations

import re
import select
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0
"""Longest wait for a process on a loaded machine."""


class ServerProcess:
    """`python -m policy_server` as a user starts it, ready once constructed."""

    def __init__(self, *arguments: str) -> None:
        # A file, not a pipe: a pipe that nobody reads would stop the server once it is full.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "policy_server", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.ready_line = self._first_line()
            found = re.search(r"(wss?)://\S+:(\d+)$", self.ready_line.strip())
            assert found, f"server did not start: {self.ready_line!r} {self.errors()}"
        except BaseException:
            self.kill()
            raise
        self.port = int(found[2])
        self.url = f"{found[1]}://127.0.0.1:{self.port}"
        self.http = self.url.replace("ws", "http", 1)

    @property
    def pid(self) -> int:
        return self.process.pid

    def errors(self) -> str:
        """What was written to stderr so far."""
        self._errors.seek(0)
        return self._errors.read()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; exit code and what was written to stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Exit code, once it has ended, and what was written to stderr."""
        code = self.process.wait(timeout=PATIENCE_S)
        return code, self.errors()

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def metric(self, name: str, headers: Mapping[str, str] | None = None) -> float:
        """One value of /metrics; 0 if it is not there yet."""
        _, text = fetch(self.http + "/metrics", headers=headers)
        found = re.search(rf"^{re.escape(name)} (\S+)$", text.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        return self.process.stdout.readline() if ready else ""


@contextmanager
def running_server(*arguments: str) -> Iterator[ServerProcess]:
    server = ServerProcess(*arguments)
    try:
        yield server
    finally:
        server.kill()


def fetch(
    url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of a GET, or of a POST of `body`."""
    request = urllib.request.Request(url, body, dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
