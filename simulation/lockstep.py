"""The simulated arm waits for its controller: no physics step without an answer to the last state.

A real arm's controller has a computer of its own; here it shares one with everything else. Where
it is starved for some milliseconds, a torque that is out of date would make the arm swing. So
simulated time stands still until the answer is there, at most for `PATIENCE`; then the motion is
aborted, as the real arm does after twenty missing packets (libfranka calls it
communication_constraints_violation).
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable
from typing import Any, Final

from franky_sim.franka_robot_protocol import MoveStatus, RobotCommand
from franky_sim.franka_robot_server import ControlMode, FrankaRobotServer
from franky_sim.franka_server import BaseCommand

PATIENCE: Final = 0.5
"""Seconds of silence after which the controller counts as lost."""

log = logging.getLogger("simulation.live")


def await_command(arm: FrankaRobotServer, process: Callable[[FrankaRobotServer], None]) -> None:
    """Return when `arm` has this tick's command, or needs none; `process` reads what came in."""
    deadline = time.perf_counter() + PATIENCE
    while _expects_command(arm):
        left = deadline - time.perf_counter()
        if left <= 0.0:
            _abort(arm)
            return
        sockets = [s for s in (_private(arm, "FrankaServer", "udp_socket"), arm._tcp_socket) if s]
        select.select(sockets, [], [], left)
        process(arm)


def _expects_command(arm: FrankaRobotServer) -> bool:
    """Whether a motion runs, its first command has come before, and none came in this tick."""
    running = _private(arm, "FrankaRobotServer", "control_mode") != ControlMode.IDLE
    begun = _private(arm, "FrankaRobotServer", "current_control_command").message_id > 0
    return running and begun and not _private(arm, "FrankaRobotServer", "has_new_command")


def _abort(arm: FrankaRobotServer) -> None:
    """End the motion as the arm's own reflex does, and let it hold where it is."""
    log.warning("no command for %.1f s of a motion: aborted", PATIENCE)
    motion = arm.current_motion_id
    arm.stop_motion(send_preemption_signal=False)
    arm.reset_current_motion_id()
    if motion and arm._tcp_socket is not None:
        BaseCommand.send_response(
            arm._tcp_socket, RobotCommand.kMove, motion, MoveStatus.kReflexAborted
        )


def _private(arm: FrankaRobotServer, owner: str, name: str) -> Any:
    """Franky-sim's own state, which it shows to nobody."""
    return getattr(arm, f"_{owner}__{name}")
