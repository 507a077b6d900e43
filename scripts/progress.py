"""What a person sees of the setup: numbered steps with times, and a sign of life while one runs."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SIGN_OF_LIFE_S = 15.0
TAIL_LINES = 25


class SetupError(Exception):
    """Setup cannot go on; the text is what the person should read."""


class Progress:
    """Numbers the steps and prints how long each took."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0
        self.started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.number += 1
        say(f"[{self.number}/{self.total}] {title}")
        begin = time.monotonic()
        yield
        took = time.monotonic() - begin
        if took >= 1.0:
            say(f"      {took:.0f} s")

    def elapsed(self) -> float:
        return time.monotonic() - self.started


def say(line: str) -> None:
    print(line, flush=True)


def run_logged(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Run a long command with its output in a file; show that it lives; raise if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=environment,
        )  # fmt: skip
        try:
            wait_with_sign_of_life(process, log)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        tail = "\n".join(f"      | {line}" for line in last_lines(log, TAIL_LINES))
        raise SetupError(f"{tail}\n`{' '.join(command[:4])} ...` failed; all of it is in {log}")


def wait_with_sign_of_life(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the process; now and then print the last thing that it said."""
    begin = time.monotonic()
    while True:
        try:
            process.wait(timeout=SIGN_OF_LIFE_S)
            return
        except subprocess.TimeoutExpired:
            say(f"      {time.monotonic() - begin:3.0f} s  {news(log)}")


def news(log: Path) -> str:
    """The latest line of a log that says where it stands, short enough for a terminal."""
    telling = ("Collecting", "Downloading", "Installing", "Starting", "Finished", "Setting up")
    lines = [line.strip() for line in last_lines(log, 200)]
    latest = [line for line in lines if line.startswith(telling)]
    return latest[-1][:70] if latest else "working"


def last_lines(log: Path, count: int) -> list[str]:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-count:]


def fail(message: str) -> None:
    print(f"setup: {message}", file=sys.stderr, flush=True)
