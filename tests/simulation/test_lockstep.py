"""A controller that falls silent in the middle of a motion, as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np

from simulation.live_process import LiveProcess
from simulation.lockstep import PATIENCE
from simulation.shared_state import StateReader, WorldState

CONTROLLER = """
import sys, time
import franky
import numpy as np
from contracts.robot import FR3
robot = franky.Robot(sys.argv[1], realtime_config=franky.RealtimeConfig.Ignore)
tracker = franky.JointImpedanceTracker(
    robot, stiffness=FR3.joint_stiffness, damping=FR3.joint_damping
)
joints = np.asarray(robot.state.q)
print("tracking", flush=True)
while tracker.is_running:
    joints = joints + np.array([0.001, 0, 0, 0, 0, 0, 0])
    tracker.set_target(joints, np.array([0.1, 0, 0, 0, 0, 0, 0]))
    time.sleep(0.01)
try:
    robot.join_motion()
except franky.ControlException as error:
    print("aborted:", error, flush=True)
"""


def state_of(reader: StateReader) -> WorldState:
    state = reader.read()
    assert state is not None
    return state


def test_the_arm_rests_where_its_controller_fell_silent(live: LiveProcess) -> None:
    command = [sys.executable, "-c", CONTROLLER, live.hostname]
    reader = StateReader(live.shared_memory)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        try:
            assert controller.stdout.readline() == "tracking\n"
            time.sleep(0.3)
            controller.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            silent = state_of(reader)
            deadline = time.monotonic() + 20.0
            while state_of(reader).time < silent.time + 0.5:
                assert time.monotonic() < deadline, "simulated time stands for good"
                time.sleep(0.05)
            rested = state_of(reader)
            controller.send_signal(signal.SIGCONT)
            assert "reflex" in controller.communicate(timeout=20.0)[0]
        finally:
            controller.kill()
    waited = (rested.stamp - silent.stamp) - (rested.time - silent.time)
    assert waited > 0.5 * PATIENCE, "physics did not wait for the controller"
    # 0.1 rad/s for as long as it takes to brake, no more.
    assert np.abs(rested.qpos[:7] - silent.qpos[:7]).max() < 0.05
