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

    frame: `base` for a camera that stands still, `hand` (the body `fr3_hand`, whose origin lies
    `kinematics.TCP_OFFSET` behind the fingertips) for one on the hand; the optical frame looks
    along +z, x right, y down. Pixels: integers are pixel centres; distortion: k1 k2 p1 p2 k3 of
    Brown and Conrady. residual_px: RMS reprojection error on held-out views.

    What a file written by hand may leave out: standard_errors (6,) of position [m] and of small
    rotations [rad] about the axes of `frame`; residual_mm: RMS distance of the held-out boards from
    where they should be; board_pose (7,): where the board was, in the hand for a camera in the
    base's frame and the other way round; intrinsics_source: `factory`, `estimated` or the name of a
    file; calibrated_on: the day; views: how many were used.
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
    residual_mm: float | None = None
    standard_errors: tuple[float, ...] | None = None
    board_pose: Vector | None = None
    intrinsics_source: str = "factory"
    calibrated_on: date | None = None
    views: int = 0

    def __post_init__(self) -> None:
        if self.frame not in ("base", "hand"):
            raise ValueError(
                f"camera {self.name!r}: frame must be 'base' or 'hand', got {self.frame!r}"
            )
        if not all(
            0 < value < float("inf") for value in (self.width, self.height, self.fx, self.fy)
        ):
            raise ValueError(f"camera {self.name!r}: sizes and focal lengths must be positive")
        if not (0 <= self.cx < self.width and 0 <= self.cy < self.height):
            raise ValueError(f"camera {self.name!r}: the principal point lies outside the picture")
        if len(self.distortion) != 5 or not np.isfinite(self.distortion).all():
            raise ValueError(f"camera {self.name!r}: distortion must be five finite numbers")
        object.__setattr__(
            self, "pose", geometry.check_poses(self.pose, f"camera {self.name!r}: pose")
        )
        if self.board_pose is not None:
            board_pose = geometry.check_poses(self.board_pose, f"camera {self.name!r}: board_pose")
            object.__setattr__(self, "board_pose", board_pose)
        errors = self.standard_errors
        if errors is not None and not (len(errors) == 6 and all(0.0 <= e < 1.0 for e in errors)):
            raise ValueError(f"camera {self.name!r}: standard_errors must be six small numbers")
        if self.views < 0:
            raise ValueError(f"camera {self.name!r}: views must not be negative")

    def to_document(self) -> dict[str, Any]:
        """Plain dict for a YAML file, without what is not known."""
        document = {name: value for name, value in vars(self).items() if value is not None}
        for name in ("pose", "board_pose"):
            if name in document:
                document[name] = document[name].tolist()
        for name in ("distortion", "standard_errors"):
            if name in document:
                document[name] = list(document[name])
        if self.calibrated_on is not None:
            document["calibrated_on"] = self.calibrated_on.isoformat()
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> CameraCalibration:
        """Inverse of `to_document`. Raises KeyError, TypeError or ValueError."""
        fields = dict(document)
        for name in ("pose", "board_pose"):
            if name in fields:
                fields[name] = np.asarray(fields[name], dtype=np.float64)
        for name in ("distortion", "standard_errors"):
            if name in fields:
                fields[name] = tuple(fields[name])
        if "calibrated_on" in fields:
            fields["calibrated_on"] = date.fromisoformat(str(fields["calibrated_on"]))
        return cls(**fields)


@dataclass(frozen=True)
class Latencies:
    """Delays [s] between an event and its stamp or effect; each is measured, none is assumed.

    intervals: lower and upper end of the 95 % interval [s] of each, by its name, where known.
    """

    camera: float
    robot_observation: float
    robot_action: float
    gripper: float
    intervals: Mapping[str, tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        for name, value in self.by_name.items():
            if not 0.0 <= value <= 2.0:
                raise ValueError(f"latency {name!r} must be 0..2 s, got {value}")
        for name, (low, high) in (self.intervals or {}).items():
            if name not in self.by_name:
                raise ValueError(f"latency interval of {name!r}, which is no latency")
            if not low <= self.by_name[name] <= high:
                raise ValueError(f"latency {name!r} lies outside its interval {low}..{high}")

    @property
    def by_name(self) -> dict[str, float]:
        """The four delays [s]."""
        return {name: value for name, value in vars(self).items() if name != "intervals"}

    def to_document(self) -> dict[str, Any]:
        """Plain dict for a YAML file."""
        intervals = {name: list(ends) for name, ends in (self.intervals or {}).items()}
        return self.by_name | ({"intervals": intervals} if intervals else {})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Latencies:
        """Inverse of `to_document`. Raises KeyError, TypeError or ValueError."""
        fields = dict(document)
        if "intervals" in fields:
            fields["intervals"] = {
                name: (float(low), float(high)) for name, (low, high) in fields["intervals"].items()
            }
        return cls(**fields)


@dataclass(frozen=True)
class Calibration:
    """Everything measured about one set-up, as of one day.

    latencies: None while they are not measured. board: the board that was used, as its own file
    describes it (`calibration.board`), where known.
    """

    robot: str
    made_on: date
    cameras: Mapping[str, CameraCalibration]
    latencies: Latencies | None
    schema_version: int = SCHEMA_VERSION
    board: Mapping[str, Any] | None = None

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
        return {
            "schema_version": self.schema_version,
            "robot": self.robot,
            "made_on": self.made_on.isoformat(),
            "cameras": {name: camera.to_document() for name, camera in self.cameras.items()},
            "latencies": None if self.latencies is None else self.latencies.to_document(),
        } | ({} if self.board is None else {"board": dict(self.board)})

    @classmethod
    def from_document(cls, document: Any) -> Calibration:
        """Inverse of `to_document`.

        Raises:
            ValueError: a field is missing, unknown or wrong; the message names it.
        """
        try:
            unknown = set(document) - set(cls.__dataclass_fields__)
            if unknown:
                raise ValueError(f"calibration file: unknown field {', '.join(sorted(unknown))}")
            cameras = {
                name: CameraCalibration.from_document(fields)
                for name, fields in document["cameras"].items()
            }
            latencies = document["latencies"]
            return cls(
                robot=document["robot"],
                made_on=date.fromisoformat(str(document["made_on"])),
                cameras=cameras,
                latencies=None if latencies is None else Latencies.from_document(latencies),
                schema_version=document["schema_version"],
                board=document.get("board"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"calibration file: {error!r} is missing or wrong") from error
