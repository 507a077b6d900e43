"""Ends the processes of a supervisor that was killed and could not do it itself.

`python -S process_reaper.py MARKER` waits until its standard input closes, which happens at the
latest when the supervisor dies, and then ends every process whose environment holds
`ROBOALIGN_SUPERVISOR=MARKER`. Standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

MARKER_VARIABLE = "ROBOALIGN_SUPERVISOR"
TERM_GRACE_S = 5.0


def marked_processes(marker: str) -> list[int]:
    """Process ids, other than our own, whose environment holds the marker."""
    wanted = f"{MARKER_VARIABLE}={marker}".encode()
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            environment = (directory / "environ").read_bytes()
        except OSError:
            continue  # ended meanwhile, or another user's
        if wanted in environment.split(b"\0"):
            found.append(int(directory.name))
    return found


def end_marked(marker: str, grace_s: float = TERM_GRACE_S) -> int:
    """SIGTERM, then SIGKILL after `grace_s`; return how many had to be told."""
    told = _signal_all(marked_processes(marker), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while marked_processes(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    while _signal_all(marked_processes(marker), signal.SIGKILL):
        time.sleep(0.05)
    return told


def _signal_all(processes: list[int], number: signal.Signals) -> int:
    count = 0
    for process in processes:
        try:
            os.kill(process, number)
            count += 1
        except ProcessLookupError:
            continue
    return count


def main() -> None:
    """Wait for the supervisor's end. A Ctrl-C in the terminal is the supervisor's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])


if __name__ == "__main__":
    main()
