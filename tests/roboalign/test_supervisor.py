"""Process life: order, respawn, required, and that nothing outlives the supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from roboalign.graph import Graph, ProcessSpec
from roboalign.process_reaper import marked_processes
from roboalign.supervisor import GraphDied, Supervisor
from tests.roboalign.program import Program

# A program of the standard library that says when it is ready and runs until it is told to end.
SERVE = ("0", "--bind", "127.0.0.1")
READY = "Serving HTTP"
RUN_SERVERS = """
import sys, time
from pathlib import Path
from roboalign.graph import Graph, ProcessSpec
from roboalign.supervisor import Supervisor
specs = [ProcessSpec(n, "http.server", "Serving HTTP", arguments=("0", "--bind", "127.0.0.1"))
         for n in ("a", "b")]
with Supervisor(Graph(tuple(specs), {}), Path(sys.argv[1])) as supervisor:
    supervisor.start()
    print("up", supervisor._marker, flush=True)
    time.sleep(60)
"""


def server(name: str, **options: bool) -> ProcessSpec:
    return ProcessSpec(name, "http.server", READY, arguments=SERVE, **options)


def supervised(directory: Path, *specs: ProcessSpec) -> Supervisor:
    return Supervisor(Graph(specs, {"COLOUR": "blue"}), directory)


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def test_starts_all_and_leaves_none(tmp_path: Path) -> None:
    with supervised(tmp_path, server("a"), server("b")) as supervisor:
        supervisor.start()
        processes = supervisor.processes()
        assert list(processes) == ["a", "b"]
        for process in processes.values():
            assert b"COLOUR=blue" in Path(f"/proc/{process}/environ").read_bytes()
            assert os.getpgid(process) == process
    assert all(gone(process) for process in processes.values())


def test_a_respawned_process_comes_back(tmp_path: Path) -> None:
    with supervised(tmp_path, server("a", respawn=True)) as supervisor:
        supervisor.start()
        first = supervisor.processes()["a"]
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 5.0
        while supervisor.processes()["a"] == first:
            supervisor.check()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_death_of_a_required_process_is_told(tmp_path: Path) -> None:
    with supervised(tmp_path, server("a", required=True)) as supervisor:
        supervisor.start()
        os.kill(supervisor.processes()["a"], signal.SIGKILL)
        time.sleep(0.3)
        with pytest.raises(GraphDied, match="a ended with code -9"):
            supervisor.check()


def test_a_process_that_never_was_ready_ends_the_start(tmp_path: Path) -> None:
    wrong = ProcessSpec("wrong", "http.server", READY, arguments=("--no-such-option",))
    with (
        supervised(tmp_path, wrong) as supervisor,
        pytest.raises(GraphDied, match=r"(?s)wrong ended.*unrecognized arguments"),
    ):
        supervisor.start()


def test_a_stop_that_was_requested_ends_the_start(tmp_path: Path) -> None:
    supervisor = supervised(tmp_path, server("a"))
    supervisor.request_stop()
    with supervisor:
        supervisor.start()
        assert supervisor.processes() == {}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_a_killed_supervisor(
    start: Callable[..., Program], tmp_path: Path, number: int
) -> None:
    program = start("-c", RUN_SERVERS, str(tmp_path))
    program.wait_for("up")
    marker = program.output().split()[1]
    assert len(marked_processes(marker)) == 2
    program.end(number)
    deadline = time.monotonic() + 8.0
    while marked_processes(marker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
