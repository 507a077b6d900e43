"""Demonstrations as training reads them: by episode and time, with chunks of the future.

    data = DemonstrationDataset(Path("runs/demos"))
    episode = data[17]
    picture = episode.image("wrist", 2.5)
    chunk = episode.chunk(2.5, horizon=16, time_step=0.1)

Times are seconds of the episode's own clock. Pictures are decoded when they are asked for; states
and commands of an episode are read once, together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts import bundle
from contracts import episode as layout
from contracts.calibration import Calibration
from contracts.episode import EpisodeError, EpisodeHeader, Outcome, stamps_of
from contracts.geometry import Vector
from contracts.observation import CameraFrame, Observation, RobotState
from teleop import jpeg
from teleop.episode_file import EpisodeFile, Pictures

OPEN_FILES: Final = 256
"""Episodes that stay mapped into memory; each takes a file descriptor of the usual 1024."""
TOLERANCE: Final = 1e-6
"""Stamps [s] this close are the same moment."""
QUANTILES: Final = (0.01, 0.99)


@dataclass(frozen=True)
class Chunk:
    """What was commanded after a moment, by absolute waypoints of equal time steps.

    poses (horizon, 7) in the base frame and gripper (horizon,) 0..1; waypoint i is due (i + 1) time
    steps later. padded (horizon,): past the episode's end, where the last command is repeated.
    """

    poses: Vector
    gripper: Vector
    padded: NDArray[np.bool_]


@dataclass(frozen=True)
class Statistics:
    """Of every value of one kind in the data, (dimension,) each; quantiles as QUANTILES."""

    count: int
    mean: Vector
    std: Vector
    low: Vector
    high: Vector
    q01: Vector
    q99: Vector

    @classmethod
    def of(cls, values: Vector) -> Statistics:
        """Statistics of (samples, dimension), of all samples together.

        Quantiles of parts cannot be averaged to those of the whole, so nothing is done by parts.
        """
        q01, q99 = np.quantile(values, QUANTILES, axis=0)
        return cls(
            len(values),
            values.mean(axis=0),
            values.std(axis=0),
            values.min(axis=0),
            values.max(axis=0),
            q01,
            q99,
        )


class Episode:
    """One demonstration."""

    def __init__(self, file: EpisodeFile) -> None:
        self._file = file
        self._pictures: dict[str, Pictures] = {}

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def header(self) -> EpisodeHeader:
        return self._file.header

    @property
    def outcome(self) -> Outcome:
        return self._file.outcome

    @property
    def calibration(self) -> Calibration | None:
        return self._file.calibration

    @property
    def cameras(self) -> tuple[str, ...]:
        return self.header.cameras

    @cached_property
    def states(self) -> NDArray[np.void]:
        """Measured states, rows of ROBOT_STATE's dtype (pose, joint_positions, ...)."""
        return self._rows(layout.ROBOT_STATE)

    @cached_property
    def state_times(self) -> Vector:
        return stamps_of(self.states)

    @cached_property
    def commands(self) -> NDArray[np.void]:
        """What the device asked for, rows of COMMAND's dtype (pose, gripper, engaged)."""
        return self._rows(layout.COMMAND)

    @cached_property
    def command_times(self) -> Vector:
        return stamps_of(self.commands)

    @cached_property
    def filtered(self) -> NDArray[np.void]:
        """What the safety filter passed on, rows of FILTERED_COMMAND's dtype."""
        return self._file.rows(layout.FILTERED_COMMAND)

    @cached_property
    def filtered_times(self) -> Vector:
        return stamps_of(self.filtered)

    @cached_property
    def scene(self) -> NDArray[np.void]:
        """Where object and target stood, rows of SCENE's dtype; empty but in simulation."""
        return self._file.rows(layout.SCENE)

    @cached_property
    def events(self) -> list[tuple[float, str, str]]:
        """Stamp [s], name and text of what happened besides."""
        return self._file.events()

    def log_times(self, topic: str) -> Vector:
        """When each message of a topic was recorded, (N,) [s]."""
        return self._file.log_times(topic)

    def pictures(self, camera: str) -> Pictures:
        """All pictures of a camera, still encoded.

        Raises:
            EpisodeError: no such camera, or it has no picture.
        """
        if camera not in self._pictures:
            found = self._file.pictures(camera)
            if not len(found):
                known = ", ".join(self.cameras)
                raise EpisodeError(f"{self.path}: no picture of {camera!r}; its cameras: {known}")
            self._pictures[camera] = found
        return self._pictures[camera]

    def camera_stamps(self, camera: str) -> Vector:
        """Stamps (N,) [s] of a camera's pictures; none where the camera was lost."""
        return self._file.pictures(camera).stamps

    def image(self, camera: str, time: float) -> NDArray[np.uint8]:
        """The latest picture (height, width, 3) at `time`, or the first one before that.

        Raises:
            EpisodeError: no such camera, or the picture is damaged.
        """
        return jpeg.decode(self.pictures(camera).jpeg(self.picture_index(camera, time)))

    def picture_index(self, camera: str, time: float) -> int:
        """Index of the latest picture at `time`."""
        return int(_last_at(self.pictures(camera).stamps, np.array(time)))

    def observation(self, time: float) -> Observation:
        """What a policy would have seen at `time`.

        Raises:
            EpisodeError: the source of these data knows no joint positions.
        """
        row = self.states[_last_at(self.state_times, np.array(time))]
        if np.isnan(row["joint_positions"]).any():
            raise EpisodeError(f"{self.path}: its source knows no joints; read `states` instead")
        stamp = float(stamps_of(row))
        state = RobotState(
            row["pose"],
            row["joint_positions"],
            row["joint_velocities"],
            float(np.clip(row["gripper_opening"], 0.0, 1.0)),
            stamp,
        )
        frames = {}
        for camera in self.cameras:
            index = self.picture_index(camera, time)
            pictures = self.pictures(camera)
            image = jpeg.decode(pictures.jpeg(index))
            frames[camera] = CameraFrame(image, float(pictures.stamps[index]))
        return Observation(self.header.instruction, frames, state, max(time, stamp))

    def times(self, time_step: float) -> Vector:
        """Moments (N,) [s] at which a sample may begin: from the first picture to the last command.

        Every moment has something commanded after it.
        """
        first = max(float(self.pictures(camera).stamps[0]) for camera in self.cameras)
        first = max(first, float(self.state_times[0]))
        last = float(self.command_times[-1]) - TOLERANCE
        count = max(int(np.ceil((last - first) / time_step)), 0)
        return np.asarray(first + time_step * np.arange(count), np.float64)

    def states_at(self, times: ArrayLike) -> NDArray[np.void]:
        """The latest states at `times` (N,)."""
        return self.states[_last_at(self.state_times, np.asarray(times))]

    def chunk(self, time: float, horizon: int, time_step: float) -> Chunk:
        """What was commanded after `time`.

        Raises:
            ValueError: horizon below 1 or a time step that is not positive.
        """
        chunks = self.chunks(np.array([time]), horizon, time_step)
        return Chunk(chunks.poses[0], chunks.gripper[0], chunks.padded[0])

    def chunks(self, times: ArrayLike, horizon: int, time_step: float) -> Chunk:
        """`chunk` for many moments (N,) at once: every field has N as its first axis."""
        if horizon < 1 or time_step <= 0.0:
            raise ValueError(f"no chunk of {horizon} steps of {time_step} s")
        due = np.asarray(times)[..., None] + time_step * np.arange(1, horizon + 1)
        rows = self.commands[_last_at(self.command_times, due)]
        padded = due > self.command_times[-1] + TOLERANCE
        return Chunk(rows["pose"], rows["gripper"], padded)

    def actions(self, times: ArrayLike, horizon: int, time_step: float) -> Vector:
        """Chunks as the network predicts them, (N, horizon, 7): relative to the measured pose."""
        chunks, states = self.chunks(times, horizon, time_step), self.states_at(times)
        return np.array(
            [
                bundle.to_relative(pose, poses, gripper)
                for pose, poses, gripper in zip(
                    states["pose"], chunks.poses, chunks.gripper, strict=True
                )
            ]
        ).reshape(-1, horizon, bundle.ACTION_DIMENSION)

    def state_vectors(self, times: ArrayLike) -> Vector:
        """States at `times` as the network reads them, (N, bundle.STATE_DIMENSION)."""
        rows = self.states_at(times)
        return np.array(
            [
                bundle.state_vector(pose, float(opening))
                for pose, opening in zip(rows["pose"], rows["gripper_opening"], strict=True)
            ]
        ).reshape(-1, bundle.STATE_DIMENSION)

    def _rows(self, message: layout.MessageType) -> NDArray[np.void]:
        rows = self._file.rows(message)
        if not len(rows):
            raise EpisodeError(f"{self.path}: nothing was recorded on {message.topic}")
        return rows


class DemonstrationDataset:
    """The committed episodes of a data set; none that was set aside or cut short."""

    def __init__(
        self,
        directory: Path,
        labels: Sequence[str] = ("success",),
        tasks: Sequence[str] | None = None,
        *,
        skip_damaged: bool = False,
    ) -> None:
        """Read which episodes there are, those with one of `labels` and `tasks` (all if None).

        With `skip_damaged`, `damaged` says what is wrong with those that cannot be opened.

        Raises:
            EpisodeError: no data set, or an episode is damaged.
        """
        if not (directory / layout.EPISODES).is_dir():
            raise EpisodeError(f"{directory}: no data set (no folder {layout.EPISODES})")
        self.directory = directory
        self._open: OrderedDict[int, Episode] = OrderedDict()
        self.paths: list[Path] = []
        self.headers: list[EpisodeHeader] = []
        self.outcomes: list[Outcome] = []
        self.damaged: list[str] = []
        for path in sorted((directory / layout.EPISODES).glob(f"*{layout.SUFFIX}")):
            try:
                file = EpisodeFile(path)
            except EpisodeError as error:
                if not skip_damaged:
                    raise
                self.damaged.append(str(error))
                continue
            wanted = tasks is None or file.header.task in tasks
            if wanted and file.outcome.label in labels:
                self.paths.append(path)
                self.headers.append(file.header)
                self.outcomes.append(file.outcome)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Episode:
        """Episode by position; the last OPEN_FILES used stay open."""
        key = range(len(self.paths))[index]
        episode = self._open.get(key)
        if episode is None:
            episode = self._open[key] = Episode(EpisodeFile(self.paths[key]))
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return episode

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.clear()

    def moments(self, time_step: float) -> tuple[NDArray[np.int64], Vector]:
        """Every moment at which a sample may begin: episode (N,) and time (N,) [s]."""
        times = [episode.times(time_step) for episode in self]
        if not times:
            return np.zeros(0, np.int64), np.zeros(0)
        lengths = [len(t) for t in times]
        return np.repeat(np.arange(len(times)), lengths), np.concatenate(times)

    def statistics(self, horizon: int, time_step: float) -> dict[str, Statistics]:
        """Of `state` (bundle.STATE_DIMENSION) and `action` (7) over all moments; no padding counts.

        Raises:
            EpisodeError: the data set is empty.
        """
        if not len(self):
            raise EpisodeError(f"{self.directory}: no episode to take statistics of")
        states, actions = [], []
        for episode in self:
            times = episode.times(time_step)
            states.append(episode.state_vectors(times))
            padded = episode.chunks(times, horizon, time_step).padded
            actions.append(episode.actions(times, horizon, time_step)[~padded])
        return {
            "state": Statistics.of(np.concatenate(states)),
            "action": Statistics.of(np.concatenate(actions)),
        }


def _last_at(stamps: Vector, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the latest of `stamps` at each of `times`; the first one before all of them."""
    return np.maximum(np.searchsorted(stamps, times + TOLERANCE, side="right") - 1, 0)
