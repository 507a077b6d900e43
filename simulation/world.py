"""The one world of the simulation: table, FR3 with hand, objects, containers, cameras, lights.

`furnish` turns franky-sim's scene (robot and meshes, Apache-2.0, see its NOTICE) into ours; the
live server and the fast simulation compile the same elements.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final

import mujoco
import numpy as np
from franky_sim.mujoco_simulator import MujocoSimulator

from contracts.robot import FR3
from simulation import cameras, objects

ROBOT: Final = "robot0_"
HAND: Final = ROBOT + "hand"
FINGERS: Final = (ROBOT + "left_finger", ROBOT + "right_finger")
FINGER_JOINTS: Final = (ROBOT + "finger_joint1", ROBOT + "finger_joint2")
ARM_JOINTS: Final = tuple(f"{ROBOT}fr3_joint{i}" for i in range(1, 8))

# Franky-sim's own hand law, repeated in the fast simulation: see FrankaMujocoRobot._pre_step.
FINGER_STIFFNESS: Final = 1000.0
FINGER_DAMPING: Final = 50.0
FINGER_FORCE: Final = 70.0


def live_simulator() -> MujocoSimulator:
    """Franky-sim's simulator with our scene in it, ready for `SimulationServer`."""
    simulator = MujocoSimulator()
    simulator.add_robot(initial_q=tuple(FR3.home_joints), initial_hand_width=FR3.gripper_width)
    furnish(simulator.scene)
    return simulator


def fast_model(timestep: float = 0.004) -> mujoco.MjModel:
    """The same world with the arm's joint impedance and the hand's law as MuJoCo actuators.

    An actuator's damping is integrated implicitly, so that `timestep` [s] may be four times the
    live server's.
    """
    simulator = live_simulator()
    _add_impedance_actuators(simulator.scene)
    for body in simulator.scene.iter("body"):
        if body.get("name", "").startswith(ROBOT):
            body.set("gravcomp", "1")  # the arm carries its own weight, as libfranka does
    model = mujoco.MjModel.from_xml_string(ET.tostring(simulator.scene, encoding="unicode"))
    model.opt.timestep = timestep
    return model


def render_model() -> mujoco.MjModel:
    """The world for rendering only: same joints and mocap bodies in the same order."""
    return fast_model()


def furnish(scene: ET.Element) -> None:
    """Put our table, lights, cameras, objects and containers into franky-sim's scene element."""
    worldbody = _child(scene, "worldbody")
    for element in list(worldbody):
        if element.tag in ("light", "geom"):
            worldbody.remove(element)
    option = _child(scene, "option")
    option.attrib.update(cone="elliptic", impratio="10")
    _set_visual(_child(scene, "visual"))
    _add_table_and_lights(worldbody)
    _simplify_robot(scene, worldbody)
    hand = next(body for body in worldbody.iter("body") if body.get("name") == HAND)
    cameras.add_cameras(worldbody, hand)
    objects.add_containers(worldbody)
    objects.add_objects(worldbody)
    ET.SubElement(_child(scene, "contact"), "exclude", body1=FINGERS[0], body2=FINGERS[1])


def _child(scene: ET.Element, tag: str) -> ET.Element:
    element = scene.find(tag)
    return element if element is not None else ET.SubElement(scene, tag)


def _set_visual(visual: ET.Element) -> None:
    visual.clear()
    ET.SubElement(
        visual, "headlight", ambient="0.38 0.38 0.38", diffuse="0.35 0.35 0.35", specular="0 0 0"
    )
    # No multisampling and no shadows: they cost ten times the rest on a CPU.
    ET.SubElement(visual, "quality", offsamples="0", shadowsize="0", numslices="14", numstacks="8")
    ET.SubElement(visual, "global", offwidth="1280", offheight="720")
    ET.SubElement(visual, "map", znear="0.02", zfar="10")


def _add_table_and_lights(worldbody: ET.Element) -> None:
    ET.SubElement(
        worldbody,
        "geom",
        name="table",
        type="box",
        size="0.55 0.75 0.03",
        pos="0.40 0 -0.03",
        rgba="0.62 0.57 0.50 1",
        group=objects.VISUAL_GROUP,
        friction="1.0 0.02 0.001",
    )
    ET.SubElement(
        worldbody,
        "geom",
        name="floor",
        type="plane",
        size="3 6 0.1",
        pos="0 0 -0.75",
        rgba="0.32 0.34 0.38 1",
        group=objects.VISUAL_GROUP,
    )
    for position, direction, brightness in (
        ("0.6 0 2.5", "0 0 -1", "0.45 0.45 0.44"),
        ("1.5 1.2 1.6", "-1 -1 -1", "0.30 0.30 0.32"),
    ):
        ET.SubElement(
            worldbody,
            "light",
            pos=position,
            dir=direction,
            diffuse=brightness,
            specular="0.05 0.05 0.05",
            castshadow="false",
        )


def _simplify_robot(scene: ET.Element, worldbody: ET.Element) -> None:
    """Draw the light collision meshes and collide with primitives, for speed on a CPU."""
    base = next(body for body in worldbody.iter("body") if body.get("name") == ROBOT + "base")
    used = {"finger_0"}
    for body in base.iter("body"):
        name = body.get("name", "")
        is_finger, kept_mesh = name in FINGERS, False
        for geom in list(body.findall("geom")):
            mesh = geom.get("mesh", "")
            drawn = (mesh == "finger_0" and not kept_mesh) if is_finger else mesh.endswith("_coll")
            if not drawn:
                body.remove(geom)
                continue
            kept_mesh = True
            used.add(mesh)
            dark = is_finger or name == HAND
            geom.attrib.pop("material", None)
            geom.attrib.update(
                {
                    "class": "visual",
                    "group": objects.VISUAL_GROUP,
                    "rgba": "0.22 0.23 0.26 1" if dark else "0.92 0.92 0.94 1",
                }
            )
        if is_finger:
            _add_finger_collision(body)
        if name == HAND:
            _collide(body, "0.030 0.100 0.030", "0 0 0.032", friction="0.5 0.02 0.001")
    asset = _child(scene, "asset")
    for mesh_element in asset.findall("mesh"):
        if mesh_element.get("name") not in used:
            asset.remove(mesh_element)


def _add_finger_collision(finger: ET.Element) -> None:
    _collide(finger, "0.010 0.004 0.011", "0 0.0055 0.0445", friction="1.5 0.05 0.001")
    _collide(finger, "0.009 0.007 0.017", "0 0.0125 0.0170", friction="0.5 0.02 0.001")


def _collide(body: ET.Element, size: str, position: str, friction: str) -> None:
    ET.SubElement(
        body,
        "geom",
        type="box",
        size=size,
        pos=position,
        friction=friction,
        condim="4",
        group=objects.COLLISION_GROUP,
        mass="0",
    )


def _add_impedance_actuators(scene: ET.Element) -> None:
    actuators = _child(scene, "actuator")
    actuators.clear()
    limits = (87.0,) * 4 + (12.0,) * 3
    for joint, stiffness, damping, limit in zip(
        ARM_JOINTS, FR3.joint_stiffness, FR3.joint_damping, limits, strict=True
    ):
        _position_actuator(actuators, joint, stiffness, damping, limit)
    for joint in FINGER_JOINTS:
        _position_actuator(actuators, joint, FINGER_STIFFNESS, FINGER_DAMPING, FINGER_FORCE)


def _position_actuator(
    actuators: ET.Element, joint: str, stiffness: float, damping: float, limit: float
) -> None:
    ET.SubElement(
        actuators,
        "position",
        name=joint,
        joint=joint,
        kp=str(stiffness),
        kv=str(damping),
        forcerange=f"{-limit} {limit}",
    )


def joint_addresses(model: mujoco.MjModel, joints: tuple[str, ...]) -> np.ndarray:
    """Addresses in qpos of one-dimensional joints."""
    return np.array([model.joint(name).qposadr[0] for name in joints])
