"""Episode: the layout of a recorded demonstration, and of a data set of them.

One MCAP file an episode (mcap.dev/spec), profile `ros2`, chunks uncompressed so that every message
can be read where it lies. Messages are CDR, little endian, with `ros2msg` schemas: Foxglove and the
ROS 2 tools read them without a plug-in.

    metadata `episode`      what is known when recording starts (`EpisodeHeader` as JSON)
    attachment `calibration.json`   contracts.calibration's document; absent if there is none
    /camera/NAME/compressed sensor_msgs/CompressedImage, JPEG
    /robot_state            ROBOT_STATE: measured, at the controller's rate
    /command                COMMAND: what the device asked for
    /command_filtered       FILTERED_COMMAND: what the safety filter made of it
    /scene                  SCENE: where object and target stood; simulation only
    /event                  EVENT: what happened besides (a phase, a lost camera, a pause)
    metadata `outcome`      how it ended (`Outcome` as JSON); the last record before the summary

A data set is a directory: `episodes/` holds what counts, `set_aside/` what was discarded or undone,
`recovered/` what a crash left, and `dataset.json` the plan's settings. A file in these folders is
whole: it is written as `episodes/NUMBER.mcap.part` and gets its name when it is on disk.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

SCHEMA_VERSION: Final = 1
PROFILE: Final = "ros2"
HEADER_RECORD: Final = "episode"
OUTCOME_RECORD: Final = "outcome"
JSON_KEY: Final = "json"
"""The one key of both metadata records."""
CALIBRATION_ATTACHMENT: Final = "calibration.json"

EPISODES: Final = "episodes"
SET_ASIDE: Final = "set_aside"
RECOVERED: Final = "recovered"
DATASET_FILE: Final = "dataset.json"
SUFFIX: Final = ".mcap"
PART_SUFFIX: Final = ".mcap.part"

LABELS: Final = ("success", "failure", "discard", "incomplete")
"""`incomplete` is no operator's word: the recording ended before it was labelled."""
NANOSECONDS: Final = 1_000_000_000


class EpisodeError(ValueError):
    """An episode that cannot be used; the text says which file or field and what to do."""


@dataclass(frozen=True)
class MessageType:
    """A message of fixed size: its name, `ros2msg` definition and CDR bytes as a packed dtype."""

    name: str
    topic: str
    definition: str
    dtype: np.dtype[np.void]

    def encode(self, stamp: float, **values: ArrayLike) -> bytes:
        """CDR bytes of one message; `values` are the dtype's own fields."""
        row = np.zeros((), self.dtype)
        row["encapsulation"] = (0, 1, 0, 0)
        row["sec"], row["nanosec"] = split_stamp(stamp)
        for name, value in values.items():
            row[name] = value
        return row.tobytes()

    def decode(self, data: NDArray[np.uint8]) -> NDArray[np.void]:
        """Rows (N,) of messages (N, itemsize) of bytes; no copy where they lie together."""
        return np.ascontiguousarray(data).view(self.dtype)[..., 0]


_HEAD: Final = [("encapsulation", "u1", (4,)), ("sec", "<i4"), ("nanosec", "<u4")]


def _message(name: str, topic: str, lines: str, columns: list[Any]) -> MessageType:
    definition = f"builtin_interfaces/Time stamp\n{lines}{_TIME_DEFINITION}"
    return MessageType(f"roboalign/msg/{name}", topic, definition, np.dtype(_HEAD + columns))


_SEPARATOR: Final = "\n" + "=" * 80 + "\n"
_TIME_DEFINITION: Final = f"{_SEPARATOR}MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"

ROBOT_STATE: Final = _message(
    "RobotState",
    "/robot_state",
    "float64[7] pose  # end effector in the base frame: metres, quaternion x y z w\n"
    "float64[7] joint_positions  # rad; not a number where the source has none\n"
    "float64[7] joint_velocities  # rad/s\n"
    "float64 gripper_opening  # 0 closed .. 1 open\n",
    [
        ("pose", "<f8", (7,)),
        ("joint_positions", "<f8", (7,)),
        ("joint_velocities", "<f8", (7,)),
        ("gripper_opening", "<f8"),
    ],
)
COMMAND: Final = _message(
    "Command",
    "/command",
    "float64[7] pose  # wanted end effector in the base frame\n"
    "float64 gripper  # wanted opening, 0 closed .. 1 open\n"
    "bool engaged  # the deadman is held\n",
    [("pose", "<f8", (7,)), ("gripper", "<f8"), ("engaged", "?")],
)
FILTERED_COMMAND: Final = _message(
    "FilteredCommand",
    "/command_filtered",
    "float64[7] pose  # commanded end effector after the safety filter\n"
    "float64[7] joint_positions  # joint setpoint, rad\n"
    "float64 gripper\n"
    "bool limited  # the filter changed what was asked for\n",
    [
        ("pose", "<f8", (7,)),
        ("joint_positions", "<f8", (7,)),
        ("gripper", "<f8"),
        ("limited", "?"),
    ],
)
SCENE: Final = _message(
    "Scene",
    "/scene",
    "float64[7] object_pose  # in the base frame\nfloat64[7] target_pose\n",
    [("object_pose", "<f8", (7,)), ("target_pose", "<f8", (7,))],
)
FIXED_MESSAGES: Final = (ROBOT_STATE, COMMAND, FILTERED_COMMAND, SCENE)

EVENT_TOPIC: Final = "/event"
EVENT_NAME: Final = "roboalign/msg/Event"
EVENT_DEFINITION: Final = (
    f"builtin_interfaces/Time stamp\nstring name\nstring text\n{_TIME_DEFINITION}"
)
IMAGE_NAME: Final = "sensor_msgs/msg/CompressedImage"
IMAGE_DEFINITION: Final = (
    "std_msgs/Header header\nstring format\nuint8[] data\n"
    f"{_SEPARATOR}MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
    f"{_TIME_DEFINITION}"
)


def camera_topic(camera: str) -> str:
    """Topic of a camera's pictures."""
    return f"/camera/{camera}/compressed"


def camera_of_topic(topic: str) -> str | None:
    """Inverse of `camera_topic`; None for another topic."""
    parts = topic.split("/")
    return parts[2] if len(parts) == 4 and parts[1::2] == ["camera", "compressed"] else None


def split_stamp(stamp: float) -> tuple[int, int]:
    """Seconds and nanoseconds of a time in seconds."""
    return divmod(nanoseconds(stamp), NANOSECONDS)


def nanoseconds(stamp: float) -> int:
    """A time in seconds as whole nanoseconds."""
    return round(stamp * NANOSECONDS)


def stamps_of(rows: NDArray[np.void]) -> NDArray[np.float64]:
    """Stamps (N,) [s] of decoded rows."""
    return np.asarray(rows["sec"] + rows["nanosec"] * 1e-9, dtype=np.float64)


def _string(body: bytearray, text: str) -> None:
    """Append a CDR string; its length counts the closing zero and is aligned to 4."""
    encoded = text.encode() + b"\0"
    body += b"\0" * (-len(body) % 4) + struct.pack("<I", len(encoded)) + encoded


def _take_string(data: bytes | memoryview, at: int) -> tuple[str, int]:
    """String at `at`, counted from the body's start (4 bytes into the message), and its end."""
    at += -at % 4
    (length,) = struct.unpack_from("<I", data, 4 + at)
    start = 4 + at + 4
    if length < 1 or start + length > len(data):
        raise EpisodeError(f"a string of {length} bytes in a message of {len(data)}")
    return bytes(data[start : start + length - 1]).decode(), at + 4 + length


def encode_image(stamp: float, frame: str, jpeg: bytes) -> bytes:
    """CompressedImage in CDR."""
    body = bytearray(struct.pack("<iI", *split_stamp(stamp)))
    _string(body, frame)
    _string(body, "jpeg")
    body += b"\0" * (-len(body) % 4) + struct.pack("<I", len(jpeg))
    return b"\0\1\0\0" + bytes(body) + jpeg


def decode_image(data: bytes | memoryview) -> tuple[float, memoryview]:
    """Stamp [s] and JPEG bytes of a CompressedImage; the bytes are a view of `data`.

    Raises:
        EpisodeError: not such a message, or not JPEG.
    """
    try:
        sec, nanosec = struct.unpack_from("<iI", data, 4)
        _, at = _take_string(data, 8)
        kind, at = _take_string(data, at)
        at += -at % 4
        (length,) = struct.unpack_from("<I", data, 4 + at)
    except (struct.error, UnicodeDecodeError) as error:
        raise EpisodeError(f"not a CompressedImage: {error}") from error
    if "jpeg" not in kind and "jpg" not in kind:
        raise EpisodeError(f"a picture is {kind!r}, expected jpeg")
    start = 8 + at
    if start + length > len(data):
        raise EpisodeError(f"a picture of {length} bytes in a message of {len(data)}")
    return sec + nanosec * 1e-9, memoryview(data)[start : start + length]


def encode_event(stamp: float, name: str, text: str) -> bytes:
    """Event in CDR."""
    body = bytearray(struct.pack("<iI", *split_stamp(stamp)))
    _string(body, name)
    _string(body, text)
    return b"\0\1\0\0" + bytes(body)


def decode_event(data: bytes | memoryview) -> tuple[float, str, str]:
    """Stamp [s], name and text of an event.

    Raises:
        EpisodeError: not such a message.
    """
    try:
        sec, nanosec = struct.unpack_from("<iI", data, 4)
        name, at = _take_string(data, 8)
        text, _ = _take_string(data, at)
    except (struct.error, UnicodeDecodeError) as error:
        raise EpisodeError(f"not an event: {error}") from error
    return sec + nanosec * 1e-9, name, text


@dataclass(frozen=True)
class EpisodeHeader:
    """What is known when recording starts.

    number: unique in the data set, never used again. slot and attempt: place in the collection
    plan. start: where containers and objects were to stand, by name as (x, y, z, yaw) [m, rad].
    state_rate and camera_rate [Hz] are what was asked for. started_at: UTC, ISO 8601. software:
    versions by package.
    """

    number: int
    task: str
    object: str
    instruction: str
    slot: int
    attempt: int
    backend: str
    device: str
    operator: str
    robot: str
    cameras: tuple[str, ...]
    state_rate: float
    camera_rate: float
    started_at: str
    start: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise EpisodeError(
                f"episode schema version {self.schema_version}, "
                f"this software reads {SCHEMA_VERSION}"
            )
        if self.number < 0 or self.slot < 0 or self.attempt < 0:
            raise EpisodeError("an episode's number, slot and attempt must not be negative")
        if not self.instruction.strip():
            raise EpisodeError(f"episode {self.number}: the instruction is empty")
        if not (self.state_rate > 0.0 and self.camera_rate > 0.0):
            raise EpisodeError(f"episode {self.number}: rates must be positive")
        object.__setattr__(self, "cameras", tuple(self.cameras))
        start = {
            group: {name: tuple(float(v) for v in pose) for name, pose in poses.items()}
            for group, poses in self.start.items()
        }
        object.__setattr__(self, "start", start)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EpisodeHeader:
        """Inverse of `to_json`.

        Raises:
            EpisodeError: not JSON, or a field is missing, unknown or wrong.
        """
        return cls(**_document(cls, text, "header"))


@dataclass(frozen=True)
class Outcome:
    """How an episode ended. labelled_by: `operator`, `scorer` (simulation) or a tool's name.

    note: a sentence for people, such as the stage that a failure reached.
    """

    label: str
    labelled_by: str
    note: str
    ended_at: str

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise EpisodeError(f"outcome {self.label!r} is none of {', '.join(LABELS)}")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Inverse of `to_json`.

        Raises:
            EpisodeError: not JSON, or a field is missing, unknown or wrong.
        """
        return cls(**_document(cls, text, "outcome"))


def _document(kind: type[EpisodeHeader] | type[Outcome], text: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise EpisodeError(f"the episode's {what} is not JSON: {error}") from error
    known = {entry.name for entry in fields(kind)}
    required = {
        entry.name
        for entry in fields(kind)
        if entry.name not in ("start", "software", "schema_version")
    }
    if not isinstance(document, dict) or not required <= set(document) <= known:
        odd = set(document) ^ required if isinstance(document, dict) else {"everything"}
        raise EpisodeError(f"the episode's {what}: missing or unknown: {', '.join(sorted(odd))}")
    return document


def episode_name(number: int) -> str:
    """File name of a committed episode."""
    return f"{number:06d}{SUFFIX}"
