"""Start `simulation.live` as a child process, for the benchmark and the tests."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from types import TracebackType
from typing import Final

from simulation.live_control import HOST, LiveControl

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 3.0


class LiveProcessError(RuntimeError):
    """The live simulation did not start; the text is what it said."""


class LiveProcess:
    """A live simulation of its own: free loopback address, free control port, own shared memory.

    It ends with the `with` block, and with the process that started it.
    """

    def __init__(self) -> None:
        """Raises LiveProcessError: it ends, or is not ready within START_TIMEOUT."""
        port = _free_port()
        # Every 127.x.y.z is this machine; one of our own never meets a demo's 127.0.0.1.
        self.hostname = f"127.77.{port >> 8}.{max(1, port & 0xFE)}"
        self.shared_memory = f"roboalign_{os.getpid()}_{port}"
        self.control = LiveControl(port)
        command = [
            sys.executable, "-m", "simulation.live", "--hostname", self.hostname,
            "--shared-memory", self.shared_memory, "--control-port", str(port),
            "--die-with-parent",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            self._wait_until_ready()
        except BaseException:  # Ctrl-C too: nothing of it may be left
            self.stop()
            raise

    def stop(self) -> int:
        """End it in order, or by force after STOP_TIMEOUT; return the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            assert self.process.stdout is not None  # asked for with PIPE
            self.process.stdout.close()

    def __enter__(self) -> LiveProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        output = self.process.stdout
        assert output is not None  # asked for with PIPE
        deadline = time.monotonic() + START_TIMEOUT
        while (left := deadline - time.monotonic()) > 0.0:
            if not select.select([output], [], [], left)[0]:
                break
            line = output.readline()
            if line.strip() == "simulation ready":
                return
            if not line:
                code = self.process.wait()
                raise LiveProcessError(f"the live simulation ended with exit code {code}")
        raise LiveProcessError(f"the live simulation is not ready after {START_TIMEOUT:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
