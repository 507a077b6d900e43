"""Writes one episode: to a temporary name, to disk, and only then to its own name.

Nothing is ever overwritten. Each full chunk is handed to the operating system at once, so a killed
process loses the last fraction of a second at most; `teleop.repair` recovers the rest.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Self

from mcap.writer import CompressionType, Writer
from numpy.typing import ArrayLike

from contracts import episode as layout
from contracts.calibration import Calibration
from contracts.episode import EpisodeHeader, MessageType, Outcome, nanoseconds
from contracts.observation import RobotState

CHUNK_BYTES: Final = 64 * 1024
"""Bytes that a killed process may lose."""
SOFTWARE: Final = (
    "roboalign-stack",
    "mcap",
    "mujoco",
    "numpy",
    "pillow",
    "franky-control",
    "rclpy",
)


class RecordingFailed(Exception):
    """The disk did not take the recording; the text says why and what to do."""


class EpisodeWriter:
    """The open file of the episode under way; ends with `commit` or `abandon`."""

    def __init__(
        self,
        dataset: Path,
        header: EpisodeHeader,
        calibration: bytes | None = None,
        part: Path | None = None,
    ) -> None:
        """Begin `episodes/NUMBER.mcap.part` in `dataset`, or `part` on the same disk.

        `calibration` is the attachment's JSON document.

        Raises:
            RecordingFailed: the number is taken, or the disk refuses.
        """
        self.header = header
        name = layout.episode_name(header.number)
        self.dataset = dataset
        self.name = name
        self.part = part or dataset / layout.EPISODES / (
            name.removesuffix(layout.SUFFIX) + layout.PART_SUFFIX
        )
        self._sequence: Counter[int] = Counter()
        self._ended = False
        try:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.part.open("xb")
        except FileExistsError as error:
            text = "an unfinished recording is in the way; run: python -m teleop.repair"
            raise RecordingFailed(f"{self.part}: {text} {dataset}") from error
        except OSError as error:
            raise self._failed(error) from error
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
        try:
            self._begin(calibration)
        except OSError as error:
            self.abandon()
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def state(self, state: RobotState, received: float | None = None) -> None:
        """Measured state; `received` [s] is when it arrived here, its own stamp if None."""
        self.state_row(
            state.stamp,
            state.pose,
            state.joint_positions,
            state.joint_velocities,
            state.gripper_opening,
            received,
        )

    def state_row(
        self,
        stamp: float,
        pose: ArrayLike,
        joint_positions: ArrayLike,
        joint_velocities: ArrayLike,
        gripper_opening: float,
        received: float | None = None,
    ) -> None:
        """`state` for a source whose joints are not known: these are then not numbers."""
        self._fixed(
            layout.ROBOT_STATE,
            stamp,
            received,
            pose=pose,
            joint_positions=joint_positions,
            joint_velocities=joint_velocities,
            gripper_opening=gripper_opening,
        )

    def command(
        self,
        stamp: float,
        pose: ArrayLike,
        gripper: float,
        engaged: bool = True,
        received: float | None = None,
    ) -> None:
        """What the device asked for: pose (7,) in the base frame, opening 0..1, deadman held."""
        self._fixed(layout.COMMAND, stamp, received, pose=pose, gripper=gripper, engaged=engaged)

    def filtered(
        self,
        stamp: float,
        pose: ArrayLike,
        joint_positions: ArrayLike,
        gripper: float,
        limited: bool,
        received: float | None = None,
    ) -> None:
        """What the safety filter passed on: pose (7,), joint setpoint (7,) [rad], opening 0..1."""
        self._fixed(
            layout.FILTERED_COMMAND,
            stamp,
            received,
            pose=pose,
            joint_positions=joint_positions,
            gripper=gripper,
            limited=limited,
        )

    def scene(self, stamp: float, object_pose: ArrayLike, target_pose: ArrayLike) -> None:
        """Simulation only: where object and target stand, poses (7,) in the base frame."""
        self._fixed(layout.SCENE, stamp, None, object_pose=object_pose, target_pose=target_pose)

    def picture(
        self, camera: str, stamp: float, jpeg: bytes, received: float | None = None
    ) -> None:
        """One picture of a camera that the header names."""
        channel = self._channels[layout.camera_topic(camera)]
        data = layout.encode_image(stamp, f"{camera}_optical_frame", jpeg)
        self._add(channel, data, stamp, received)

    def event(self, stamp: float, name: str, text: str = "") -> None:
        """Something that a later reader should know, such as a lost camera."""
        channel = self._channels[layout.EVENT_TOPIC]
        self._add(channel, layout.encode_event(stamp, name, text), stamp, None)

    def raw(self, topic: str, data: bytes, log_time: int, publish_time: int) -> None:
        """A message as another file holds it; unknown topics are left out. Times in nanoseconds."""
        channel = self._channels.get(topic)
        if channel is not None:
            self._write(channel, data, log_time, publish_time)

    def commit(self, outcome: Outcome) -> Path:
        """Finish the file, wait until it is on disk, and give it its name.

        Raises:
            RecordingFailed: the disk is full, or that name is taken; the part file stays.
        """
        target = self.dataset / folder_of(outcome) / self.name
        try:
            self._writer.add_metadata(layout.OUTCOME_RECORD, {layout.JSON_KEY: outcome.to_json()})
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._ended = True
            target.parent.mkdir(parents=True, exist_ok=True)
            publish(self.part, target)
        except OSError as error:
            self.abandon()
            raise self._failed(error) from error
        return target

    def abandon(self) -> None:
        """Close the file and leave it as it is, for the repair tool; nothing after `commit`."""
        if self._ended:
            return
        self._ended = True
        # Closing would try to write the buffer's rest; a full disk refuses it once more.
        self._file.detach().close()

    def _begin(self, calibration: bytes | None) -> None:
        self._writer.start(profile=layout.PROFILE, library="roboalign")
        self._writer.add_metadata(layout.HEADER_RECORD, {layout.JSON_KEY: self.header.to_json()})
        if calibration is not None:
            self._writer.add_attachment(
                0, 0, layout.CALIBRATION_ATTACHMENT, "application/json", calibration
            )
        self._channels = {
            message.topic: self._channel(message.topic, message.name, message.definition)
            for message in layout.FIXED_MESSAGES
        }
        self._channels[layout.EVENT_TOPIC] = self._channel(
            layout.EVENT_TOPIC, layout.EVENT_NAME, layout.EVENT_DEFINITION
        )
        pictures = self._writer.register_schema(
            layout.IMAGE_NAME, "ros2msg", layout.IMAGE_DEFINITION.encode()
        )
        for camera in self.header.cameras:
            topic = layout.camera_topic(camera)
            self._channels[topic] = self._writer.register_channel(topic, "cdr", pictures)
        self._file.flush()

    def _channel(self, topic: str, name: str, definition: str) -> int:
        schema = self._writer.register_schema(name, "ros2msg", definition.encode())
        return self._writer.register_channel(topic, "cdr", schema)

    def _fixed(
        self, message: MessageType, stamp: float, received: float | None, **values: ArrayLike
    ) -> None:
        data = message.encode(stamp, **values)
        self._add(self._channels[message.topic], data, stamp, received)

    def _add(self, channel: int, data: bytes, stamp: float, received: float | None) -> None:
        published = nanoseconds(stamp)
        logged = published if received is None else nanoseconds(received)
        self._write(channel, data, logged, published)

    def _write(self, channel: int, data: bytes, log_time: int, publish_time: int) -> None:
        self._sequence[channel] += 1
        try:
            self._writer.add_message(channel, log_time, data, publish_time, self._sequence[channel])
            self._file.flush()
        except OSError as error:
            self.abandon()
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RecordingFailed:
        text = f"{self.part}: {error.strerror or error}"
        advice = "make room on the disk, then run: python -m teleop.repair"
        return RecordingFailed(f"{text}; committed episodes are safe; {advice}")


def folder_of(outcome: Outcome) -> str:
    """Folder of a data set in which an episode with this outcome belongs."""
    folders = {"discard": layout.SET_ASIDE, "incomplete": layout.RECOVERED}
    return folders.get(outcome.label, layout.EPISODES)


def publish(part: Path, target: Path) -> None:
    """Give a finished file its name, on disk when this returns.

    Raises:
        FileExistsError: the name is taken; nothing is overwritten.
    """
    os.link(part, target)  # unlike rename, refuses a name that is there
    sync_folder(target.parent)
    part.unlink()
    sync_folder(part.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def calibration_document(calibration: Calibration) -> bytes:
    """The attachment's bytes."""
    return json.dumps(calibration.to_document(), indent=1).encode()


def software_versions() -> dict[str, str]:
    """Versions of what records, by package; those not installed are left out."""
    found = {}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now_utc() -> str:
    """The time now, as the layout writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
