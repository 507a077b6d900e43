"""The binary encoding between policy client and server.

msgpack with openpi's extension for arrays (a map with `__ndarray__`, `data`, `dtype`, `shape`), so
that an unmodified `openpi-client` can talk to the server. Decoding never runs code: only plain
numeric dtypes are accepted and every size is checked against the bytes that came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgpack
import numpy as np

from contracts.action import ActionChunk
from contracts.observation import CameraFrame, Observation, RobotState

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 16 * 2**20
MAX_DIMENSIONS = 8
MAX_CONTAINERS = 512
"""Maps and lists of one message: a few bytes each on the wire, but far more once decoded."""
MAX_LENGTH = 256
"""Entries of one map or list."""
MAX_TEXT_BYTES = 16 * 2**10
MAX_CAMERAS = 8
MAX_NAME_LENGTH = 64
MAX_PICTURE_SIDE = 4096
MAX_DEADLINE_S = 3600.0
_NUMERIC_DTYPE = re.compile(r"[<>=|]?(\?|[biuf][0-9]{0,2})")


class WireError(ValueError):
    """A message that is not what the protocol says; the text says what was wrong and where."""


@dataclass(frozen=True)
class ActionRequest:
    """What a client sends for one action chunk.

    options: `steps` (denoising), `seed` (noise) and `delay` (steps of `previous` that will be past
    when the answer arrives). previous: the chunk under execution, for real-time chunking.
    deadline: seconds after its arrival by which the server must have begun with it; the two
    clocks need not agree.
    """

    observation: Observation
    options: Mapping[str, Any]
    previous: ActionChunk | None = None
    deadline: float | None = None


def pack(message: Any) -> bytes:
    """Encode nested dicts, lists, numbers, text, bytes and numpy arrays."""
    return bytes(msgpack.packb(message, default=_encode))


class Encoder:
    """`pack` for one thread's many messages of about one size: it keeps its buffer."""

    def __init__(self) -> None:
        self._packer = self._new_packer()

    def encode(self, message: Any) -> memoryview:
        """The encoded message, valid until the next call."""
        try:
            self._packer.reset()
        except BufferError:  # somebody, perhaps a traceback, still holds the last message
            self._packer = self._new_packer()
        self._packer.pack(message)
        return memoryview(self._packer.getbuffer())

    @staticmethod
    def _new_packer() -> Any:
        return msgpack.Packer(default=_encode, autoreset=False)


def unpack(data: bytes | memoryview) -> Any:
    """Decode what `pack` (or openpi's client) made; nothing of the result refers to `data`.

    Raises:
        WireError: not msgpack, too large, nested too much, or an array whose dtype, shape or size
            is not valid.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are accepted")
    containers = 0

    def count(container: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > MAX_CONTAINERS:
            raise WireError(f"message with more than {MAX_CONTAINERS} maps and lists")
        return _decode(container) if type(container) is dict else container

    try:
        return msgpack.unpackb(
            data,
            object_hook=count,
            list_hook=count,
            strict_map_key=False,
            max_map_len=MAX_LENGTH,
            max_array_len=MAX_LENGTH,
            max_str_len=MAX_TEXT_BYTES,
            max_ext_len=0,
        )
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise WireError(f"not a valid msgpack message: {error}") from error


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in "biuf":
        raise WireError(f"arrays of dtype {value.dtype} cannot be sent")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            # A view: msgpack copies it once, where tobytes would have copied it before.
            b"data": np.ascontiguousarray(value).data,
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise WireError(f"values of type {type(value).__name__} cannot be sent")


def _decode(message: dict[Any, Any]) -> Any:
    if b"__ndarray__" in message:
        return _decode_array(message)
    if b"__npgeneric__" in message:
        return _decode_number(message)
    return message


def _decode_number(message: dict[Any, Any]) -> Any:
    value = message.get(b"data")
    if not isinstance(value, bool | int | float):
        raise WireError(f"number with data of type {type(value).__name__}")
    return np.asarray(value, _numeric_dtype(message.get(b"dtype")))[()]


def _decode_array(message: dict[Any, Any]) -> np.ndarray[Any, Any]:
    dtype = _numeric_dtype(message.get(b"dtype"))
    shape, data = message.get(b"shape"), message.get(b"data")
    if not isinstance(data, bytes):
        raise WireError("array without bytes")
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMENSIONS:
        raise WireError(f"array with shape {shape!r}")
    wanted = dtype.itemsize
    for n in shape:
        if not isinstance(n, int) or not 0 <= n <= MAX_MESSAGE_BYTES:
            raise WireError(f"array with shape {shape!r}")
        wanted *= n
    if wanted != len(data):
        raise WireError(
            f"array of shape {tuple(shape)} and dtype {dtype} needs {wanted} bytes, got {len(data)}"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _numeric_dtype(name: Any) -> np.dtype[Any]:
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if not isinstance(text, str):
        raise WireError(f"array with dtype {name!r}, which is not text")
    return _named_dtype(text)


@lru_cache(maxsize=64)
def _named_dtype(text: str) -> np.dtype[Any]:
    # Not all text may reach np.dtype: it evaluates some of it ("(2,3)f4") and raises SyntaxError.
    if not _NUMERIC_DTYPE.fullmatch(text):
        raise WireError(
            f"array with dtype {text!r}; only booleans, integers and floats are accepted"
        )
    try:
        return np.dtype(text)
    except TypeError as error:
        raise WireError(f"array with dtype {text!r}") from error


def observation_to_message(
    observation: Observation, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The request that asks for an action chunk; for `options` see ActionRequest."""
    state = observation.state
    return {
        "instruction": observation.instruction,
        "stamp": observation.stamp,
        "images": {name: frame.image for name, frame in observation.frames.items()},
        "image_stamps": {name: frame.stamp for name, frame in observation.frames.items()},
        "state": {
            "pose": state.pose,
            "joint_positions": state.joint_positions,
            "joint_velocities": state.joint_velocities,
            "gripper_opening": state.gripper_opening,
            "stamp": state.stamp,
        },
        "options": dict(options or {}),
    }


def request_to_message(request: ActionRequest) -> dict[str, Any]:
    """The whole request; what it does not use is not sent."""
    message = observation_to_message(request.observation, request.options)
    if request.previous is not None:
        message["previous"] = chunk_to_message(request.previous)
    if request.deadline is not None:
        message["deadline"] = request.deadline
    return message


def request_from_message(message: Any) -> ActionRequest:
    """Inverse of `request_to_message`; `previous` may be an answer, just as it came.

    Raises:
        WireError: a field is missing or wrong; the message names it.
    """
    observation, options = observation_from_message(message)
    previous, deadline = message.get("previous"), message.get("deadline")
    if previous is not None:
        try:
            previous = chunk_from_message(previous)
        except WireError as error:
            raise WireError(f"'previous': {error}") from error
    if deadline is not None:
        number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
        if not number or not 0.0 < deadline <= MAX_DEADLINE_S:
            raise WireError(f"'deadline' must be in 0..{MAX_DEADLINE_S:g} s, got {deadline!r}")
    return ActionRequest(observation, options, previous, deadline)


def observation_from_message(message: Any) -> tuple[Observation, dict[str, Any]]:
    """Observation and options of a request.

    `instruction`, `images` and `state` (`pose`, `gripper_opening`) are required; stamps default to
    0 and joints to zeros, so that a minimal openpi client can ask.

    Raises:
        WireError: a field is missing or wrong; the message names it.
    """
    if not isinstance(message, dict):
        raise WireError(f"request must be a map, got {type(message).__name__}")
    images, state = _field(message, "images", dict), _field(message, "state", dict)
    stamps, options = message.get("image_stamps", {}), message.get("options", {})
    if not isinstance(stamps, dict) or not isinstance(options, dict):
        raise WireError("'image_stamps' and 'options' must be maps")
    _check_images(images)
    try:
        stamp = float(message.get("stamp", 0.0))
        frames = {
            str(name): CameraFrame(np.asarray(image), float(stamps.get(name, stamp)))
            for name, image in images.items()
        }
        robot_state = RobotState(
            pose=np.asarray(_field(state, "pose")),
            joint_positions=np.asarray(state.get("joint_positions", np.zeros(7))),
            joint_velocities=np.asarray(state.get("joint_velocities", np.zeros(7))),
            gripper_opening=float(_field(state, "gripper_opening")),
            stamp=float(state.get("stamp", stamp)),
        )
        observation = Observation(_field(message, "instruction", str), frames, robot_state, stamp)
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(str(error)) from error
    return observation, options


def _check_images(images: dict[Any, Any]) -> None:
    if len(images) > MAX_CAMERAS:
        raise WireError(f"{len(images)} images, at most {MAX_CAMERAS} are accepted")
    for name, image in images.items():
        if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH:
            raise WireError(f"image names must be text of at most {MAX_NAME_LENGTH} characters")
        if not isinstance(image, np.ndarray):
            raise WireError(f"image {name!r} must be an array, got {type(image).__name__}")
        if max(image.shape, default=0) > MAX_PICTURE_SIDE:
            raise WireError(f"image {name!r} is {image.shape}, at most {MAX_PICTURE_SIDE} a side")


def chunk_to_message(chunk: ActionChunk) -> dict[str, Any]:
    """The answer; `actions` (horizon, 8) is pose then opening: openpi clients expect one array."""
    return {
        "chunk_id": chunk.chunk_id,
        "observation_stamp": chunk.observation_stamp,
        "time_step": chunk.time_step,
        "actions": np.concatenate([chunk.poses, chunk.gripper[:, None]], axis=1),
    }


def chunk_from_message(message: Any) -> ActionChunk:
    """ActionChunk of an answer.

    Raises:
        WireError: a field is missing or wrong.
    """
    if not isinstance(message, dict):
        raise WireError(f"answer must be a map, got {type(message).__name__}")
    actions = _field(message, "actions", np.ndarray)
    if actions.ndim != 2 or actions.shape[1] != 8:
        raise WireError(f"'actions' must be (horizon, 8), got {actions.shape}")
    try:
        return ActionChunk(
            chunk_id=_field(message, "chunk_id", str),
            observation_stamp=float(_field(message, "observation_stamp")),
            time_step=float(_field(message, "time_step")),
            poses=actions[:, :7],
            gripper=actions[:, 7],
        )
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(str(error)) from error


def _field(message: Mapping[Any, Any], name: str, kind: type = object) -> Any:
    if name not in message:
        raise WireError(f"the field {name!r} is missing")
    value = message[name]
    if not isinstance(value, kind):
        raise WireError(f"the field {name!r} must be {kind.__name__}, got {type(value).__name__}")
    return value
