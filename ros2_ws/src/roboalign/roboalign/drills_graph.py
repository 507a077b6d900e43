"""The live graph that the drills disturb: every real process, and a handle on each.

Simulated arm and cameras as in the demo, with `drills_simulation` for the one and
`drills_policy` for the server, so that the arm moves whenever a fault comes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from roboalign.graph import Graph, GraphArguments, ProcessSpec, build_graph
from roboalign.supervisor import GraphDied, Supervisor
from simulation.live_control import LiveControl

POLL_S = 0.05
POLICY = "drill_policy"
CLOCK_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
/* The wall clock of every process that loads this is off by the seconds in a shared file. */
static volatile double *offset;
__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("ROBOALIGN_CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(0, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    offset = page == MAP_FAILED ? 0 : page;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && offset) now->tv_sec += (time_t)*offset;
    return result;
}
"""


class NotPossible(RuntimeError):
    """This machine cannot run a drill; the text says what is missing."""


class FaultControl(LiveControl):
    """The control channel of drills_simulation."""

    def set_fault(self, kind: str) -> float:
        """What the hardware suffers from, one of drills_simulation.FAULTS; return the time [s], on
        this process's monotonic clock, since when it does.
        """
        answer = self._ask({"command": "fault", "kind": kind})
        return time.monotonic() - max(0.0, time.time() - float(answer["since"]))


class PolicyNetwork:
    """A network namespace for the policy server, joined to this one by a pair of interfaces."""

    def __init__(self) -> None:
        """Raises NotPossible: no privilege, or no such interfaces."""
        tag = secrets.token_hex(3)
        self.name, self._outside, inside = f"drill{tag}", f"dro{tag}", f"dri{tag}"
        number = 1 + secrets.randbelow(250)
        self.address = f"10.213.{number}.2"
        try:
            for words in (
                f"netns add {self.name}",
                f"link add {self._outside} type veth peer name {inside}",
                f"link set {inside} netns {self.name}",
                f"addr add 10.213.{number}.1/30 dev {self._outside}",
                f"link set {self._outside} up",
                f"-n {self.name} addr add {self.address}/30 dev {inside}",
                f"-n {self.name} link set {inside} up",
                f"-n {self.name} link set lo up",
            ):
                _ip(words)
        except NotPossible:
            self.close()
            raise

    def cut(self, cut: bool) -> None:
        _ip(f"link set {self._outside} {'down' if cut else 'up'}")

    def close(self) -> None:
        for words in (f"link del {self._outside}", f"netns del {self.name}"):
            subprocess.run(["ip", *words.split()], capture_output=True, check=False)


class ShiftedClock:
    """A wall clock for the graph alone, which can jump."""

    def __init__(self, directory: Path) -> None:
        """Raises NotPossible: no C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise NotPossible("a C compiler (cc) is needed for a clock that jumps")
        source, library = directory / "clock.c", directory / "clock.so"
        self._offset = directory / "clock_offset"
        source.write_text(CLOCK_SHIM)
        command = [compiler, "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode != 0:
            raise NotPossible(f"the clock that jumps does not compile: {built.stderr.strip()}")
        self.jump(0.0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "ROBOALIGN_CLOCK_OFFSET": str(self._offset),
        }

    def jump(self, seconds: float) -> None:
        """Off by `seconds` from now on; in place, since the processes have the file mapped."""
        with self._offset.open("r+b" if self._offset.exists() else "w+b") as file:
            file.write(struct.pack("d", seconds))


class SmallDisk:
    """A file system of a few megabytes, which a drill can fill."""

    SIZE = "6m"

    def __init__(self, directory: Path) -> None:
        """Raises NotPossible: no privilege to mount."""
        self.path = directory / "disk"
        self.path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE}", "tmpfs", str(self.path)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            raise NotPossible(f"a small disk cannot be mounted: {mounted.stderr.strip()}")

    def fill(self) -> None:
        try:
            with (self.path / "filler").open("wb") as file:
                while True:
                    file.write(bytes(65536))
                    file.flush()
        except OSError:
            return  # full, as it should be

    def empty(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)


class DrillGraph:
    """The graph in a temporary directory; a context manager. Parts that this machine cannot have
    (network, clock, disk) are None, and `missing` says why.
    """

    def __init__(self, keep_logs: Path | None = None) -> None:
        self._keep_logs = keep_logs
        self.directory = Path(tempfile.mkdtemp(prefix="roboalign-drills-"))
        self.missing: dict[str, str] = {}
        self.network = self._part("network", PolicyNetwork)
        self.clock = self._part("clock", lambda: ShiftedClock(self.directory))
        self.disk = self._part("disk", lambda: SmallDisk(self.directory))
        self.mode_file = self.directory / "mode"
        self.set_mode("normal")
        host = self.network.address if self.network else "127.0.0.1"
        port = _free_port()
        self.arguments = GraphArguments(
            sim=True,
            robot_ip=f"127.88.{1 + secrets.randbelow(250)}.{1 + secrets.randbelow(250)}",
            policy_url=f"ws://{host}:{port}",
            control_port=_free_port(),
            shared_memory=f"roboalign_drills_{secrets.token_hex(4)}",
        )
        self.graph = self._graph(host, port)
        self.domain_id = int(os.environ.get("ROS_DOMAIN_ID") or 1 + secrets.randbelow(100))
        self.control = FaultControl(self.arguments.control_port)
        self.died = ""
        self._supervisor: Supervisor | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def logs(self) -> Path:
        return (self.disk.path if self.disk else self.directory) / "logs"

    def __enter__(self) -> DrillGraph:
        """Raises GraphDied: the graph did not start."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start every process and wait for it. Raises GraphDied."""
        self.died = ""
        self._stop.clear()
        self._supervisor = Supervisor(self.graph, self.logs, domain_id=self.domain_id)
        self._supervisor.start()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every process."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._supervisor is not None:
            self._supervisor.stop()
        self._thread = self._supervisor = None

    def close(self) -> None:
        self.stop()
        if self._keep_logs is not None and self.logs.is_dir():
            shutil.copytree(self.logs, self._keep_logs, dirs_exist_ok=True)
        for part in (self.network, self.disk):
            if part is not None:
                part.close()
        Path("/dev/shm", self.arguments.shared_memory).unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def require(self, part: str) -> None:
        """Raises NotPossible: this machine has no such part."""
        if part in self.missing:
            raise NotPossible(self.missing[part])

    def set_mode(self, mode: str) -> None:
        """What the policy answers from now on; one of drills_policy.MODES."""
        new = self.mode_file.with_suffix(".new")
        new.write_text(mode)
        new.replace(self.mode_file)

    def signal(self, process: str, number: signal.Signals) -> None:
        """Send a signal to one process of the graph, by its name."""
        assert self._supervisor is not None
        os.kill(self._supervisor.processes()[process], number)

    def _graph(self, host: str, port: int) -> Graph:
        graph = build_graph(self.arguments)
        words: Sequence[str] = (
            *("--host", host, "--port", str(port), "--mode-file", str(self.mode_file)),
            *(("--namespace", self.network.name) if self.network else ()),
        )
        policy = ProcessSpec(
            name=POLICY,
            module="roboalign.drills_policy",
            arguments=tuple(words),
            ready_line="policy server ready",
            respawn=True,
        )
        processes = tuple(
            replace(p, module="roboalign.drills_simulation") if p.name == "simulation" else p
            for p in graph.processes
        )
        clock = self.clock.environment if self.clock else {}
        return Graph((policy, *processes), {**graph.environment, **clock})

    def _watch(self) -> None:
        while not self._stop.is_set() and self._supervisor is not None:
            try:
                self._supervisor.check()
            except GraphDied as end:
                self.died = str(end)
                return
            time.sleep(POLL_S)

    def _part(self, name, make):  # type: ignore[no-untyped-def]
        try:
            return make()
        except NotPossible as error:
            self.missing[name] = str(error)
            return None


def _ip(words: str) -> None:
    if shutil.which("ip") is None:
        raise NotPossible("the command `ip` (iproute2) is needed to cut the server's network")
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPossible(f"a network namespace cannot be made: {done.stderr.strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
