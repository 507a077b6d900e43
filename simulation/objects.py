"""What stands on the table: four objects to move and four containers, as MJCF elements.

Objects are free bodies; containers are mocap bodies, so that a reset can place them without
recompiling the model. Each has a simple collision shape and a look of its own. Metres, kilograms.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Final

import numpy as np

from contracts.task import CONTAINERS, OBJECTS

VISUAL_GROUP: Final = "1"
"""Geoms of this group are drawn."""
COLLISION_GROUP: Final = "3"
"""Geoms of this group only collide; they are not drawn."""


@dataclass(frozen=True)
class ObjectShape:
    """Half extents of the collision shape, and how far the gripper's yaw repeats itself [rad]."""

    half_size: tuple[float, float, float]
    mass: float
    yaw_period: float


OBJECT_SHAPES: Final = {
    "teddy bear": ObjectShape((0.018, 0.018, 0.032), 0.06, np.pi / 2),
    "box": ObjectShape((0.021, 0.021, 0.021), 0.06, np.pi / 2),
    "cup": ObjectShape((0.025, 0.025, 0.032), 0.06, 0.0),
    "sponge": ObjectShape((0.034, 0.021, 0.014), 0.04, np.pi),
}


@dataclass(frozen=True)
class ContainerShape:
    """Inner half width (or radius), height of the floor and of the walls' upper edge."""

    inner: float
    floor: float
    height: float
    round: bool


CONTAINER_SHAPES: Final = {
    "box": ContainerShape(0.080, 0.004, 0.040, round=False),
    "bowl": ContainerShape(0.078, 0.004, 0.036, round=True),
    "plate": ContainerShape(0.090, 0.008, 0.008, round=True),
    "basket": ContainerShape(0.080, 0.004, 0.044, round=True),
}


def grasp_yaw(obj: str, yaw: float) -> float:
    """Gripper yaw [rad] nearest to 0 that fits the faces of an object turned by `yaw`."""
    period = OBJECT_SHAPES[obj].yaw_period
    return 0.0 if period == 0.0 else float((yaw + period / 2) % period - period / 2)


def object_body(name: str) -> str:
    """Body name of an object."""
    return "object_" + name.replace(" ", "_")


def container_body(name: str) -> str:
    """Body name of a container."""
    return "container_" + name


def add_objects(worldbody: ET.Element) -> None:
    """Append the four objects to an MJCF worldbody."""
    builders = {"teddy bear": _teddy_bear, "box": _box, "cup": _cup, "sponge": _sponge}
    for name in OBJECTS:
        body = ET.SubElement(worldbody, "body", name=object_body(name))
        ET.SubElement(body, "freejoint", name=object_body(name))
        builders[name](body)


def add_containers(worldbody: ET.Element) -> None:
    """Append the four containers to an MJCF worldbody."""
    builders = {"box": _carton, "bowl": _bowl, "plate": _plate, "basket": _basket}
    for name in CONTAINERS:
        body = ET.SubElement(worldbody, "body", name=container_body(name), mocap="true")
        builders[name](body)


def _numbers(*values: float) -> str:
    return " ".join(f"{v:.5g}" for v in values)


def _solid(body: ET.Element, kind: str, size: tuple[float, ...], mass: float) -> None:
    ET.SubElement(
        body,
        "geom",
        type=kind,
        size=_numbers(*size),
        mass=str(mass),
        group=COLLISION_GROUP,
        friction="1.2 0.02 0.001",
        condim="4",
    )


def _look(
    body: ET.Element,
    kind: str,
    size: tuple[float, ...],
    rgb: tuple[float, float, float],
    pos: tuple[float, float, float] = (0, 0, 0),
    euler: tuple[float, float, float] = (0, 0, 0),
) -> None:
    ET.SubElement(
        body,
        "geom",
        type=kind,
        size=_numbers(*size),
        pos=_numbers(*pos),
        euler=_numbers(*euler),
        rgba=_numbers(*rgb, 1.0),
        group=VISUAL_GROUP,
        contype="0",
        conaffinity="0",
        mass="0",
    )


def _teddy_bear(body: ET.Element) -> None:
    shape = OBJECT_SHAPES["teddy bear"]
    _solid(body, "box", shape.half_size, shape.mass)
    fur, light, dark = (0.50, 0.27, 0.09), (0.80, 0.60, 0.35), (0.05, 0.03, 0.02)
    _look(body, "ellipsoid", (0.023, 0.021, 0.025), fur, (0, 0, -0.008))
    _look(body, "sphere", (0.019,), fur, (0, 0, 0.024))
    _look(body, "ellipsoid", (0.006, 0.009, 0.007), light, (0.018, 0, 0.020))
    for side in (-1, 1):
        _look(body, "sphere", (0.008,), fur, (0, side * 0.015, 0.038))
        _look(body, "sphere", (0.003,), dark, (0.017, side * 0.007, 0.029))
        _look(body, "ellipsoid", (0.008, 0.008, 0.011), fur, (0.008, side * 0.021, 0.000))
        _look(body, "ellipsoid", (0.013, 0.009, 0.009), light, (0.015, side * 0.012, -0.023))


def _box(body: ET.Element) -> None:
    shape = OBJECT_SHAPES["box"]
    _solid(body, "box", shape.half_size, shape.mass)
    _look(body, "box", shape.half_size, (0.08, 0.22, 0.85))
    _look(body, "box", (0.0055, 0.0214, 0.0214), (0.75, 0.82, 0.95))


def _cup(body: ET.Element) -> None:
    shape = OBJECT_SHAPES["cup"]
    radius, half_height = shape.half_size[0], shape.half_size[2]
    _solid(body, "cylinder", (radius, half_height), shape.mass)
    red = (0.85, 0.08, 0.08)
    _look(body, "cylinder", (radius, half_height), red)
    _look(body, "cylinder", (radius - 0.004, 0.001), (0.25, 0.02, 0.02), (0, 0, half_height))
    for z, length, tilt in ((0.016, 0.008, np.pi / 2), (-0.012, 0.008, np.pi / 2)):
        _look(body, "capsule", (0.004, length), red, (radius + 0.007, 0, z), (0, tilt, 0))
    _look(body, "capsule", (0.004, 0.014), red, (radius + 0.015, 0, 0.002))


def _sponge(body: ET.Element) -> None:
    shape = OBJECT_SHAPES["sponge"]
    x, y, z = shape.half_size
    _solid(body, "box", shape.half_size, shape.mass)
    _look(body, "box", (x, y, z - 0.004), (0.95, 0.82, 0.10), (0, 0, -0.004))
    _look(body, "box", (x, y, 0.004), (0.10, 0.45, 0.15), (0, 0, z - 0.004))


def _part(
    body: ET.Element,
    kind: str,
    size: tuple[float, ...],
    rgb: tuple[float, float, float],
    pos: tuple[float, float, float],
    euler: tuple[float, float, float] = (0, 0, 0),
) -> None:
    """A container's part, drawn and solid."""
    ET.SubElement(
        body,
        "geom",
        type=kind,
        size=_numbers(*size),
        pos=_numbers(*pos),
        euler=_numbers(*euler),
        rgba=_numbers(*rgb, 1.0),
        group=VISUAL_GROUP,
        friction="1.0 0.02 0.001",
    )


def _ring(
    body: ET.Element,
    shape: ContainerShape,
    sides: int,
    colours: tuple[tuple[float, float, float], ...],
) -> None:
    """Walls as a regular polygon; colours alternate around it."""
    thickness, half_height = 0.004, shape.height / 2
    radius = shape.inner + thickness
    half_length = radius * float(np.tan(np.pi / sides)) + thickness / 2
    for i in range(sides):
        angle = 2 * np.pi * i / sides
        pos = (radius * float(np.cos(angle)), radius * float(np.sin(angle)), half_height)
        _part(
            body,
            "box",
            (thickness, half_length, half_height),
            colours[i % len(colours)],
            pos,
            (0, 0, angle),
        )


def _carton(body: ET.Element) -> None:
    shape = CONTAINER_SHAPES["box"]
    cardboard, inside = (0.72, 0.50, 0.28), (0.82, 0.62, 0.40)
    _part(
        body,
        "box",
        (shape.inner + 0.004,) * 2 + (shape.floor / 2,),
        inside,
        (0, 0, shape.floor / 2),
    )
    _ring(body, shape, 4, (cardboard,))


def _bowl(body: ET.Element) -> None:
    shape = CONTAINER_SHAPES["bowl"]
    _part(
        body,
        "cylinder",
        (shape.inner, shape.floor / 2),
        (0.35, 0.80, 0.65),
        (0, 0, shape.floor / 2),
    )
    _ring(body, shape, 12, ((0.10, 0.55, 0.42),))


def _plate(body: ET.Element) -> None:
    shape = CONTAINER_SHAPES["plate"]
    half = shape.floor / 2
    _part(body, "cylinder", (shape.inner, half), (0.93, 0.93, 0.96), (0, 0, half))
    _look(body, "cylinder", (shape.inner * 0.72, 0.0005), (0.80, 0.83, 0.92), (0, 0, shape.floor))


def _basket(body: ET.Element) -> None:
    shape = CONTAINER_SHAPES["basket"]
    dark, light = (0.42, 0.16, 0.36), (0.58, 0.28, 0.50)
    _part(
        body,
        "cylinder",
        (shape.inner, shape.floor / 2),
        (0.50, 0.22, 0.44),
        (0, 0, shape.floor / 2),
    )
    _ring(body, shape, 10, (dark, light))
    for side in (-1, 1):
        x = side * (shape.inner + 0.006)
        _look(
            body, "capsule", (0.005, 0.022), light, (x, 0, shape.height + 0.008), (np.pi / 2, 0, 0)
        )
