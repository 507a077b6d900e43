"""Calibration: one schema for intrinsics, extrinsics, latencies and residuals, kept as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from contracts import geometry
from contracts.geometry import Vector

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CameraCalibration:
    """Pinhole camera: focal lengths and centre [px], distortion (5,), pose (7,) in `frame`.

    frame: `base` for a camera that stands still, `hand` for one on the end effector; the optical
    frame looks along +z, x right, y down. residual_px: RMS reprojection error on held-out views.
    """

    name: str
    serial: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]
    frame: str
    pose: Vector
    residual_px: float

    def __post_init__(self) -> None:
        if self.frame not in ("base", "hand"):
            raise ValueError(
                f"camera {self.name!r}: frame must be 'base' or 'hand', got {self.frame!r}"
            )
        if min(self.width, self.height) <= 0 or min(self.fx, self.fy) <= 0:
            raise ValueError(f"camera {self.name!r}: sizes and focal lengths must be positive")
        if not (0 <= self.cx < self.width and 0 <= self.cy < self.height):
            raise ValueError(f"camera {self.name!r}: the principal point lies outside the picture")
        if len(self.distortion) != 5 or not np.isfinite(self.distortion).all():
            raise ValueError(f"camera {self.name!r}: distortion must be five finite numbers")
        object.__setattr__(
            self, "pose", geometry.check_poses(self.pose, f"camera {self.name!r}: pose")
        )


@dataclass(frozen=True)
class Latencies:
    """Delays [s] between an event and its stamp or effect; each is measured, none is assumed."""

    camera: float
    robot_observation: float
    robot_action: float
    gripper: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 2.0:
                raise ValueError(f"latency {name!r} must be 0..2 s, got {value}")


@dataclass(frozen=True)
class Calibration:
    """Everything measured about one set-up on one day."""

    robot: str
    made_on: date
    cameras: Mapping[str, CameraCalibration]
    latencies: Latencies
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"calibration schema version {self.schema_version}, "
                f"this software reads {SCHEMA_VERSION}"
            )
        for name, camera in self.cameras.items():
            if camera.name != name:
                raise ValueError(f"camera {camera.name!r} is filed under {name!r}")

    def to_document(self) -> dict[str, Any]:
        """Plain dict for a YAML file."""
        cameras = {
            name: vars(camera)
            | {"pose": camera.pose.tolist(), "distortion": list(camera.distortion)}
            for name, camera in self.cameras.items()
        }
        return {
            "schema_version": self.schema_version,
            "robot": self.robot,
            "made_on": self.made_on.isoformat(),
            "cameras": cameras,
            "latencies": dict(vars(self.latencies)),
        }

    @classmethod
    def from_document(cls, document: Any) -> Calibration:
        """Inverse of `to_document`.

        Raises:
            ValueError: a field is missing, unknown or wrong; the message names it.
        """
        try:
            cameras = {
                name: CameraCalibration(
                    **fields
                    | {
                        "pose": np.asarray(fields["pose"]),
                        "distortion": tuple(fields["distortion"]),
                    }
                )
                for name, fields in document["cameras"].items()
            }
            return cls(
                robot=document["robot"],
                made_on=date.fromisoformat(str(document["made_on"])),
                cameras=cameras,
                latencies=Latencies(**document["latencies"]),
                schema_version=document["schema_version"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"calibration file: {error!r} is missing or wrong") from error
