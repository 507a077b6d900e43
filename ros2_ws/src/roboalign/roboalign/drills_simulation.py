"""The live simulation with faults that hardware has and the simulation lacks, for the drills.

As `python -m simulation.live`, with one more command on the control channel:
`{"command": "fault", "kind": NAME}`. Reflexes and the user stop are libfranka's own messages, so
that franky and all above it meet what the arm would send.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any, Final

import numpy as np
from franky_sim.franka_robot_protocol import (
    AutomaticErrorRecoveryCommand,
    BaseCommand,
    MoveStatus,
    RobotCommand,
    RobotMode,
)
from franky_sim.franka_robot_server import FrankaRobotServer

from simulation import live
from simulation.live import LiveSimulation
from simulation.live_control import Message

CARTESIAN_REFLEX: Final = 7
"""Its place in libfranka's list of errors."""
ERRORS: Final = 41
PUSH_N: Final = 35.0
FAULTS: Final = ("none", "reflex", "user_stop", "push", "freeze_view", "stuck_fingers")


class FaultySimulation(LiveSimulation):
    """One fault at a time; `none` takes it back, and error recovery clears a reflex."""

    def __init__(self, hostname: str, shared_memory: str, control_port: int) -> None:
        super().__init__(hostname, shared_memory, control_port)
        self._fault = "none"
        self._seen: tuple[np.ndarray, ...] = ()
        for arm in self._server.robot_servers:
            _report_faults(arm, self)
        _clear_reflexes(self)

    @property
    def fault(self) -> str:
        return self._fault

    def set_fault(self, kind: str) -> None:
        """Raises ValueError: no such fault."""
        if kind not in FAULTS:
            raise ValueError(f"unknown fault {kind!r}; known: {', '.join(FAULTS)}")
        self._fault = kind
        data = self._data
        self._seen = (data.qpos.copy(), data.mocap_pos.copy(), data.mocap_quat.copy())
        if kind in ("reflex", "user_stop"):
            for arm in self._server.robot_servers:
                _abort_motion(arm)
        for arm in self._server.robot_servers:
            _hold_fingers(arm, kind == "stuck_fingers")

    def _publish(self) -> None:
        if self._fault == "freeze_view":
            self._writer.write(*self._seen, self._data.time)
        else:
            super()._publish()

    def _answer(self, request: Message) -> Message:
        if request.get("command") == "fault":
            self.set_fault(str(request.get("kind")))
            return {"fault": self._fault, "since": time.time()}
        return super()._answer(request)


def _report_faults(arm: FrankaRobotServer, simulation: FaultySimulation) -> None:
    """Let the arm's state tell of the fault."""

    def state_bytes() -> bytes:
        state, fault = arm.robot_state, simulation.fault
        errors = tuple(i == CARTESIAN_REFLEX for i in range(ERRORS))
        if fault == "reflex":
            state = state.replace(robot_mode=RobotMode.kReflex, reflex_reason=errors, errors=errors)
        elif fault == "user_stop":
            state = state.replace(robot_mode=RobotMode.kUserStopped)
        elif fault == "push":
            state = state.replace(O_F_ext_hat_K=(0.0, PUSH_N, 0.0, 0.0, 0.0, 0.0))
        return bytes(state.pack_state())

    arm._get_state_bytes = state_bytes


def _clear_reflexes(simulation: FaultySimulation) -> None:
    """Error recovery ends a reflex, and nothing else."""
    handle = AutomaticErrorRecoveryCommand.handle

    def clear(command: Any, server: Any) -> None:
        if simulation.fault == "reflex":
            simulation.set_fault("none")
        handle(command, server)

    AutomaticErrorRecoveryCommand.handle = clear


def _abort_motion(arm: FrankaRobotServer) -> None:
    motion = arm.current_motion_id
    arm.stop_motion(send_preemption_signal=False)
    arm.reset_current_motion_id()
    if motion and arm._tcp_socket is not None:
        BaseCommand.send_response(
            arm._tcp_socket, RobotCommand.kMove, motion, MoveStatus.kReflexAborted
        )


def _hold_fingers(arm: FrankaRobotServer, stuck: bool) -> None:
    """While stuck the fingers keep their goal, whatever the hand is told."""
    robot = arm.robot
    if stuck:
        robot.set_hand_goal = lambda *_: None
    else:
        robot.__dict__.pop("set_hand_goal", None)


def main(arguments: list[str] | None = None) -> int:
    """As simulation.live's, with faults."""
    live.LiveSimulation = FaultySimulation  # type: ignore[misc]
    return live.main(arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.current_thread().name = "simulation"
    sys.exit(main())
