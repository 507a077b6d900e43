"""Starts the graph without `launch`: `python -m roboalign.supervisor sim:=true`.

Each process leads a process group of its own and writes to a log file of its own. The supervisor
starts them in the graph's order, starts again what may be, and ends all when a required one dies
or when it gets SIGINT or SIGTERM. Exit codes: 0 after a signal, 1 when a required process died or
did not become ready, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from roboalign import process_reaper
from roboalign.graph import (
    Graph,
    GraphArguments,
    GraphError,
    ProcessSpec,
    build_graph,
    default_log_directory,
    node_arguments,
)
from roboalign.preflight import PreflightError, check_graph_before_motion

POLL_PERIOD_S = 0.05
RESPAWN_PAUSE_S = 1.0
STOP_GRACE_S = 6.0
LOG_TAIL_LINES = 8


class GraphDied(RuntimeError):
    """A required process ended or did not become ready; the text names it and ends its log."""


@dataclass
class _Running:
    spec: ProcessSpec
    process: subprocess.Popen[bytes]
    log: Path
    ready: bool = False
    died_at: float = 0.0


class Supervisor:
    """One run of a graph; a context manager that leaves no process behind.

    For one thread. The environment of the processes is this process's, with the graph's on top,
    and with `domain_id` for ROS_DOMAIN_ID where it is given.
    """

    def __init__(self, graph: Graph, log_directory: Path, *, domain_id: int | None = None) -> None:
        self.graph = graph
        self.log_directory = log_directory
        self._marker = secrets.token_hex(16)
        self._environment = {
            **os.environ,
            **graph.environment,
            process_reaper.MARKER_VARIABLE: self._marker,
            "PYTHONUNBUFFERED": "1",
        }
        if domain_id is not None:
            self._environment["ROS_DOMAIN_ID"] = str(domain_id)
        self._running: list[_Running] = []
        self._reaper: subprocess.Popen[bytes] | None = None
        self.stop_requested = False

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def request_stop(self, *_: int | FrameType | None) -> None:
        """Signal handler: end at the next look."""
        self.stop_requested = True

    def start(self) -> None:
        """Start every process, the ROS nodes once all else is ready, and wait for them too.

        Returns early when a stop was requested. Raises GraphDied.
        """
        self.log_directory.mkdir(parents=True, exist_ok=True)
        self._start_reaper()
        for nodes in (False, True):
            for spec in self.graph.processes:
                if spec.is_node == nodes and not self.stop_requested:
                    self._running.append(self._spawn(spec))
            for running in self._running:
                self._wait_ready(running)

    def check(self) -> None:
        """Start again what died and may be. Call it often.

        Raises GraphDied: a required process died, or one that was never ready.
        """
        for running in self._running:
            code = running.process.poll()
            if code is None:
                continue
            if running.spec.required or not running.ready:
                raise GraphDied(_obituary(running, f"ended with code {code}"))
            if running.died_at == 0.0:
                running.died_at = time.monotonic()
                _say(f"{running.spec.name} ended with code {code}")
            if running.spec.respawn and time.monotonic() > running.died_at + RESPAWN_PAUSE_S:
                _say(f"{running.spec.name}: starting again")
                running.process = self._spawn(running.spec).process
                running.died_at = 0.0

    def processes(self) -> dict[str, int]:
        """Process id by name."""
        return {running.spec.name: running.process.pid for running in self._running}

    def stop(self) -> None:
        """End the ROS nodes, then the rest, so that the arm stops while it can still be reached."""
        nodes = [r for r in self._running if r.spec.is_node]
        programs = [r for r in self._running if not r.spec.is_node]
        for stage in (nodes, programs):
            _end_groups(stage)
        self._running = []
        # What left its group is found by the marker.
        process_reaper.end_marked(self._marker, grace_s=1.0)
        if self._reaper is not None and self._reaper.stdin is not None:
            self._reaper.stdin.close()
            self._reaper.wait()
        self._reaper = None

    def _spawn(self, spec: ProcessSpec) -> _Running:
        log = self.log_directory / f"{spec.name}.log"
        words = node_arguments(spec) if spec.is_node else list(spec.arguments)
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", spec.module, *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                process_group=0,
            )
        return _Running(spec, process, log)

    def _wait_ready(self, running: _Running) -> None:
        deadline = time.monotonic() + running.spec.start_timeout_s
        while not running.ready and not self.stop_requested:
            self.check()
            running.ready = running.spec.ready_line in running.log.read_text(errors="replace")
            if time.monotonic() > deadline:
                limit = running.spec.start_timeout_s
                raise GraphDied(_obituary(running, f"was not ready within {limit:g} s"))
            if not running.ready:
                time.sleep(POLL_PERIOD_S)

    def _start_reaper(self) -> None:
        # -S: without site-packages it starts at once. In a session of its own no Ctrl-C meets it.
        environment = dict(self._environment)
        del environment[process_reaper.MARKER_VARIABLE]
        self._reaper = subprocess.Popen(
            [sys.executable, "-S", process_reaper.__file__, self._marker],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )


def _end_groups(stage: Sequence[_Running]) -> None:
    """SIGTERM to every group, SIGKILL to what is left after STOP_GRACE_S."""
    for running in stage:
        _signal_group(running, signal.SIGTERM)
    deadline = time.monotonic() + STOP_GRACE_S
    for running in stage:
        try:
            running.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _say(f"{running.spec.name} did not end by itself: killed")
        # The group, not only its leader: a child of it may be left.
        _signal_group(running, signal.SIGKILL)
        running.process.wait()


def _signal_group(running: _Running, number: signal.Signals) -> None:
    try:
        os.killpg(running.process.pid, number)
    except ProcessLookupError:
        return  # the whole group is gone already


def _obituary(running: _Running, what: str) -> str:
    tail = running.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join([f"{running.spec.name} {what}; the end of {running.log}:", *tail])


def _say(text: str) -> None:
    print(f"[supervisor] {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m roboalign.supervisor", description=__doc__)
    parser.add_argument("launch_arguments", nargs="*", help="as for launch, e.g. sim:=true")
    parser.add_argument("--log-directory", type=Path, help="default: a new temporary one")
    parser.add_argument("--domain-id", type=int, help="ROS_DOMAIN_ID of the graph")
    options = parser.parse_args(arguments)
    try:
        chosen = GraphArguments.from_texts(_split(options.launch_arguments))
        graph = build_graph(chosen)
        check_graph_before_motion(chosen)
    except (ValueError, PreflightError) as error:
        print(f"supervisor: {error}", file=sys.stderr)
        return 2
    logs = options.log_directory or default_log_directory()
    supervisor = Supervisor(graph, logs, domain_id=options.domain_id)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, supervisor.request_stop)
    with supervisor:
        return _run(supervisor)


def _run(supervisor: Supervisor) -> int:
    try:
        _say(f"logs in {supervisor.log_directory}")
        supervisor.start()
        if not supervisor.stop_requested:
            _say("graph ready: " + ", ".join(supervisor.processes()))
        while not supervisor.stop_requested:
            supervisor.check()
            time.sleep(POLL_PERIOD_S)
    except GraphDied as error:
        print(f"supervisor: {error}", file=sys.stderr)
        return 1
    return 0


def _split(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition(":=") for word in words]
    for name, separator, _ in pairs:
        if not separator:
            raise GraphError(f"{name!r} is not of the form name:=value")
    return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    sys.exit(main())
