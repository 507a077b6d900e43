"""The world live: franky-sim's libfranka server at 1 kHz, as a process of its own.

`python -m simulation.live --hostname 127.0.0.1 --shared-memory NAME --control-port PORT` prints
`simulation ready` when it takes connections. Exit codes: 0 after SIGINT or SIGTERM, 2 if a port or
the shared memory is taken, or an argument is wrong.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Until the loop can end in order there is nothing to clean up: end at once, no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import socket
import struct
import sys
import threading
import time
from typing import Any, Final

import mujoco
from franky_sim import SimulationServer
from franky_sim.franka_gripper_protocol import GripperCommandStatus
from franky_sim.franka_gripper_server import FrankaGripperServer
from franky_sim.franka_server import BaseCommand, FrankaServer
from franky_sim.mujoco_simulator import MujocoSimulator

from simulation import world
from simulation.expert import SceneTruth
from simulation.live_control import HOST, ControlServer, Message
from simulation.lockstep import await_command
from simulation.placement import Placement, apply_placement, sample_placement
from simulation.scoring import Score, Scorer
from simulation.shared_state import SharedStateError, StateWriter

TICK: Final = 0.001
"""Seconds of one physics step and of one libfranka cycle."""
PUBLISH_TICKS: Final = 5
SCORE_TICKS: Final = 100
CATCH_UP: Final = 0.05
"""Lag [s] beyond which lost time is given up instead of made good with faster ticks."""
SETTLE_TICKS: Final = 200
"""Ticks for the objects to come to rest before the first picture."""
CLIENT_ERRORS: Final = 10
"""Errors of clients that one tick puts up with."""
EMPTY_TABLE: Final = Placement("", "", "", 0, {}, {}, (0.0,) * 7)
NICENESS: Final = -5
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29

log = logging.getLogger("simulation.live")


class Pace:
    """Absolute deadlines every TICK; counts ticks and lateness since the last `take`."""

    def __init__(self) -> None:
        self._due = time.perf_counter()
        self._since = self._due
        self._ticks = 0
        self._late = 0

    def wait(self) -> None:
        """Sleep until the next tick is due."""
        self._ticks += 1
        self._due += TICK
        ahead = self._due - time.perf_counter()
        if ahead > 0.0:
            time.sleep(ahead)
        elif ahead < -TICK:
            self._late += 1
            if ahead < -CATCH_UP:
                self._due -= ahead

    def take(self) -> tuple[float, int]:
        """Mean rate [Hz] and number of ticks that began over a tick late, since the last call."""
        now = time.perf_counter()
        rate, late = self._ticks / max(now - self._since, 1e-9), self._late
        self._since, self._ticks, self._late = now, 0, 0
        return rate, late


class LiveTrial:
    """The trial on the table: placed, watched and told about. The arm is never touched."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        self._placement: Placement | None = None
        self._scorer: Scorer | None = None
        self._score = Score(False, "none")
        apply_placement(model, data, EMPTY_TABLE)

    def reset(self, task: str, obj: str, seed: int) -> None:
        """Place the objects and containers. Raises ValueError: unknown task or object."""
        placement = sample_placement(task, obj, seed)
        apply_placement(self._model, self._data, placement)
        self._placement = placement
        self._scorer = Scorer(self._model, placement)
        self._score = Score(False, "none")

    def watch(self) -> None:
        """Update the score; called every SCORE_TICKS."""
        if self._scorer is not None:
            self._score = self._scorer.update(self._data)

    def score(self) -> Score:
        """Score at the last `watch`. Raises ValueError: no trial was started."""
        self._placed()
        return self._score

    def truth(self) -> SceneTruth:
        """What is where now. Raises ValueError: no trial was started."""
        return SceneTruth.read(self._model, self._data, self._placed())

    def _placed(self) -> Placement:
        if self._placement is None:
            raise ValueError("no trial yet: send the command 'reset' first")
        return self._placement


def _answer_ended_commands(hand: FrankaGripperServer) -> None:
    """Let `hand` answer a command that another one ends with kAborted, as the real hand does.

    Franky-sim forgets it, and libfranka then waits for the answer for ever, spinning.
    """
    stop, begin = hand.stop, hand._start_motion

    def abort_pending() -> None:
        if hand._pending_command_id is not None and hand._pending_tcp_socket is not None:
            BaseCommand.send_response(
                hand._pending_tcp_socket,
                hand._pending_command_type,
                hand._pending_command_id,
                GripperCommandStatus.kAborted,
                command_type_struct="H",
                status_type_struct="H",
            )
            hand._pending_command_id = None

    def stop_and_answer(command_id: int, tcp_socket: socket.socket) -> None:
        abort_pending()
        stop(command_id, tcp_socket)

    def begin_and_answer(*command: Any) -> None:
        abort_pending()
        begin(*command)

    hand.stop, hand._start_motion = stop_and_answer, begin_and_answer


class LiveSimulation:
    """The 1 kHz loop: libfranka clients, physics, shared memory, control channel."""

    def __init__(self, hostname: str, shared_memory: str, control_port: int) -> None:
        """Raises OSError: a port is in use; SharedStateError: the block is another's."""
        self._simulator = _prepared_simulator()
        self._server = _listening_server(self._simulator, hostname)
        self._servers: list[FrankaServer] = []
        for arm in self._server.robot_servers:
            self._servers += [arm, arm.gripper_server]
            _answer_ended_commands(arm.gripper_server)
        self._model, self._data = self._simulator.model, self._simulator.data
        self.trial = LiveTrial(self._model, self._data)
        self._control = ControlServer(control_port)
        self._writer = StateWriter(shared_memory, self._model.nq, self._model.nmocap)
        self._pace = Pace()

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set, which a signal handler may do."""
        for _ in range(SETTLE_TICKS):
            self._tick()
        self._publish()
        self._control.start()
        gc.collect()
        gc.freeze()  # later collections need not walk through the libraries' objects
        print("simulation ready", flush=True)
        self._pace = Pace()
        ticks = 0
        while not stop.is_set():
            self._tick()
            ticks += 1
            if ticks % PUBLISH_TICKS == 0:
                self._publish()
            if ticks % SCORE_TICKS == 0:
                self.trial.watch()
            self._control.serve_pending(self._answer)
            self._pace.wait()

    def close(self) -> None:
        """Close the ports and remove the shared memory."""
        self._writer.close()
        self._control.close()
        self._server.cleanup()

    def _tick(self) -> None:
        # Not SimulationServer.run_once: its sleep(0) alone costs 80 us of a tick.
        for server in self._servers:
            _process_commands(server)
        for arm in self._server.robot_servers:
            await_command(arm, _process_commands)
        self._simulator.step()
        for server in self._servers:
            with contextlib.suppress(OSError):  # a client that is gone is noticed when reading
                FrankaServer.send_state(server)

    def _publish(self) -> None:
        data = self._data
        self._writer.write(data.qpos, data.mocap_pos, data.mocap_quat, data.time)

    def _answer(self, request: Message) -> Message:
        command = request.get("command")
        if command == "reset":
            task, obj, seed = _reset_arguments(request)
            self.trial.reset(task, obj, seed)
            return {"task": task, "object": obj, "seed": seed}
        if command == "score":
            score = self.trial.score()
            return {"success": score.success, "stage": score.stage}
        if command == "truth":
            truth = self.trial.truth()
            return {
                "object_position": truth.object_position.tolist(),
                "object_yaw": truth.object_yaw,
                "target_position": truth.target_position.tolist(),
            }
        if command == "status":
            rate, late = self._pace.take()
            return {"rate_hz": rate, "late_ticks": late, "time": float(self._data.time)}
        raise ValueError(f"unknown command {command!r}; known: reset, score, truth, status")


def _prepared_simulator() -> MujocoSimulator:
    simulator = world.live_simulator()
    simulator.init()
    return simulator


def _listening_server(simulator: MujocoSimulator, hostname: str) -> SimulationServer:
    """Server bound to this one address, physics started. Raises OSError: not to be had."""
    server = SimulationServer(simulator, hostname_candidates=[hostname])
    try:
        server.init()
    except OSError as error:
        raise OSError(
            f"{hostname}: port 1337 (arm) or 1338 (hand) is in use, or the address is not local"
        ) from error
    # Before the first placement the objects lie within each other; forget what that did.
    simulator.data.qacc_warmstart[:] = 0.0
    return server


def _process_commands(server: FrankaServer) -> None:
    """Let a client that broke off or sends rubbish lose its connection, not the simulation.

    Tried again after an error, because the arm needs its torque in every tick.

    Raises:
        RuntimeError: errors without end.
    """
    for _ in range(CLIENT_ERRORS):
        try:
            # Not the subclass's own, in which the arm's server also drives the hand's.
            FrankaServer.process_commands(server)
            return
        except OSError as error:
            # A reply to a client that has left; the connection itself ends at the next reading.
            log.warning("a client left before its reply: %s", error)
        except (KeyError, ValueError, struct.error) as error:
            log.warning("a client sent what is not libfranka's protocol: %r", error)
            server.reset_state()
    raise RuntimeError(f"{CLIENT_ERRORS} client errors within one tick")


def _reset_arguments(request: Message) -> tuple[str, str, int]:
    """Task, object and seed of a reset. Raises ValueError: one is missing or of the wrong type."""
    task, obj, seed = (request.get(key) for key in ("task", "object", "seed"))
    if not isinstance(task, str) or not isinstance(obj, str):
        raise ValueError("reset needs 'task' and 'object' as text")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"reset needs 'seed', an integer of at least 0; got {seed!r}")
    return task, obj, seed


def _request_precise_timing() -> None:
    """Wake without the kernel's 50 us slack, and before ordinary processes where allowed.

    The arm's controller has a computer of its own in reality; here it must not wait for a render.
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    # Without the privilege the loop runs at the ordinary priority; `status` shows its rate.
    with contextlib.suppress(PermissionError):
        os.nice(NICENESS)
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulation.live", description="live simulated FR3")
    parser.add_argument("--hostname", default=HOST, help="loopback address of the arm and hand")
    parser.add_argument("--shared-memory", required=True, help="name of the block with the state")
    parser.add_argument("--control-port", required=True, type=int, help="TCP port on 127.0.0.1")
    parser.add_argument("--task", help="start with this trial; needs --object")
    parser.add_argument("--object", help="object of the first trial; needs --task")
    parser.add_argument("--seed", type=int, default=0, help="placement of the first trial")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the parent ends")
    parsed = parser.parse_args(arguments)
    if (parsed.task is None) != (parsed.object is None):
        parser.error("--task and --object go together")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Run the live simulation; return the exit code."""
    options = _parse_arguments(arguments)
    if options.die_with_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    logging.basicConfig(level=logging.WARNING, format="simulation: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        simulation = LiveSimulation(options.hostname, options.shared_memory, options.control_port)
    except (OSError, SharedStateError, ValueError) as error:
        print(f"simulation: cannot start: {error}", file=sys.stderr)
        return 2
    try:
        if options.task is not None:
            simulation.trial.reset(options.task, options.object, options.seed)
        _request_precise_timing()
        simulation.run(stop)
    except ValueError as error:
        print(f"simulation: {error}", file=sys.stderr)
        return 2
    finally:
        simulation.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
