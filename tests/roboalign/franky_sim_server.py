"""An FR3 that speaks libfranka's protocol, for the system tests: `franky_sim_server.py HOSTNAME`.

A plain franky-sim scene at the home pose, paced at 1 kHz. Prints `ready` once it listens.
"""

from __future__ import annotations

import sys
import time

from franky_sim import SimulationServer
from franky_sim.mujoco_simulator import MujocoSimulator

from contracts.robot import FR3


def main(hostname: str) -> None:
    with MujocoSimulator() as simulator:
        simulator.add_robot(initial_q=tuple(FR3.home_joints.tolist()))
        server = SimulationServer(simulator, hostname_candidates=[hostname])
        server.init()
        print("ready", flush=True)
        due = time.perf_counter()
        while True:
            server.run_once(realtime=0.0)
            due = max(due + 0.001, time.perf_counter() - 0.05)
            time.sleep(max(0.0, due - time.perf_counter()))


if __name__ == "__main__":
    main(sys.argv[1])
