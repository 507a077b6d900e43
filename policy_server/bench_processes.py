"""Processes that the bench starts, waits for with a limit, and ends."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

END_S = 10.0


class BenchError(Exception):
    """One side could not be measured; the text says why."""


class BenchProcess:
    """`python -m MODULE ARGUMENTS`, talked to in lines; its standard error is the bench's own."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.name = " ".join([module, *arguments[:1]])
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> BenchProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, beginning: str, timeout_s: float) -> str:
        """The next line that begins so.

        Raises:
            BenchError: the process ended, or no such line came in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise BenchError(f"{self.name}: no answer within {timeout_s:.0f} s") from None
            if line is None:
                code = self._process.wait()
                raise BenchError(f"{self.name}: ended with exit code {code}; see above")
            if line.startswith(beginning):
                return line

    def ask(self, text: str, timeout_s: float) -> str:
        """Write a line, and read one."""
        try:
            self._process.stdin.write(text + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise BenchError(f"{self.name}: ended") from error
        return self.line("", timeout_s)


def percentile(times: Sequence[float], share: float) -> float:
    """Nearest-rank percentile, `share` 0..1."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
