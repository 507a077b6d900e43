"""Between ROS messages and this project's types; float seconds of ROS time on this side."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from roboalign_msgs.msg import ActionChunk as ActionChunkMessage
from sensor_msgs.msg import Image

from contracts.action import ActionChunk
from contracts.geometry import Vector
from contracts.observation import CameraFrame
from roboalign.execution_mode import ExecutionMode


def to_seconds(stamp: Time) -> float:
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def to_stamp(seconds: float) -> Time:
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def to_vector(pose: Pose) -> Vector:
    """Pose (7,): metres, quaternion xyzw."""
    p, q = pose.position, pose.orientation
    return np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])


def to_pose(vector: Vector) -> Pose:
    pose = Pose()
    p, q = pose.position, pose.orientation
    p.x, p.y, p.z, q.x, q.y, q.z, q.w = (float(v) for v in vector)
    return pose


def chunk_from_message(message: ActionChunkMessage) -> ActionChunk:
    """Raises ValueError: values that are not finite, a wrong shape, a bad stamp."""
    poses = np.array([to_vector(pose) for pose in message.poses], dtype=np.float64)
    return ActionChunk(
        chunk_id=message.chunk_id,
        observation_stamp=to_seconds(message.observation_stamp),
        time_step=message.time_step,
        poses=poses.reshape(-1, 7),
        gripper=np.asarray(message.gripper, dtype=np.float64),
    )


def chunk_to_message(
    chunk: ActionChunk, mode: ExecutionMode = ExecutionMode.ASYNCHRONOUS
) -> ActionChunkMessage:
    """Header is left to the caller."""
    return ActionChunkMessage(
        observation_stamp=to_stamp(chunk.observation_stamp),
        chunk_id=chunk.chunk_id,
        time_step=float(chunk.time_step),
        poses=[to_pose(pose) for pose in chunk.poses],
        gripper=chunk.gripper.astype(np.float32).tolist(),
        execution_mode=str(mode),
    )


def mode_from_message(message: ActionChunkMessage) -> ExecutionMode:
    """Raises ValueError: not an execution mode."""
    name = message.execution_mode
    return ExecutionMode(name) if name else ExecutionMode.ASYNCHRONOUS


def frame_from_message(message: Image) -> CameraFrame:
    """Raises ValueError: not an rgb8 image of the size that it says."""
    if message.encoding != "rgb8":
        raise ValueError(f"expected an rgb8 image, got {message.encoding!r}")
    shape = (message.height, message.width, 3)
    if len(message.data) != message.height * message.width * 3:
        raise ValueError(f"image of {shape} with {len(message.data)} bytes")
    image = np.frombuffer(message.data, np.uint8).reshape(shape)
    return CameraFrame(image, to_seconds(message.header.stamp))


def image_to_message(image: NDArray[np.uint8] | NDArray[np.uint16]) -> Image:
    """An rgb8 or 16UC1 image (height, width[, 3]); header is left to the caller."""
    message = Image(height=image.shape[0], width=image.shape[1])
    message.encoding = "rgb8" if image.ndim == 3 else "16UC1"
    message.step = image.shape[1] * image.itemsize * (3 if image.ndim == 3 else 1)
    message.is_bigendian = 0
    # `data` is an array('B'); assigning an ndarray to it would take 41 ms, this takes 0.03 ms.
    message.data.frombytes(memoryview(np.ascontiguousarray(image)).cast("B"))
    return message


def diagnostic(name: str, error: str, values: dict[str, str]) -> DiagnosticStatus:
    """OK without `error`, else ERROR with it as the message."""
    return DiagnosticStatus(
        level=DiagnosticStatus.ERROR if error else DiagnosticStatus.OK,
        name=name,
        message=error or "ok",
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
