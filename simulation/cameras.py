"""The two cameras: a D435 in front of the table, a D405 on the wrist."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Final

import numpy as np

FRONT: Final = "front"
WRIST: Final = "wrist"


@dataclass(frozen=True)
class SimulatedCamera:
    """A pinhole camera in MuJoCo's convention (looks along -z, y up), mounted on the world or hand.

    position [m] and the axes are in the mount's frame; fovy is the vertical field of view [deg].
    """

    name: str
    product: str
    serial: str
    on_hand: bool
    position: tuple[float, float, float]
    right: tuple[float, float, float]
    up: tuple[float, float, float]
    fovy: float

    def focal_length(self, height: int) -> float:
        """Focal length [px] of a picture `height` pixels high."""
        return float(0.5 * height / np.tan(np.deg2rad(self.fovy) / 2))


def _looking(
    name: str,
    position: tuple[float, float, float],
    target: tuple[float, float, float],
    right: tuple[float, float, float],
    **fields: object,
) -> SimulatedCamera:
    forward = np.subtract(target, position)
    up = np.cross(right, forward / np.linalg.norm(forward))
    return SimulatedCamera(
        name=name,
        position=position,
        right=right,
        up=tuple(up.tolist()),
        **fields,  # type: ignore[arg-type]
    )


CAMERAS: Final = {
    FRONT: _looking(
        FRONT,
        (1.16, 0.0, 0.74),
        (0.475, 0.0, 0.02),
        (0.0, 1.0, 0.0),
        product="Intel RealSense D435",
        serial="834412070001",
        on_hand=False,
        fovy=42.0,
    ),
    WRIST: _looking(
        WRIST,
        (0.075, 0.0, 0.028),
        (0.028, 0.0, 0.1234),
        (0.0, 1.0, 0.0),
        product="Intel RealSense D405",
        serial="128422270002",
        on_hand=True,
        fovy=70.0,
    ),
}


def add_cameras(worldbody: ET.Element, hand: ET.Element) -> None:
    """Append both cameras to the world and to the robot's hand body."""
    for camera in CAMERAS.values():
        parent = hand if camera.on_hand else worldbody
        ET.SubElement(
            parent,
            "camera",
            name=camera.name,
            pos=" ".join(f"{v:.6g}" for v in camera.position),
            xyaxes=" ".join(f"{v:.6g}" for v in camera.right + camera.up),
            fovy=str(camera.fovy),
        )
