"""The bench's trials on the live graph: the same starts in every mode, at every latency."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.task import OBJECTS, TASKS
from roboalign.bench_delay import DelayedServer
from roboalign.execution_mode import ExecutionMode
from roboalign.graph import Graph, GraphArguments, build_graph
from roboalign.supervisor import Supervisor
from simulation.live_control import LiveControl

if TYPE_CHECKING:
    from roboalign.bench_link import BenchLink, Recording

HOST = "127.0.0.1"
TIME_LIMIT_S = 25.0
"""Longer than an evaluation's: standing still must cost time here, not success."""
SUCCESS_HOLD_S = 0.3
SCORE_PERIOD_S = 0.1
SETTLE_S = 0.5
"""After a placement, for the objects to come to rest and pictures of them to arrive."""


class BenchFailed(RuntimeError):
    """The graph did not do what the bench needs; the text says what."""


@dataclass(frozen=True)
class Start:
    """Where a trial begins: the placement that belongs to `seed`."""

    task: str
    obj: str
    seed: int


@dataclass(frozen=True)
class Trial:
    """One trial to run: `delay_ms` is added to each answer of the policy server."""

    start: Start
    mode: ExecutionMode
    delay_ms: int


@dataclass(frozen=True)
class Outcome:
    """How a trial went: `seconds` from the goal to sustained success, or to its end without.

    reason: ExecuteTask's word for an end that was none of ours, empty where it succeeded; message:
    its sentence.
    """

    trial: Trial
    success: bool
    stage: str
    seconds: float
    reason: str
    message: str

    @property
    def graph_worked(self) -> bool:
        """Whether the trial tells of the policy: it came to its success or to its time limit."""
        return self.success or self.reason == "timeout"


def starts(count: int, seed: int) -> list[Start]:
    """The first `count` starts: all pairs of task and object, then again with the next seed.

    Neighbours differ in task and object, so that few starts still show all of them.
    """
    turns = [
        (task, OBJECTS[(number + turn) % len(OBJECTS)])
        for turn in range(len(OBJECTS))
        for number, task in enumerate(TASKS)
    ]
    return [Start(*turns[i % len(turns)], seed + i // len(turns)) for i in range(count)]


def plan(
    paired: Sequence[Start], side: Sequence[Start], delays_ms: Sequence[int], paired_delay_ms: int
) -> list[Trial]:
    """Every trial in order. At `paired_delay_ms` both modes meet each of the `paired` starts, one
    right after the other; at the other latencies, and with temporal ensembling, the `side` starts.
    """
    both = (ExecutionMode.SYNCHRONOUS, ExecutionMode.REALTIME_CHUNKING)
    trials = []
    for number, start in enumerate(paired):
        # Whoever comes second could profit from a warm machine.
        order = both if number % 2 == 0 else both[::-1]
        trials += [Trial(start, mode, paired_delay_ms) for mode in order]
    for start in side:
        trials.append(Trial(start, ExecutionMode.TEMPORAL_ENSEMBLING, paired_delay_ms))
        for delay in delays_ms:
            if delay != paired_delay_ms:
                trials += [Trial(start, mode, delay) for mode in both]
    return trials


class LiveTrials:
    """The running graph with a policy server that answers later than it could."""

    def __init__(
        self,
        graph: Supervisor,
        link: BenchLink,
        control: LiveControl,
        server: DelayedServer,
        tell: Callable[[str], None],
    ) -> None:
        self._graph = graph
        self._link = link
        self._control = control
        self._server = server
        self._tell = tell

    def run(self, trial: Trial) -> tuple[Outcome, Recording]:
        """Home, place, let the policy act, judge.

        Raises:
            BenchFailed, GraphDied, LiveControlError: a part of the graph is gone or silent.
        """
        start = trial.start
        self._tell(f"{trial.mode}, {trial.delay_ms} ms: {start.obj}, {start.task}")
        self._server.delay_s = 1e-3 * trial.delay_ms
        self._link.home()
        self._link.set_mode(trial.mode)
        self._control.reset(start.task, start.obj, start.seed)
        self._link.spin(SETTLE_S)
        self._link.take_recording()
        judge = _Judge(self._control, self._graph)
        seconds, reason, message = self._link.run_task(
            start.task, start.obj, TIME_LIMIT_S, judge.look, SCORE_PERIOD_S
        )
        outcome = Outcome(trial, judge.succeeded, judge.stage, round(seconds, 3), reason, message)
        return outcome, self._link.take_recording()


class _Judge:
    """Success counts once it has lasted for SUCCESS_HOLD_S without a break."""

    def __init__(self, control: LiveControl, graph: Supervisor) -> None:
        self._control = control
        self._graph = graph
        self._since: float | None = None
        self.succeeded = False
        self.stage = "none"

    def look(self, elapsed: float) -> bool:
        self._graph.check()
        score = self._control.score()
        self.stage = score.stage
        self._since = (elapsed if self._since is None else self._since) if score.success else None
        self.succeeded = self._since is not None and elapsed - self._since >= SUCCESS_HOLD_S
        return self.succeeded


@contextmanager
def live_trials(bundle: str, logs: Path, tell: Callable[[str], None]) -> Iterator[LiveTrials]:
    """Bring the graph up with its policy server behind a delay; end everything afterwards.

    Raises:
        GraphDied: a process did not start.
    """
    # Every 127.x.y.z is this machine; an address of our own never meets a demo's.
    arguments = GraphArguments(
        sim=True,
        robot_ip=f"127.89.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}",
        bundle=bundle,
        policy_port=_free_port(),
        control_port=_free_port(),
        shared_memory=f"roboalign_{secrets.token_hex(8)}",
    )
    domain_id = int(os.environ.get("ROS_DOMAIN_ID") or 1 + secrets.randbelow(100))
    with ExitStack() as stack:
        server = stack.enter_context(DelayedServer(f"ws://{HOST}:{arguments.policy_port}"))
        graph = _through(build_graph(arguments), server.url)
        supervisor = stack.enter_context(Supervisor(graph, logs, domain_id=domain_id))
        tell("starting the robot graph")
        for old in logs.glob("*.log"):
            old.unlink()
        supervisor.start()
        os.environ.update(graph.environment)
        # Only now: rclpy reads the graph's environment when it is loaded.
        from roboalign.bench_link import BenchLink

        link = stack.enter_context(BenchLink(domain_id))
        control = LiveControl(arguments.control_port)
        yield LiveTrials(supervisor, link, control, server, tell)
        tell("stopping the robot graph")


def _through(graph: Graph, url: str) -> Graph:
    """The graph with its policy node talking to `url`."""
    processes = tuple(
        replace(spec, parameters={**spec.parameters, "policy_url": url})
        if spec.name == "policy_node"
        else spec
        for spec in graph.processes
    )
    return replace(graph, processes=processes)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
