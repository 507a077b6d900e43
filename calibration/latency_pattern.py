"""A marker that moves on a screen by the clock: what a camera's latency is measured against.

The page needs nothing but a browser on a computer whose clock is the robot PC's (or is kept by the
same time server). Where the marker is at any time is a formula of that time, so nothing has to be
recorded; each picture is drawn for the moment at which the screen will show it. What the panel
itself needs to switch, some 5 to 15 ms, counts as the camera's latency.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import ArrayLike

from calibration.latency import LatencyError, Signal, along_motion
from calibration.live_camera import Frame
from contracts.geometry import Vector

PARTS: Final = ((0.50, 0.31, 0.4), (0.32, 0.57, 1.9), (0.18, 0.93, 3.3))
"""Amplitude, frequency [Hz] and phase [rad] of the sines: unrelated, so it does not repeat."""
DICTIONARY: Final = cv2.aruco.DICT_4X4_50
MARKER: Final = 7
MARKER_PIXELS: Final = 480
REFERENCE_RATE: Final = 200.0
TEMPLATE: Final = "latency_pattern.html.j2"


def pattern_offset(t: ArrayLike) -> Vector:
    """Where the marker is at times `t` [s, Unix], -1 (left) .. 1 (right)."""
    time = np.asarray(t, dtype=np.float64)
    return np.asarray(sum(a * np.sin(2 * np.pi * f * time + p) for a, f, p in PARTS))


def marker_picture() -> np.ndarray:
    """The marker on white (pixels, pixels) uint8."""
    dictionary = cv2.aruco.getPredefinedDictionary(DICTIONARY)
    marker = cv2.aruco.generateImageMarker(dictionary, MARKER, MARKER_PIXELS)
    return np.pad(np.asarray(marker), MARKER_PIXELS // 4, constant_values=255)


def pattern_page() -> str:
    """The page as HTML, whole in itself."""
    encoded = cv2.imencode(".png", marker_picture())[1]
    picture = "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(TEMPLATE).render(picture=picture, parts=PARTS)


def pattern_signals(frames: Sequence[Frame]) -> tuple[Signal, Signal]:
    """The marker's motion by the clock, and as the frames show it; signs are arbitrary.

    Raises:
        LatencyError: it is seen in too few frames.
    """
    dictionary = cv2.aruco.getPredefinedDictionary(DICTIONARY)
    detector = cv2.aruco.ArucoDetector(dictionary)
    stamps, places = [], []
    for frame in frames:
        corners, ids, _ = detector.detectMarkers(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY))
        for corner, number in zip(corners, [] if ids is None else ids.ravel(), strict=True):
            if number == MARKER:
                stamps.append(frame.stamp)
                places.append(corner.reshape(4, 2).mean(axis=0))
                break
    if 2 * len(stamps) < len(frames) or not stamps:
        raise LatencyError(
            f"the moving marker is seen in {len(stamps)} of {len(frames)} pictures: bring the "
            "screen into the middle of the view, brightly lit and without reflections"
        )
    clock = np.arange(stamps[0] - 2.0, stamps[-1] + 2.0, 1.0 / REFERENCE_RATE)
    return (
        Signal("marker by the clock", clock, pattern_offset(clock)),
        Signal("marker in the pictures", np.array(stamps), along_motion(places)),
    )
