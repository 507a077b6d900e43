"""The world in process, with no sockets and no wall clock: for training and evaluation."""

from __future__ import annotations

import atexit

import mujoco
import numpy as np

from contracts import geometry, kinematics
from contracts.geometry import Vector
from contracts.motion import PoseFollower
from contracts.observation import CameraFrame, Observation, RobotState
from contracts.robot import FR3
from contracts.task import CONTAINERS, OBJECTS
from simulation import world
from simulation.cameras import CAMERAS
from simulation.look import Look, Painter, sample_look
from simulation.objects import VISUAL_GROUP, container_body, object_body
from simulation.placement import Placement, apply_placement, home_joints, place_arm
from simulation.scoring import Score, Scorer

CONTROL_PERIOD = 0.02
"""Seconds between joint setpoints."""
SETTLE_TIME = 0.2
"""Seconds for the objects to come to rest after a reset."""


class SceneRenderer:
    """Draws the world's cameras as uint8 (size, size, 3) or (height, width, 3) RGB."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        # The whole buffer is cleared for each picture, so it must not be larger than one.
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._renderer = mujoco.Renderer(model, height, width)
        # MuJoCo's own destructor runs too late at exit, when OpenGL is already gone.
        atexit.register(self._renderer.close)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[int(VISUAL_GROUP)] = 1

    def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Picture of one camera; `data` must be forwarded (mj_forward or mj_kinematics)."""
        self._renderer.update_scene(data, camera, self._option)
        flags = self._renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0
        flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 0
        return self._renderer.render().copy()

    def close(self) -> None:
        atexit.unregister(self._renderer.close)
        self._renderer.close()


class FastSimulation:
    """One trial at a time: `reset`, then `advance` a period at a time, `observe` and `score`.

    `time` counts seconds from the reset. `image_size` None does without pictures.
    """

    def __init__(self, image_size: int | None = 128, timestep: float = 0.004) -> None:
        self.model = world.fast_model(timestep)
        self.data = mujoco.MjData(self.model)
        self._painter = Painter(self.model)
        self._substeps = round(CONTROL_PERIOD / timestep)
        self._arm = world.joint_addresses(self.model, world.ARM_JOINTS)
        self._arm_velocity = np.array([self.model.joint(j).dofadr[0] for j in world.ARM_JOINTS])
        self._fingers = world.joint_addresses(self.model, world.FINGER_JOINTS)
        self._feedforward = np.asarray(FR3.joint_damping / FR3.joint_stiffness)
        self._finger_step = FR3.gripper_speed / 2 * CONTROL_PERIOD
        self._follower = PoseFollower(FR3.home_joints, CONTROL_PERIOD)
        self._renderer = SceneRenderer(self.model, image_size, image_size) if image_size else None
        self._finger_goal = FR3.gripper_width / 2
        self._scorer: Scorer | None = None
        self.placement: Placement | None = None

    def arrange(self, placement: Placement) -> None:
        """Put objects and containers as `placement` says and the arm at zero, without physics."""
        mujoco.mj_resetData(self.model, self.data)
        for name in OBJECTS:
            self._put_away(object_body(name), name not in placement.objects)
        for name in CONTAINERS:
            self._put_away(container_body(name), name not in placement.containers)
        apply_placement(self.model, self.data, placement)

    def _put_away(self, body: str, away: bool) -> None:
        """Do not draw what no camera sees; let it float, since lying would cost contacts."""
        index = self.model.body(body).id
        self.model.body_gravcomp[index] = float(away)
        self.model.geom_rgba[self.model.geom_bodyid == index, 3] = float(not away)

    def update_kinematics(self) -> None:
        """Bring body and camera poses up to date with qpos; mj_step leaves them one step behind."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def show(self, look: Look | None) -> None:
        """Show this light and these colours; None shows the world as it was built."""
        self._painter.apply(look)

    def reset(self, placement: Placement, *, random_look: bool = False) -> None:
        """Start the trial that `placement` describes; the arm stands at its start, hand open.

        `random_look` draws light and colours from the placement's seed.
        """
        self.show(sample_look(self.model, placement.seed) if random_look else None)
        self.arrange(placement)
        joints = home_joints(placement)
        place_arm(self.model, self.data, joints)
        self._follower.reset(joints)
        self._finger_goal = FR3.gripper_width / 2
        self.placement = placement
        self._scorer = Scorer(self.model, placement)
        for _ in range(round(SETTLE_TIME / CONTROL_PERIOD)):
            self.advance(self.commanded_pose, 1.0)
        self.data.time = 0.0

    @property
    def time(self) -> float:
        return float(self.data.time)

    @property
    def commanded_pose(self) -> Vector:
        """Last end-effector pose (7,) asked for."""
        return self._follower.wanted

    @property
    def pose(self) -> Vector:
        """Measured end-effector pose (7,)."""
        return kinematics.forward(self.data.qpos[self._arm])

    @property
    def gripper_opening(self) -> float:
        """Measured opening, 0 closed .. 1 open."""
        return float(np.clip(self.data.qpos[self._fingers].sum() / FR3.gripper_width, 0.0, 1.0))

    def advance(self, pose: Vector, gripper: float) -> None:
        """One control period towards `pose` (7,); `gripper` below 0.5 closes, otherwise opens."""
        setpoint = self._follower.step(pose)
        wanted = FR3.gripper_width / 2 if gripper >= 0.5 else 0.0
        self._finger_goal += float(
            np.clip(wanted - self._finger_goal, -self._finger_step, self._finger_step)
        )
        control = self.data.ctrl
        # ctrl enters as stiffness * ctrl; the shift adds the damping's velocity reference.
        control[:7] = setpoint.joints + self._feedforward * setpoint.velocity
        control[7:9] = self._finger_goal
        mujoco.mj_step(self.model, self.data, self._substeps)

    def robot_state(self) -> RobotState:
        """Measured state of the arm, stamped with the trial's time."""
        return RobotState(
            pose=self.pose,
            joint_positions=self.data.qpos[self._arm].copy(),
            joint_velocities=self.data.qvel[self._arm_velocity].copy(),
            gripper_opening=self.gripper_opening,
            stamp=self.time,
        )

    def images(self) -> dict[str, np.ndarray]:
        """Pictures (size, size, 3) of both cameras, by camera name."""
        if self._renderer is None:
            raise RuntimeError("this simulation was made without pictures (image_size=None)")
        self.update_kinematics()
        return {name: self._renderer.render(self.data, name) for name in CAMERAS}

    def observe(self, instruction: str) -> Observation:
        """What a policy would see now."""
        frames = {name: CameraFrame(image, self.time) for name, image in self.images().items()}
        return Observation(instruction, frames, self.robot_state(), self.time)

    def follow(self, pose: Vector, gripper: float, duration: float) -> None:
        """Move in a straight line to the waypoint `pose` (7,) in `duration` [s]."""
        start, periods = self.commanded_pose, round(duration / CONTROL_PERIOD)
        for i in range(1, periods + 1):
            self.advance(geometry.interpolate(start, pose, i / periods), gripper)

    def score(self) -> Score:
        """Success and stage at this moment."""
        if self._scorer is None:
            raise RuntimeError("reset the simulation before scoring")
        return self._scorer.update(self.data)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
