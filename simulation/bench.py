"""How fast and how alike the two ways of driving the world are: one JSON line, last on stdout.

`python -m simulation.bench`; progress goes to stderr. The first three fields have goals:
fast_realtime_factor (20: physics, control and two 10 Hz cameras of 128x128 on one core),
live_rate_hz (990: mean while two cameras are drawn and an arm is tracked) and fast_live_rms_mm
(5: end-effector paths of the same waypoints, live against fast).
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import franky
import numpy as np

from contracts import geometry, kinematics
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.robot import FR3
from contracts.task import OBJECTS, TASKS
from simulation.cameras import CAMERAS
from simulation.expert import TIME_STEP, Expert, SceneTruth
from simulation.fast import CONTROL_PERIOD, FastSimulation
from simulation.live_control import LiveStatus
from simulation.live_process import LiveProcess, LiveProcessError
from simulation.placement import Placement, sample_placement
from simulation.realsense_device import CameraError, SimulatedRealSense
from simulation.shared_state import StateReader

FAST_TRIALS: Final = 16
LONGEST_TRIAL: Final = 20.0
CAMERA_PROFILE: Final = (640, 480, 30)
"""Width, height and rate of each live camera: librealsense's own default for colour."""
LIVE_PERIOD: Final = 0.01
"""Seconds between setpoints sent to the live arm."""
REPLAYED: Final = (("box_to_bowl", "cup", 7), ("plate_to_basket", "sponge", 11))
"""Trials whose waypoints are driven through both simulations."""


@dataclass(frozen=True)
class Path:
    """End-effector positions (n, 3) [m] at times (n,) [s] since the first waypoint was due."""

    times: Vector
    positions: Vector

    def at(self, times: Vector) -> Vector:
        """Positions (m, 3) interpolated at `times` (m,)."""
        return np.stack([np.interp(times, self.times, axis) for axis in self.positions.T], axis=1)


def rms_distance(path: Path, other: Path, delay: float = 0.0) -> float:
    """Root mean square over time of the distance [m]; `other` is moved earlier by `delay` [s]."""
    end = min(path.times[-1], other.times[-1] - delay)
    times = path.times[(path.times >= 0.0) & (path.times <= end)]
    distance = np.linalg.norm(path.at(times) - other.at(times + delay), axis=1)
    return float(np.sqrt(np.mean(distance**2)))


def best_delay(path: Path, other: Path) -> float:
    """Time [s] by which `other` runs behind `path`, to the millisecond."""
    delays = np.arange(-0.06, 0.0601, 0.001)
    return float(min(delays, key=lambda delay: rms_distance(path, other, float(delay))))


def fast_speed() -> dict[str, float]:
    """Simulated seconds a second while the expert works and both cameras draw, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        simulation = FastSimulation()
        pairs = [(task, obj) for task in TASKS for obj in OBJECTS]
        # The rasteriser compiles its shaders when a view first needs them: part of the start.
        _expert_trial(simulation, sample_placement(*pairs[0], FAST_TRIALS))
        simulated, solved = 0.0, 0
        wall, cpu = time.perf_counter(), time.process_time()
        for seed, (task, obj) in enumerate(pairs[:: len(pairs) // FAST_TRIALS][:FAST_TRIALS]):
            simulated += _expert_trial(simulation, sample_placement(task, obj, seed))
            solved += simulation.score().success
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        simulation.close()
    finally:
        os.sched_setaffinity(0, cores)
    return {
        "fast_realtime_factor": simulated / wall,
        "fast_factor_per_cpu_second": simulated / cpu,
        "fast_expert_success": solved / FAST_TRIALS,
    }


def _expert_trial(simulation: FastSimulation, placement: Placement) -> float:
    """Run one trial with pictures at 10 Hz; return its simulated seconds."""
    simulation.reset(placement)
    expert = Expert(placement)
    while not expert.done and simulation.time < LONGEST_TRIAL:
        simulation.images()
        truth = SceneTruth.read(simulation.model, simulation.data, placement)
        waypoint = expert.act(truth, simulation.commanded_pose, simulation.gripper_opening)
        simulation.follow(waypoint.pose, waypoint.gripper, TIME_STEP)
    simulation.follow(simulation.commanded_pose, 1.0, 0.5)
    return simulation.time


def recorded_waypoints(placement: Placement) -> list[Vector]:
    """The expert's waypoints (7,), one a TIME_STEP, in one fast trial."""
    simulation = FastSimulation(image_size=None)
    simulation.reset(placement)
    expert, waypoints = Expert(placement), []
    while not expert.done and simulation.time < LONGEST_TRIAL:
        truth = SceneTruth.read(simulation.model, simulation.data, placement)
        waypoint = expert.act(truth, simulation.commanded_pose, simulation.gripper_opening)
        simulation.follow(waypoint.pose, waypoint.gripper, TIME_STEP)
        waypoints.append(waypoint.pose)
    return waypoints


def fast_path(placement: Placement, waypoints: list[Vector]) -> Path:
    """Drive the waypoints through the fast simulation, hand open."""
    simulation = FastSimulation(image_size=None)
    simulation.reset(placement)
    times, positions = [0.0], [simulation.pose[:3]]
    steps = round(TIME_STEP / CONTROL_PERIOD)
    for waypoint in waypoints:
        start = simulation.commanded_pose
        for i in range(1, steps + 1):
            simulation.advance(geometry.interpolate(start, waypoint, i / steps), 1.0)
            times.append(simulation.time)
            positions.append(simulation.pose[:3])
    return Path(np.array(times), np.array(positions))


def live_path(live: LiveProcess, robot: franky.Robot, waypoints: list[Vector]) -> Path:
    """Drive the waypoints through franky and the live simulation, hand open."""
    robot.move(franky.JointMotion(np.array(FR3.home_joints), relative_dynamics_factor=0.3))
    reader = StateReader(live.shared_memory)
    follower = PoseFollower(FR3.home_joints, LIVE_PERIOD)
    steps = round(TIME_STEP / LIVE_PERIOD)
    times: list[float] = []
    positions: list[Vector] = []
    tracker = franky.JointImpedanceTracker(
        robot, stiffness=FR3.joint_stiffness, damping=FR3.joint_damping
    )
    with tracker:
        time.sleep(0.5)
        begin, due = time.time(), time.perf_counter()
        start = follower.pose
        for waypoint in waypoints:
            for i in range(1, steps + 1):
                setpoint = follower.step(geometry.interpolate(start, waypoint, i / steps))
                tracker.set_target(setpoint.joints, setpoint.velocity)
                due += LIVE_PERIOD
                time.sleep(max(0.0, due - time.perf_counter()))
                state = reader.read()
                if state is not None:
                    times.append(state.stamp - begin)
                    positions.append(kinematics.forward(state.qpos[:7])[:3])
            start = waypoint
    return Path(np.array(times), np.array(positions))


def watch_camera(name: str, shared_memory: str, frames: Connection) -> None:
    """Child process: take frames until told to stop, then send their rate [1/s] and age [s]."""
    camera = SimulatedRealSense(name, shared_memory, *CAMERA_PROFILE)
    camera.start()
    frames.send("started")
    ages: list[float] = []
    begin = time.perf_counter()
    while not frames.poll():
        _, stamp, _, _ = camera.wait_for_frame(5.0)
        ages.append(time.time() - stamp)
    frames.send((len(ages) / (time.perf_counter() - begin), float(np.mean(ages))))
    camera.stop()


class WatchedCameras:
    """Both cameras, each in a process of its own."""

    def __init__(self, shared_memory: str) -> None:
        """Raises CameraError: one of them did not start."""
        spawn = multiprocessing.get_context("spawn")
        self._cameras = []
        for name in CAMERAS:
            here, there = spawn.Pipe()
            process = spawn.Process(
                target=watch_camera, args=(name, shared_memory, there), daemon=True
            )
            process.start()
            self._cameras.append((process, here))
        for name, (_, pipe) in zip(CAMERAS, self._cameras, strict=True):
            if not pipe.poll(30.0):
                raise CameraError(f"camera {name} gave no sign of life within 30 s")
            try:
                pipe.recv()
            except EOFError as error:
                raise CameraError(f"camera {name} did not start") from error

    def stop(self) -> dict[str, float]:
        """End them; the slower camera's rate and the older mean age of its pictures.

        Raises:
            CameraError: one ended by itself.
        """
        results = []
        for name, (process, pipe) in zip(CAMERAS, self._cameras, strict=True):
            try:
                pipe.send("stop")
                results.append(pipe.recv())
            except (EOFError, OSError) as error:
                raise CameraError(f"camera {name} ended by itself") from error
            process.join()
        return {
            "live_camera_fps": min(rate for rate, _ in results),
            "live_camera_age_ms": 1000.0 * max(age for _, age in results),
        }


def live_against_fast() -> dict[str, float]:
    """Rate of the live loop under its full load, and how far its paths are from the fast ones."""
    distances, delays, aligned = [], [], []
    statuses: list[LiveStatus] = []
    with LiveProcess() as live:
        cameras = WatchedCameras(live.shared_memory)
        robot = franky.Robot(live.hostname, realtime_config=franky.RealtimeConfig.Ignore)
        for task, obj, seed in REPLAYED:
            placement = dataclasses.replace(
                sample_placement(task, obj, seed), home_offset=(0.0,) * 7
            )
            waypoints = recorded_waypoints(placement)
            fast = fast_path(placement, waypoints)
            live.control.reset(task, obj, seed)
            live.control.status()
            measured = live_path(live, robot, waypoints)
            statuses.append(live.control.status())
            delay = best_delay(fast, measured)
            distances.append(rms_distance(fast, measured))
            aligned.append(rms_distance(fast, measured, delay))
            delays.append(delay)
            _say(f"{task} {obj}: {1000 * distances[-1]:.2f} mm RMS over {fast.times[-1]:.1f} s")
        seen = cameras.stop()
    return {
        "live_rate_hz": float(np.mean([status.rate_hz for status in statuses])),
        "fast_live_rms_mm": 1000.0 * float(np.sqrt(np.mean(np.square(distances)))),
        "live_late_ticks": float(sum(status.late_ticks for status in statuses)),
        "live_behind_fast_ms": 1000.0 * float(np.mean(delays)),
        "fast_live_rms_without_delay_mm": 1000.0 * float(np.sqrt(np.mean(np.square(aligned)))),
        **seen,
    }


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure and print; return the exit code."""
    _say(f"fast mode, {FAST_TRIALS} trials of the expert on one core")
    fast = fast_speed()
    _say("live mode against fast mode, two cameras " + "x".join(map(str, CAMERA_PROFILE)))
    try:
        live = live_against_fast()
    except (LiveProcessError, CameraError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    goals = ("fast_realtime_factor", "live_rate_hz", "fast_live_rms_mm")
    figures = {**fast, **live}
    ordered = {key: figures[key] for key in (*goals, *(k for k in figures if k not in goals))}
    ordered["load_average"] = os.getloadavg()[0]
    print(json.dumps({key: round(value, 3) for key, value in ordered.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
