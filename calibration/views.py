"""Views: pictures of the board and where the arm stood; taken, checked, kept and read again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from calibration import files, poses
from calibration.board import Board
from calibration.detection import CaptureError, Detection, detect
from calibration.pinhole import Intrinsics
from calibration.refinement import Observations
from calibration.source import Shot, ViewSource
from contracts import geometry
from contracts.geometry import Vector

VIEWS_FILE: Final = "views.json"
LARGEST_CLOCK_DISTANCE: Final = 0.5
"""Seconds between the stamps of picture and pose; a picture's way takes a tenth of it."""
LEAST_VIEWS: Final = 10
LEAST_TURN: Final = np.deg2rad(12.0)
"""RMS angle of the hand's turns about the second of their principal axes. With turns about one
axis only, the camera's place along it cannot be known (Tsai and Lenz 1989)."""


@dataclass(frozen=True)
class View:
    """One usable picture; `number` counts from 1. hand: pose (7,) of the hand in the base."""

    number: int
    image: np.ndarray
    detection: Detection
    hand: Vector
    stamp: float
    robot_stamp: float

    @property
    def name(self) -> str:
        return f"view {self.number}"


@dataclass(frozen=True)
class ViewSet:
    """Views of one camera at one board, and whose they are."""

    robot: str
    camera: str
    serial: str
    on_hand: bool
    factory: Intrinsics | None
    views: tuple[View, ...]

    def __len__(self) -> int:
        return len(self.views)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        height, width = self.views[0].image.shape[:2]
        return width, height

    def observations(self, board: Board) -> Observations:
        """Their corners, as the refinement takes them."""
        hands = np.array([poses.to_matrix(view.hand) for view in self.views])
        detections = [view.detection for view in self.views]
        return Observations(
            chains=poses.inverse(hands) if self.on_hand else hands,
            board=np.zeros(len(detections), dtype=int),
            view=np.concatenate([np.full(len(d), i) for i, d in enumerate(detections)]),
            points=np.concatenate([board.corners[d.ids] for d in detections]),
            pixels=np.concatenate([d.corners for d in detections]),
        )


def view_of(shot: Shot, number: int, board: Board) -> View:
    """The view in a shot.

    Raises:
        CaptureError: no usable board in it, a pose that is none, or clocks that are apart.
    """
    try:
        pose = geometry.check_poses(shot.pose, "the robot's pose")
    except ValueError as error:
        raise CaptureError(f"view {number}: {error}; is the robot's state being read?") from error
    lag = shot.stamp - shot.robot_stamp
    if not abs(lag) <= LARGEST_CLOCK_DISTANCE:
        raise CaptureError(
            f"view {number}: the clocks of robot and camera are {abs(lag):.2f} s apart, at most "
            f"{LARGEST_CLOCK_DISTANCE} s: set both by one clock (chrony), and check the camera's "
            "stamp domain"
        )
    try:
        detection = detect(shot.image, board)
    except CaptureError as error:
        raise CaptureError(f"view {number}: {error}") from error
    return View(number, shot.image, detection, poses.hand_of(pose), shot.stamp, shot.robot_stamp)


def take_view(source: ViewSource, number: int, board: Board) -> View:
    """A view from where the arm stands. Raises CaptureError: see `view_of`."""
    return view_of(source.take(), number, board)


def check_variety(view_set: ViewSet) -> None:
    """Raises CaptureError: too few views, pictures of different sizes, or parallel views."""
    count = len(view_set)
    if count < LEAST_VIEWS:
        raise CaptureError(
            f"too few views: {count} show the board well, at least {LEAST_VIEWS} are needed"
        )
    sizes = {view.image.shape[:2] for view in view_set.views}
    if len(sizes) > 1:
        raise CaptureError(f"the pictures have different sizes: {sorted(sizes)}")
    turns = hand_turns(view_set.views)
    second = float(np.linalg.svd(turns, compute_uv=False)[1] / np.sqrt(count))
    if second < LEAST_TURN:
        raise CaptureError(
            f"parallel views: beside one axis the hand turned by {np.degrees(second):.1f} degrees "
            f"only (RMS), at least {np.degrees(LEAST_TURN):.0f} are needed: tilt it about other "
            "axes too"
        )


def hand_turns(views: Sequence[View]) -> Vector:
    """Rotation vectors (n, 3) [rad] that lead from the mean orientation of the hand to each."""
    hands = np.array([poses.to_matrix(view.hand) for view in views])
    mean = poses.mean_pose(hands)[:3, :3]
    return np.array(
        [geometry.to_rotation_vector(geometry.from_matrix(hand[:3, :3] @ mean.T)) for hand in hands]
    )


def save_views(view_set: ViewSet, folder: Path) -> None:
    """Keep the raw pictures (lossless) and poses: `views.json` and one PNG each."""
    entries = []
    for view in view_set.views:
        name = f"view-{view.number:02d}.png"
        encoded = cv2.imencode(".png", cv2.cvtColor(view.image, cv2.COLOR_RGB2BGR))[1]
        files.write_atomically(folder / name, encoded.tobytes())
        entries.append(
            {
                "number": view.number,
                "image": name,
                "end_effector": poses.end_effector_of(view.hand).tolist(),
                "stamp": view.stamp,
                "robot_stamp": view.robot_stamp,
            }
        )
    factory = view_set.factory
    document = {
        "robot": view_set.robot,
        "camera": view_set.camera,
        "serial": view_set.serial,
        "on_hand": view_set.on_hand,
        "factory": None if factory is None else vars(factory) | {"distortion": factory.distortion},
        "views": entries,
    }
    files.write_atomically(folder / VIEWS_FILE, json.dumps(document, indent=1).encode())


def load_views(folder: Path, board: Board) -> ViewSet:
    """Inverse of `save_views`; the board is found anew in every picture.

    Raises:
        CaptureError: the file or a picture is missing or wrong; the message names it.
    """
    path = folder / VIEWS_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        factory = document["factory"]
        views = []
        for entry in document["views"]:
            picture = cv2.imread(str(folder / Path(entry["image"]).name), cv2.IMREAD_COLOR)
            if picture is None:
                raise CaptureError(f"{folder / entry['image']}: no picture")
            shot = Shot(
                cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), float(entry["stamp"]),
                np.array(entry["end_effector"], dtype=np.float64), float(entry["robot_stamp"]),
            )  # fmt: skip
            views.append(view_of(shot, int(entry["number"]), board))
        return ViewSet(
            robot=str(document["robot"]),
            camera=str(document["camera"]),
            serial=str(document["serial"]),
            on_hand=bool(document["on_hand"]),
            factory=None
            if factory is None
            else Intrinsics(**factory | {"distortion": tuple(factory["distortion"])}),
            views=tuple(views),
        )
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CaptureError(f"{path}: {error!r} is missing or wrong") from error


def without(view_set: ViewSet, numbers: Sequence[int]) -> ViewSet:
    """The set without the views of these numbers."""
    kept = tuple(view for view in view_set.views if view.number not in numbers)
    return replace(view_set, views=kept)
