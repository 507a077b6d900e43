"""What pictures say: whether one came twice, their clock, and whether the object arrived."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contracts import geometry
from contracts.calibration import CameraCalibration
from contracts.episode import EpisodeError
from contracts.geometry import Vector
from contracts.task import TASKS
from teleop import jpeg
from teleop.dataset import Episode

LAGS: Final = np.round(np.arange(-0.40, 0.401, 0.02), 2)
"""Offsets [s] of a camera's clock against the arm's that are tried."""
SMALL: Final = (48, 48)
MOVED: Final = 0.001
"""Metres the arm must have moved for an equal picture to be a repeated one."""
PATCH: Final = 0.035
"""Half the side [m] of the table's patch that is compared."""
PATCH_HEIGHT: Final = 0.02
CHANGED: Final = 25
"""Difference of a channel (0..255) from which a pixel has changed."""


@dataclass(frozen=True)
class PictureChecks:
    """Of one camera. repeated: equal pictures while the arm moved.

    lag_curve: correlation of picture change with arm motion at each of LAGS; NaN if nothing moved.
    """

    camera: str
    repeated: int
    lag_curve: Vector

    @property
    def lag(self) -> float | None:
        """Offset [s] at which pictures and arm agree best; positive: the stamps are too late."""
        return best_lag(self.lag_curve)


@dataclass(frozen=True)
class FinalPicture:
    """Share of changed pixels, first to last picture, where the object was and where it belongs."""

    left_source: float
    reached_target: float


def best_lag(curve: Vector) -> float | None:
    """Peak of a lag curve [s]; None if there is none."""
    return None if np.isnan(curve).any() else float(LAGS[int(np.argmax(curve))])


def check_camera(episode: Episode, camera: str) -> PictureChecks:
    """Decode every picture of a camera once, small."""
    pictures = episode.pictures(camera)
    stamps = pictures.stamps
    travelled = _travelled(episode)
    small = [_small(pictures.jpeg(i)) for i in range(len(pictures))]
    path = np.interp(stamps, episode.state_times, travelled)
    equal = [pictures.jpeg(i) == pictures.jpeg(i - 1) for i in range(1, len(pictures))]
    repeated = int(np.sum(np.array(equal, bool) & (np.diff(path) > MOVED)))
    change = np.array([np.abs(b - a).mean() for a, b in itertools.pairwise(small)])
    curve = np.array([_agreement(episode, travelled, stamps, change, lag) for lag in LAGS])
    return PictureChecks(camera, repeated, curve)


def calibration_problems(episode: Episode) -> tuple[str, ...]:
    """What of the calibration does not fit the pictures; nothing where there is none to hold."""
    calibration = episode.calibration
    if calibration is None:
        return ()
    problems = []
    for camera in episode.cameras:
        view = calibration.cameras.get(camera)
        if view is None:
            problems.append(f"{camera} is not in the calibration")
        elif len(episode.camera_stamps(camera)):
            height, width = jpeg.decode(episode.pictures(camera).jpeg(0)).shape[:2]
            if (width, height) != (view.width, view.height):
                problems.append(
                    f"{camera} is calibrated for {view.width}x{view.height} pixels, "
                    f"its pictures have {width}x{height}"
                )
    return tuple(problems)


def final_picture(episode: Episode, camera: str = "front") -> FinalPicture | None:
    """Compare the first and the last picture; None where calibration or start are not known."""
    calibration = episode.calibration
    places = _places(episode)
    if calibration is None or places is None or camera not in calibration.cameras:
        return None
    view = calibration.cameras[camera]
    if view.frame != "base" or camera not in episode.cameras:
        return None
    pictures = episode.pictures(camera)
    first = jpeg.decode(pictures.jpeg(0)).astype(np.int16)
    last = jpeg.decode(pictures.jpeg(len(pictures) - 1)).astype(np.int16)
    if first.shape != last.shape or first.shape[:2] != (view.height, view.width):
        return None
    changed = np.abs(last - first).max(axis=2) > CHANGED
    source, target = (_patch_share(changed, view, place) for place in places)
    return None if source is None or target is None else FinalPicture(source, target)


def _places(episode: Episode) -> tuple[Vector, Vector] | None:
    """Where the object lay at the start and where it belongs, (3,) each [m]."""
    start, task = episode.header.start, TASKS.get(episode.header.task)
    if task is None:
        return None
    source = start.get("objects", {}).get(episode.header.object)
    target = start.get("containers", {}).get(task.target)
    if source is None or target is None:
        return None
    height = [PATCH_HEIGHT]
    return np.array([*source[:2], *height]), np.array([*target[:2], *height])


def project(camera: CameraCalibration, point: Vector) -> tuple[float, float, float]:
    """Pixel (u, v) of a point (3,) in the camera's frame of reference, and its depth [m].

    Lens distortion is left out: it moves a point by less than the patch's size.
    """
    x, y, z = geometry.to_matrix(camera.pose[3:]).T @ (point - camera.pose[:3])
    return camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy, float(z)


def _patch_share(
    changed: NDArray[np.bool_], view: CameraCalibration, place: Vector
) -> float | None:
    u, v, depth = project(view, place)
    half = max(view.fx * PATCH / depth, 1.0)
    rows = slice(max(round(v - half), 0), max(round(v + half) + 1, 0))
    columns = slice(max(round(u - half), 0), max(round(u + half) + 1, 0))
    patch = changed[rows, columns]
    return float(patch.mean()) if patch.size and depth > 0.0 else None


def _small(data: memoryview) -> NDArray[np.float32]:
    """Grey and small; JPEG gives reduced sizes at little cost."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.draft("L", SMALL)
            return np.asarray(picture.convert("L").resize(SMALL), np.float32)
    except (OSError, SyntaxError) as error:
        raise EpisodeError(f"a picture does not decode: {error}") from error


def _travelled(episode: Episode) -> Vector:
    """Path length [m] of the end effector up to each state."""
    steps = np.linalg.norm(np.diff(episode.states["pose"][:, :3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _agreement(
    episode: Episode, travelled: Vector, stamps: Vector, change: Vector, lag: float
) -> float:
    """Correlation of the pictures' change with the arm's motion if stamps are late by `lag`."""
    moved = np.diff(np.interp(stamps - lag, episode.state_times, travelled))
    if len(moved) < 5 or moved.std() < 1e-6 or change.std() < 1e-6:
        return float("nan")
    return float(np.corrcoef(moved, change)[0, 1])
