"""A set-up's calibration as ROS tells it: camera_info, /tf_static, and the file it comes from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from contracts.calibration import Calibration, CameraCalibration
from roboalign.camera_driver import Intrinsics

ASPECT_TOLERANCE = 0.01


def load_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        ValueError: it is missing, is not YAML, or does not keep to the schema; the text names it.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Calibration.from_document(document)
    except OSError as error:
        raise ValueError(f"calibration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"calibration {path}: {error}") from error


def camera_of(
    calibration: Calibration, name: str, serial: str, width: int, height: int
) -> CameraCalibration:
    """The camera's entry, scaled to pictures of `width` x `height`; `serial` empty: any.

    Raises:
        ValueError: no such camera, another serial number, or pictures of another shape.
    """
    camera = calibration.cameras.get(name)
    if camera is None:
        known = ", ".join(sorted(calibration.cameras))
        raise ValueError(f"the calibration has no camera {name!r}, only {known}")
    if serial and camera.serial != serial:
        raise ValueError(
            f"the calibration is of a camera with serial number {camera.serial}, this one has "
            f"{serial}: calibrate it, or give its own file"
        )
    return scaled(camera, width, height)


def scaled(camera: CameraCalibration, width: int, height: int) -> CameraCalibration:
    """The same camera at another resolution of the same field of view.

    Pixel centres are integers, so centres scale about (-0.5, -0.5).

    Raises:
        ValueError: the pictures have another shape: then the sensor is cropped in another way.
    """
    x, y = width / camera.width, height / camera.height
    if abs(x / y - 1.0) > ASPECT_TOLERANCE:
        raise ValueError(
            f"camera {camera.name} was calibrated at {camera.width}x{camera.height}; pictures of "
            f"{width}x{height} show another part of its sensor: calibrate at that profile"
        )
    return dataclasses.replace(
        camera,
        width=width,
        height=height,
        fx=x * camera.fx,
        fy=y * camera.fy,
        cx=x * (camera.cx + 0.5) - 0.5,
        cy=y * (camera.cy + 0.5) - 0.5,
    )


def camera_info(camera: CameraCalibration | Intrinsics) -> CameraInfo:
    """Intrinsics as camera_info; its header is left to the caller."""
    c = camera
    return CameraInfo(
        width=c.width,
        height=c.height,
        distortion_model="plumb_bob",
        d=list(c.distortion),
        k=[c.fx, 0.0, c.cx, 0.0, c.fy, c.cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[c.fx, 0.0, c.cx, 0.0, 0.0, c.fy, c.cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def camera_transform(camera: CameraCalibration, frame_id: str, robot_type: str) -> TransformStamped:
    """The optical frame `frame_id` in the arm's base or hand, as /tf_static holds it."""
    parent = f"{robot_type}_link0" if camera.frame == "base" else f"{robot_type}_hand"
    message = TransformStamped(header=Header(frame_id=parent), child_frame_id=frame_id)
    place, turn = message.transform.translation, message.transform.rotation
    place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w = (float(v) for v in camera.pose)
    return message
