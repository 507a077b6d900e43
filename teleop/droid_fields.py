"""An episode's steps under DROID's field names, as LeRobot data sets of DROID have them.

Names, shapes and dtypes: LeRobot's port of DROID 1.0.1 (examples/port_datasets/port_droid.py);
meaning: droid-dataset.github.io, "Dataset Schema". The gripper counts 0 open, 1 closed. Positions
are in the base frame, metres and roll, pitch, yaw [rad]. Velocities are DROID's: the change within
one of its control periods over the largest one allowed (droid/robot_ik/robot_ik_solver.py).

The second exterior camera is left out; the other languages are empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from contracts.calibration import Calibration
from contracts.geometry import Vector
from teleop.dataset import TOLERANCE, Episode

CAMERA_FIELDS: Final = {"front": "exterior_1_left", "wrist": "wrist_left"}
"""Our cameras by DROID's names; any other keeps its own."""
CONTROL_RATE: Final = 15.0
LARGEST_LINEAR: Final = 0.075
LARGEST_ANGULAR: Final = 0.15
LARGEST_JOINT: Final = 0.2
LARGEST_GRIPPER: Final = 0.25
"""DROID's largest changes in a control period: metres, radians, radians, share of the opening."""
POSE_AXES: Final = ("x", "y", "z", "roll", "pitch", "yaw")
JOINT_AXES: Final = tuple(f"joint_{i}" for i in range(7))
GRIPPER_AXES: Final = ("gripper",)

_VECTORS: Final[Mapping[str, Sequence[str]]] = {
    "observation.state.gripper_position": GRIPPER_AXES,
    "observation.state.cartesian_position": POSE_AXES,
    "observation.state.joint_position": JOINT_AXES,
    "observation.state": JOINT_AXES + GRIPPER_AXES,
    "action.gripper_position": GRIPPER_AXES,
    "action.gripper_velocity": GRIPPER_AXES,
    "action.cartesian_position": POSE_AXES,
    "action.cartesian_velocity": POSE_AXES,
    "action.joint_position": JOINT_AXES,
    "action.joint_velocity": JOINT_AXES,
    "action.original": POSE_AXES + GRIPPER_AXES,
    "action": JOINT_AXES + GRIPPER_AXES,
}
_FLAGS: Final = ("is_first", "is_last", "is_terminal", "is_episode_successful")
_NUMBERS: Final = ("discount", "reward")
_TEXTS: Final = (
    "language_instruction",
    "language_instruction_2",
    "language_instruction_3",
    "task_category",
    "building",
    "collector_id",
    "date",
)


def picture_field(camera: str) -> str:
    """LeRobot's key of a camera's pictures."""
    return f"observation.images.{CAMERA_FIELDS.get(camera, camera)}"


def features(pictures: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    """LeRobot's feature table; `pictures`: height and width of each camera."""
    table: dict[str, dict[str, Any]] = {}
    for name in _FLAGS:
        table[name] = _feature("bool", (1,), None)
    for name in _TEXTS:
        table[name] = _feature("string", (1,), None)
    for name in _NUMBERS:
        table[name] = _feature("float32", (1,), None)
    for name, axes in _VECTORS.items():
        table[name] = _feature("float32", (len(axes),), {"axes": list(axes)})
    for camera, (height, width) in pictures.items():
        extrinsics = f"camera_extrinsics.{CAMERA_FIELDS.get(camera, camera)}"
        table[extrinsics] = _feature("float32", (6,), {"axes": list(POSE_AXES)})
        names = ["height", "width", "channels"]
        table[picture_field(camera)] = _feature("video", (height, width, 3), names)
    return table


def steps(episode: Episode, times: Vector, fps: float) -> dict[str, NDArray[Any]]:
    """Columns (T, ...) of every field but the pictures, for the moments `times` (T,) [s].

    A step's action is what was commanded for the next one.
    """
    count, header = len(times), episode.header
    state, due = _positions(episode, times), _commanded(episode, times + 1.0 / fps)
    last = np.arange(count) == count - 1
    success = episode.outcome.label == "success"
    rate = _velocities(due, _commanded(episode, times), fps)
    columns: dict[str, NDArray[Any]] = {
        "is_first": np.arange(count) == 0,
        "is_last": last,
        "is_terminal": last,
        "is_episode_successful": np.full(count, success),
        "discount": np.ones(count),
        "reward": (last & success).astype(np.float64),
        "observation.state": _joined(state, "joint_position"),
        "action": _joined(due, "joint_position"),
        "action.original": np.concatenate(
            [rate["cartesian_velocity"], due["gripper_position"]], axis=1
        ),
    }
    columns |= {f"observation.state.{name}": values for name, values in state.items()}
    columns |= {f"action.{name}": values for name, values in {**due, **rate}.items()}
    for camera in episode.cameras:
        name = f"camera_extrinsics.{CAMERA_FIELDS.get(camera, camera)}"
        columns[name] = np.tile(extrinsics(episode.calibration, camera), (count, 1))
    texts = {
        "language_instruction": header.instruction,
        "task_category": header.task,
        "collector_id": header.operator,
        "date": header.started_at[:10],
    }
    columns |= {name: np.full(count, texts.get(name, "")) for name in _TEXTS}
    return {
        name: values.astype(np.float32) if values.dtype == np.float64 else values
        for name, values in columns.items()
    }


def pose_to_euler(poses: Vector) -> Vector:
    """Poses (..., 7) as position and roll, pitch, yaw (..., 6)."""
    flat = poses.reshape(-1, 7)
    turns = Rotation.from_quat(flat[:, 3:]).as_euler("xyz")
    return np.concatenate([flat[:, :3], turns], axis=1).reshape(*poses.shape[:-1], 6)


def euler_to_pose(values: Vector) -> Vector:
    """Inverse of `pose_to_euler`."""
    flat = values.reshape(-1, 6)
    turns = Rotation.from_euler("xyz", flat[:, 3:]).as_quat()
    return np.concatenate([flat[:, :3], turns], axis=1).reshape(*values.shape[:-1], 7)


def extrinsics(calibration: Calibration | None, camera: str) -> Vector:
    """Camera pose (6,) in the base or, on the wrist, the hand's frame; zeros if not calibrated."""
    found = calibration.cameras.get(camera) if calibration is not None else None
    return np.zeros(6) if found is None else pose_to_euler(found.pose)


def _feature(dtype: str, shape: tuple[int, ...], names: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "names": names}


def _positions(episode: Episode, times: Vector) -> dict[str, Vector]:
    rows = episode.states_at(times)
    return {
        "gripper_position": 1.0 - rows["gripper_opening"][:, None],
        "cartesian_position": pose_to_euler(rows["pose"]),
        "joint_position": np.nan_to_num(rows["joint_positions"]),
    }


def _commanded(episode: Episode, times: Vector) -> dict[str, Vector]:
    """What was commanded at `times`: wanted pose and gripper, and the filter's joint setpoints."""
    wanted = episode.commands[_latest(episode.command_times, times)]
    if len(episode.filtered):
        filtered = episode.filtered[_latest(episode.filtered_times, times)]
        joints = filtered["joint_positions"]
    else:  # an imported episode: where the joints went is what was commanded
        joints = episode.states_at(times)["joint_positions"]
    return {
        "gripper_position": 1.0 - wanted["gripper"][:, None],
        "cartesian_position": pose_to_euler(wanted["pose"]),
        "joint_position": np.nan_to_num(joints),
    }


def _latest(stamps: Vector, times: Vector) -> NDArray[np.int64]:
    return np.maximum(np.searchsorted(stamps, times + TOLERANCE, side="right") - 1, 0)


def _velocities(due: dict[str, Vector], now: dict[str, Vector], fps: float) -> dict[str, Vector]:
    share = fps / CONTROL_RATE
    position = due["cartesian_position"] - now["cartesian_position"]
    turn = (
        Rotation.from_euler("xyz", due["cartesian_position"][:, 3:])
        * Rotation.from_euler("xyz", now["cartesian_position"][:, 3:]).inv()
    ).as_euler("xyz")
    joints = due["joint_position"] - now["joint_position"]
    gripper = due["gripper_position"] - now["gripper_position"]
    return {
        "cartesian_velocity": np.concatenate(
            [position[:, :3] / LARGEST_LINEAR, turn / LARGEST_ANGULAR], axis=1
        )
        * share,
        "joint_velocity": joints / LARGEST_JOINT * share,
        "gripper_velocity": gripper / LARGEST_GRIPPER * share,
    }


def _joined(values: dict[str, Vector], first: str) -> Vector:
    return np.concatenate([values[first], values["gripper_position"]], axis=1)
