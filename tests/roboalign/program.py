"""A Python program that a test starts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """A Python program under test: its output so far, its end."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = 30.0) -> None:
        """Until `text` is in the output. Fails when the program ends first, or in time."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output():
            assert self.process.poll() is None, f"ended early:\n{self.output()}"
            assert time.monotonic() < deadline, f"no {text!r} in time:\n{self.output()}"
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Exit code after the signal."""
        self.process.send_signal(number)
        return self.process.wait(timeout=10.0)
