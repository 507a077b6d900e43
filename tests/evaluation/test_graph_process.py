"""What must be free before the graph starts, and what must not be left after it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from evaluation.graph_process import MARKER, PortTaken, check_ports, marked_processes


def test_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # then a simulated robot is running here: taken as well
            taken.bind(("127.0.0.1", 1337))
            taken.listen()
        with pytest.raises(PortTaken, match=r"port 1337 on 127\.0\.0\.1 is in use"):
            check_ports()


def test_processes_are_found_by_their_marker() -> None:
    environment = {**os.environ, MARKER: "test-of-the-marker"}
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], env=environment, stdin=subprocess.PIPE
    ) as child:
        assert list(marked_processes("test-of-the-marker")) == [child.pid]
        assert marked_processes("test-of") == {}
        child.kill()
