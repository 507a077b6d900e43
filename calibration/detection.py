"""The board in a picture: corners to a fraction of a pixel, or the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from calibration import poses
from calibration.board import Board
from calibration.pinhole import Intrinsics, project
from contracts.geometry import Vector

LEAST_CORNERS: Final = 8
LEAST_MARKERS: Final = 3
LARGEST_BLUR: Final = 1.8
"""Standard deviation [px] of an edge beyond which corners are no longer found to a tenth."""
LEAST_CONTRAST: Final = 40.0
"""Grey levels between black and white."""
LEAST_BLUR: Final = 1.4
"""Blur [px] of the sharpest edges from which on it is the reason why small markers are not read."""
NEIGHBOURHOOD: Final = 15
LEAST_EDGE_PIXELS: Final = 200
SHARPEST_SHARE: Final = 0.02
PROFILE: Final = 4
"""Half length [px] of the line across an edge on which its width is measured."""
OTHER_DICTIONARIES: Final = ("DICT_4X4_50", "DICT_5X5_100", "DICT_6X6_250", "DICT_7X7_250")


class CaptureError(ValueError):
    """A picture or a view that calibration cannot use; the text says why and what to do."""


@dataclass(frozen=True)
class Detection:
    """Inner corners found: their numbers (n,) on the board and places (n, 2) [px].

    Integers are pixel centres. blur: standard deviation [px] of the edges.
    """

    ids: np.ndarray
    corners: Vector
    blur: float

    def __len__(self) -> int:
        return len(self.ids)


def detect(image: np.ndarray, board: Board) -> Detection:
    """The board in a picture (height, width, 3) uint8 RGB.

    Raises:
        CaptureError: no board, another board, a mirrored print, or too blurred.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    corners, ids, marker_count, foreign = _find(grey, board)
    if len(ids) < LEAST_CORNERS:
        raise CaptureError(_reason_for_none(grey, board, len(ids), marker_count, foreign))
    blur = edge_blur(grey, board, ids, corners)
    if blur > LARGEST_BLUR:
        raise CaptureError(_blurred(blur))
    return Detection(ids, corners, blur)


def _blurred(blur: float) -> str:
    return (
        f"the picture is blurred: edges are {blur:.1f} px wide: let the arm stand still, shorten "
        "the exposure, or clean and focus the lens"
    )


def sharpest_edges(grey: np.ndarray) -> float:
    """Blur [px] of the sharpest edges anywhere in the picture; 0 if it has no edges at all."""
    smooth = cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32)  # less noise, half a pixel more
    slope = cv2.magnitude(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1)
    )
    window = np.ones((NEIGHBOURHOOD, NEIGHBOURHOOD), np.uint8)
    contrast = cv2.dilate(smooth, window) - cv2.erode(smooth, window)
    edges = (contrast >= LEAST_CONTRAST) & (slope > 0.0)
    if np.count_nonzero(edges) < LEAST_EDGE_PIXELS:
        return 0.0
    blurs = contrast[edges] / (0.5 * slope[edges] * np.sqrt(2.0 * np.pi))
    return float(np.quantile(blurs, SHARPEST_SHARE))


def _find(grey: np.ndarray, board: Board) -> tuple[Vector, np.ndarray, int, bool]:
    """Corners (n, 2), their numbers (n,), the number of markers seen, and whether they are
    another board's."""
    detector = cv2.aruco.CharucoDetector(board.charuco)
    found, numbers, _, marker_ids = detector.detectBoard(grey)
    count = 0 if marker_ids is None else len(marker_ids)
    strangers = 0 if marker_ids is None else int(np.sum(np.ravel(marker_ids) >= board.markers))
    foreign = strangers >= max(2, count / 3)  # one alone may be a misreading
    if numbers is None:
        return np.zeros((0, 2)), np.zeros(0, dtype=int), count, foreign
    ids = np.asarray(numbers).ravel().astype(int)
    corners = np.asarray(found, dtype=np.float64).reshape(-1, 2)
    order = np.argsort(ids)
    return corners[order], ids[order], count, foreign


def _reason_for_none(
    grey: np.ndarray, board: Board, corners: int, markers: int, foreign: bool
) -> str:
    if corners == 0 and _find(np.ascontiguousarray(grey[:, ::-1]), board)[2] > max(
        markers, LEAST_MARKERS
    ):
        return (
            "the board is mirrored: print the PDF again without 'mirror', and turn off the "
            "camera's mirroring"
        )
    if foreign:
        return (
            "wrong board: it has markers that this board does not have; give its own board.yaml "
            "with --board"
        )
    blur = sharpest_edges(grey)
    if blur > LEAST_BLUR:
        return _blurred(blur)
    if markers < LEAST_MARKERS:
        for name in OTHER_DICTIONARIES:
            if name != board.dictionary and _markers_of(grey, name) >= LEAST_MARKERS:
                return (
                    f"wrong board: its markers are of {name}, this board's of "
                    f"{board.dictionary}; give its own board.yaml with --board"
                )
        return (
            "no board in the picture: bring it into view, nearer to the camera and into the light"
        )
    if corners == 0 and markers >= board.markers // 2:
        return (
            f"wrong board: {markers} markers fit, but not where a board of {board.columns} x "
            f"{board.rows} squares has them; give its own board.yaml with --board"
        )
    return (
        f"only {corners} corners of the board are visible, at least {LEAST_CORNERS}: bring all of "
        "it into the picture"
    )


def _markers_of(grey: np.ndarray, dictionary: str) -> int:
    known = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))
    _, ids, _ = cv2.aruco.ArucoDetector(known).detectMarkers(grey)
    return 0 if ids is None else len(ids)


def edge_blur(grey: np.ndarray, board: Board, ids: np.ndarray, corners: Vector) -> float:
    """Median blur [px] of the edges between neighbouring corners; inf without contrast.

    A step blurred by a Gaussian of deviation s has the greatest slope contrast / (s sqrt(2 pi)).
    """
    across = np.arange(-PROFILE, PROFILE + 1, dtype=np.float64)
    blurs = []
    places = dict(zip(ids.tolist(), corners, strict=True))
    for number, start in places.items():
        for step in (1, board.columns - 1):
            end = places.get(number + step)
            if end is None or (step == 1 and (number + 1) % (board.columns - 1) == 0):
                continue
            along = end - start
            length = float(np.linalg.norm(along))
            normal = np.array([-along[1], along[0]]) / length
            reach = min(PROFILE, 0.25 * length)
            line = (start + 0.5 * along) + np.outer(across * reach / PROFILE, normal)
            profile = cv2.remap(
                grey, line[:, 0].astype(np.float32), line[:, 1].astype(np.float32),
                cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
            ).ravel().astype(np.float64)  # fmt: skip
            contrast = float(profile.max() - profile.min())
            slope = float(np.abs(np.diff(profile)).max()) / (reach / PROFILE)
            if contrast >= LEAST_CONTRAST:
                blurs.append(contrast / (slope * np.sqrt(2.0 * np.pi)))
    return float(np.median(blurs)) if blurs else float("inf")


def board_pose(detection: Detection, board: Board, intrinsics: Intrinsics) -> tuple[Vector, float]:
    """The board's pose (7,) in the optical frame, and the RMS [px] of its corners.

    Of the two poses that a flat board may have, the one that fits better.

    Raises:
        CaptureError: no pose fits.
    """
    points = board.corners[detection.ids]
    count, turns, shifts, _ = cv2.solvePnPGeneric(
        points, detection.corners, intrinsics.matrix, intrinsics.coefficients,
        flags=cv2.SOLVEPNP_IPPE,
    )  # fmt: skip
    best: tuple[Vector, float] | None = None
    for turn, shift in zip(turns[:count], shifts[:count], strict=True):
        turn, shift = cv2.solvePnPRefineLM(
            points, detection.corners, intrinsics.matrix, intrinsics.coefficients, turn, shift
        )
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = cv2.Rodrigues(turn)[0], shift.ravel()
        seen = project(points @ matrix[:3, :3].T + matrix[:3, 3], intrinsics)
        rms = float(np.sqrt(np.mean(np.sum((seen - detection.corners) ** 2, axis=1))))
        if np.isfinite(rms) and (best is None or rms < best[1]):
            best = poses.to_pose(matrix), rms
    if best is None:
        raise CaptureError("no pose of the board fits its corners: is it flat and rigid?")
    return best
