"""Episodes written through the recorder from known numbers, without a simulation."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from contracts import episode as layout
from contracts import geometry
from contracts.calibration import Calibration, CameraCalibration, Latencies
from contracts.episode import EpisodeHeader, Outcome
from contracts.robot import FR3
from contracts.task import OBJECTS, TASKS, get_task
from teleop import jpeg
from teleop.recorder import EpisodeWriter, calibration_document

STATE_PERIOD = 0.02
PICTURES_EVERY = 5
DOWN = np.array([1.0, 0.0, 0.0, 0.0])
SIZE = 48


def header(number: int = 0, **changes: object) -> EpisodeHeader:
    task, obj = list(TASKS)[number % len(TASKS)], OBJECTS[number % len(OBJECTS)]
    made = EpisodeHeader(
        number=number,
        task=task,
        object=obj,
        instruction=get_task(task).instruction(obj),
        slot=number // len(TASKS),
        attempt=0,
        backend="made",
        device="ruler",
        operator="anna",
        robot="none",
        cameras=("front", "wrist"),
        state_rate=1 / STATE_PERIOD,
        camera_rate=1 / (STATE_PERIOD * PICTURES_EVERY),
        started_at="2026-01-02T03:04:05.000+00:00",
        start={"objects": {obj: (0.45, 0.1, 0.02, 0.0)}, "containers": {}},
        software={"numpy": "2"},
    )
    return replace(made, **changes)


def outcome(label: str = "success") -> Outcome:
    return Outcome(label, "operator", "", "2026-01-02T03:04:15.000+00:00")


def calibration() -> Calibration:
    cameras = {
        name: CameraCalibration(
            name, "1", SIZE, SIZE, 50.0, 50.0, 24.0, 24.0, (0.0,) * 5, frame,
            np.array([0.5, 0.0, 0.7, *DOWN]), 0.2,
        )
        for name, frame in (("front", "base"), ("wrist", "hand"))
    }  # fmt: skip
    return Calibration("none", date(2026, 1, 1), cameras, Latencies(0.01, 0.002, 0.01, 0.05))


def pose_at(time: float) -> np.ndarray:
    """A line at constant height with a slow turn, so that every number tells its time."""
    turn = geometry.from_rotation_vector(np.array([0.0, 0.0, 0.05 * time]))
    return np.concatenate([[0.35 + 0.05 * time, 0.04 * time, 0.2], geometry.multiply(turn, DOWN)])


def gripper_at(time: float) -> float:
    return float(time < 1.0)


def image_at(camera: str, time: float) -> np.ndarray:
    """Soft stripes that go 10 pixels a second to the right; the cameras differ in colour."""
    wave = np.sin(2 * np.pi * (np.arange(SIZE) - 10 * time) / 16)
    stripes = np.tile((120 + 90 * wave)[None, :, None], (SIZE, 1, 3))
    stripes[..., 2 if camera == "front" else 0] *= 0.3
    return stripes.astype(np.uint8)


def write_states(writer: EpisodeWriter, time: float) -> None:
    velocity = np.full(7, 0.1)
    writer.state_row(time, pose_at(time), FR3.home_joints, velocity, gripper_at(time))
    ahead = pose_at(time + 0.1)
    writer.command(time, ahead, gripper_at(time))
    writer.filtered(time, ahead, FR3.home_joints, gripper_at(time), limited=False)


def write_moments(writer: EpisodeWriter, seconds: float) -> None:
    for i in range(round(seconds / STATE_PERIOD) + 1):
        time = i * STATE_PERIOD
        write_states(writer, time)
        if i % PICTURES_EVERY == 0:
            for camera in writer.header.cameras:
                writer.picture(camera, time, jpeg.encode(image_at(camera, time)))


def write_episode(dataset: Path, number: int, label: str = "success", seconds: float = 2.0) -> Path:
    document = calibration_document(calibration())
    with EpisodeWriter(dataset, header(number), document) as writer:
        write_moments(writer, seconds)
        writer.event(1.0, "phase", "move")
        return writer.commit(outcome(label))


def make_dataset(directory: Path, episodes: int, seconds: float = 2.0) -> Path:
    directory.mkdir(parents=True)
    settings = {"schema_version": layout.SCHEMA_VERSION, "seed": 1}
    (directory / layout.DATASET_FILE).write_text(json.dumps(settings))
    for number in range(episodes):
        write_episode(directory, number, seconds=seconds)
    return directory
