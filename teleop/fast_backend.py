"""Collection in the fast simulation: episodes as quick as the machine draws them."""

from __future__ import annotations

from datetime import date
from typing import Final

import numpy as np

from contracts import geometry
from contracts.calibration import Calibration, CameraCalibration, Latencies
from contracts.episode import Outcome
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.observation import RobotState
from simulation.cameras import CAMERAS
from simulation.fast import CONTROL_PERIOD, SETTLE_TIME, FastSimulation
from simulation.objects import object_body
from simulation.placement import Placement, home_joints
from teleop import jpeg
from teleop.devices.device import Device, DeviceCommand
from teleop.recorder import EpisodeWriter, now_utc

PERIODS_PER_PICTURE: Final = 5
"""Control periods between pictures: 10 Hz, the rate of the policy's waypoints."""
LONGEST_EPISODE: Final = 15.0
"""Seconds after which an episode is a failure."""
HOLD_TIME: Final = 0.3
"""Seconds for which the arm stands still at the end, so that the object comes to rest."""
OPTICAL: Final = np.array([1.0, 0.0, 0.0, 0.0])
"""From MuJoCo's camera axes (y up, looking along -z) to the optical frame's: half a turn."""


class FastBackend:
    """Performs one episode after another; the simulation's scorer labels them."""

    name = "fast"
    robot = "simulated FR3"
    cameras = tuple(CAMERAS)
    state_rate = 1.0 / CONTROL_PERIOD
    camera_rate = state_rate / PERIODS_PER_PICTURE

    def __init__(self, simulation: FastSimulation, device: Device, image_size: int) -> None:
        """`simulation` draws pictures of `image_size` pixels a side."""
        self.simulation = simulation
        self.device = device
        self.image_size = image_size

    def home(self, placement: Placement) -> Calibration:
        """Put everything where `placement` says; return where the cameras are."""
        self.simulation.reset(placement)
        joints = home_joints(placement)
        # The same filter as the simulation's own, fed alike: what it commands can be recorded.
        self._filter = PoseFollower(joints, CONTROL_PERIOD)
        for _ in range(round(SETTLE_TIME / CONTROL_PERIOD)):
            self._filter.step(self._filter.wanted)
        return calibration_of(self.simulation, self.image_size)

    def perform(self, writer: EpisodeWriter) -> Outcome:
        """Record one episode from home to the device's end, and label it."""
        simulation, device = self.simulation, self.device
        device.begin()
        writer.state(simulation.robot_state())
        period, phase = 0, ""
        while not (period and device.finished) and simulation.time < LONGEST_EPISODE:
            self._picture(writer, period)
            command = device.command(simulation.commanded_pose, simulation.gripper_opening)
            if device.phase != phase:
                phase = device.phase
                writer.event(simulation.time, "phase", phase)
            self._advance(writer, command)
            period += 1
        writer.event(simulation.time, "phase", "hold")
        hold = DeviceCommand(simulation.commanded_pose, 1.0)
        for _ in range(round(HOLD_TIME / CONTROL_PERIOD)):
            self._picture(writer, period)
            self._advance(writer, hold)
            period += 1
        self._picture(writer, 0)
        score = simulation.score()
        label = "success" if score.success else "failure"
        return Outcome(label, "scorer", f"stage {score.stage}", now_utc())

    def _advance(self, writer: EpisodeWriter, command: DeviceCommand) -> None:
        simulation = self.simulation
        asked = command.pose if command.executed is None else command.executed
        if not command.engaged:
            asked = simulation.commanded_pose
        simulation.advance(asked, command.gripper)
        setpoint, now = self._filter.step(asked), simulation.time
        writer.command(now, command.pose, command.gripper, command.engaged)
        writer.filtered(now, setpoint.pose, setpoint.joints, command.gripper, setpoint.limited)
        writer.state(simulation.robot_state())

    def _picture(self, writer: EpisodeWriter, period: int) -> None:
        """Every PERIODS_PER_PICTURE: both cameras, the scene and the score's stage."""
        if period % PERIODS_PER_PICTURE:
            return
        simulation, now = self.simulation, self.simulation.time
        for camera, image in simulation.images().items():
            writer.picture(camera, now, jpeg.encode(image))
        writer.scene(now, *scene_poses(simulation))
        simulation.score()


def scene_poses(simulation: FastSimulation) -> tuple[Vector, Vector]:
    """Poses (7,) of the object to move and of its target, in the base frame."""
    placement = simulation.placement
    if placement is None:
        raise RuntimeError("reset the simulation before its scene is read")
    body = simulation.data.body(object_body(placement.object))
    target = placement.containers[placement.target]
    turn = geometry.from_rotation_vector(np.array([0.0, 0.0, target.yaw]))
    w, x, y, z = body.xquat
    return (
        np.concatenate([body.xpos, [x, y, z, w]]),
        np.concatenate([[target.x, target.y, target.z], turn]),
    )


def calibration_of(simulation: FastSimulation, image_size: int) -> Calibration:
    """The simulated cameras' exact calibration; delays are none, all stamps are of one clock."""
    state: RobotState = simulation.robot_state()
    simulation.update_kinematics()
    cameras = {
        name: _camera_calibration(simulation, name, state.pose, image_size) for name in CAMERAS
    }
    return Calibration(FastBackend.robot, date.today(), cameras, Latencies(0.0, 0.0, 0.0, 0.0))


def _camera_calibration(
    simulation: FastSimulation, name: str, hand: Vector, size: int
) -> CameraCalibration:
    camera, view = CAMERAS[name], simulation.data.camera(name)
    turn = geometry.multiply(geometry.from_matrix(view.xmat.reshape(3, 3)), OPTICAL)
    position, frame = view.xpos.copy(), "base"
    if camera.on_hand:
        back = geometry.conjugate(hand[3:])
        position, frame = geometry.to_matrix(back) @ (position - hand[:3]), "hand"
        turn = geometry.multiply(back, turn)
    focal = camera.focal_length(size)
    return CameraCalibration(
        name=name,
        serial=camera.serial,
        width=size,
        height=size,
        fx=focal,
        fy=focal,
        cx=(size - 1) / 2,
        cy=(size - 1) / 2,
        distortion=(0.0,) * 5,
        frame=frame,
        pose=np.concatenate([position, turn]),
        residual_px=0.0,
    )
