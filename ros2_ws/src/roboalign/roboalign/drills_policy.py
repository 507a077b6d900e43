"""A policy server whose answers can be wrong, for the drills: a scripted motion, no network.

It speaks the policy server's protocol over a websocket. What it answers is read from a file at each
request: `normal`, a circle in free space, or one of the faults in MODES. With `--namespace` it
listens in a network namespace of its own, so that its network can be cut.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from contracts import geometry, kinematics, wire
from contracts.action import ActionChunk
from contracts.geometry import Vector
from contracts.observation import Observation
from contracts.robot import FR3

MODES: Final = ("normal", "slow", "nan", "jump", "stale", "turn", "close", "open")
HORIZON, EXECUTE_STEPS, TIME_STEP_S = 10, 5, 0.1
RADIUS_M, RAD_S = 0.06, 1.5
TURN_RAD_S = 0.7
SLOW_S = 2.0
JUMP_M = 0.5
STALE_S = 3.0
NEW_NETWORK: Final = 0x40000000
"""CLONE_NEWNET."""


def chunk_for(observation: Observation, mode: str, number: int) -> ActionChunk:
    """The answer to `observation`, as if a policy had thought of it."""
    times = observation.stamp + TIME_STEP_S * np.arange(1, HORIZON + 1)
    poses = np.tile(kinematics.forward(FR3.home_joints), (HORIZON, 1))
    poses[:, 0] += RADIUS_M * np.cos(RAD_S * times)
    poses[:, 1] += RADIUS_M * np.sin(RAD_S * times)
    poses[:, 2] -= 0.08
    if mode == "jump":
        poses[:, 1] += JUMP_M
    if mode == "turn":
        poses = _turning(observation.state.pose)
    gripper = np.full(HORIZON, 0.0 if mode == "close" else 1.0)
    stamp = observation.stamp - (STALE_S if mode == "stale" else 0.0)
    return ActionChunk(f"drill-{number}", stamp, TIME_STEP_S, poses, gripper)


def _turning(pose: Vector) -> Vector:
    """Waypoints that turn the hand about the vertical, towards the last joint's limit."""
    poses = np.tile(pose, (HORIZON, 1))
    for step in range(HORIZON):
        turn = geometry.from_rotation_vector([0.0, 0.0, -TURN_RAD_S * TIME_STEP_S * (step + 1)])
        poses[step, 3:] = geometry.multiply(turn, pose[3:])
    return poses


class DrillPolicy:
    """Answers one connection after another."""

    def __init__(self, mode_file: Path, cameras: list[str]) -> None:
        self._mode_file = mode_file
        self._metadata = {
            "policy": "drill",
            "protocol_version": wire.PROTOCOL_VERSION,
            "cameras": [{"name": name, "width": 64, "height": 64} for name in cameras],
            "horizon": HORIZON,
            "execute_steps": EXECUTE_STEPS,
            "time_step": TIME_STEP_S,
        }
        self._number = 0

    def serve(self, connection: ServerConnection) -> None:
        try:
            connection.send(wire.pack(self._metadata))
            for message in connection:
                assert isinstance(message, bytes)
                connection.send(wire.pack(self._answer(message)))
        except ConnectionClosed:
            return

    def _answer(self, message: bytes) -> dict[str, object]:
        observation, _ = wire.observation_from_message(wire.unpack(message))
        mode = self._mode_file.read_text().strip()
        if mode == "slow":
            time.sleep(SLOW_S)
        self._number += 1
        answer = wire.chunk_to_message(chunk_for(observation, mode, self._number))
        if mode == "nan":
            answer["actions"] = np.full((HORIZON, 8), np.nan)
        return {**answer, "server_timing": {"script": 0.1}}


def enter_namespace(name: str) -> None:
    """Give this thread, and all that it starts, the network of a namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{name}") as file:
        if libc.setns(file.fileno(), NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="roboalign.drills_policy", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mode-file", type=Path, required=True, help="holds the name of a mode")
    parser.add_argument("--cameras", default="front,wrist")
    parser.add_argument("--namespace", default="", help="network namespace to listen in")
    options = parser.parse_args(arguments)
    try:
        if options.namespace:
            enter_namespace(options.namespace)
        policy = DrillPolicy(options.mode_file, options.cameras.split(","))
        server = serve(policy.serve, options.host, options.port, max_size=wire.MAX_MESSAGE_BYTES)
    except OSError as error:
        print(f"drill policy: {error}", file=sys.stderr)
        return 2
    # A policy that answers slowly must still die at once.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with server:
        print("policy server ready", flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
