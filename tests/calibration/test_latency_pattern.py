"""The moving marker: what a camera that is late shows of it, and the page itself."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.latency import LatencyError, estimate_delay
from calibration.latency_pattern import (
    PARTS,
    marker_picture,
    pattern_offset,
    pattern_page,
    pattern_signals,
)
from calibration.latency_recording import CAMERA_SEARCH
from calibration.live_camera import Frame

EPOCH = 1_700_000_000.0
WIDTH, HEIGHT, SIZE = 320, 120, 60


def pictures(latency: float, seconds: float = 12.0, rate: float = 15.0) -> list[Frame]:
    """Frames of the marker that are stamped late by `latency` [s]."""
    marker = np.asarray(marker_picture()[::10, ::10])
    frames = []
    for t in np.arange(EPOCH, EPOCH + seconds, 1.0 / rate).tolist():
        image = np.full((HEIGHT, WIDTH), 255, np.uint8)
        centre = WIDTH / 2 + 110 * float(pattern_offset(t))
        left = round(centre - marker.shape[1] / 2)
        image[20 : 20 + marker.shape[0], left : left + marker.shape[1]] = marker
        frames.append(Frame(np.repeat(image[:, :, None], 3, axis=2), t + latency))
    return frames


def test_the_marker_tells_the_cameras_latency() -> None:
    found = estimate_delay(*pattern_signals(pictures(0.125)), CAMERA_SEARCH)
    assert found.seconds == pytest.approx(0.125, abs=0.003)


def test_a_marker_that_is_not_seen_is_reported() -> None:
    blank = [Frame(np.full((HEIGHT, WIDTH, 3), 255, np.uint8), EPOCH + i) for i in range(40)]
    with pytest.raises(LatencyError, match="seen in 0 of 40 pictures"):
        pattern_signals(blank)


def test_the_offset_stays_on_the_screen() -> None:
    t = np.linspace(EPOCH, EPOCH + 1000.0, 20000)
    assert np.abs(pattern_offset(t)).max() <= 1.0
    assert pattern_offset(t).std() > 0.3


def test_the_page_moves_by_the_same_formula_and_needs_nothing_else() -> None:
    page = pattern_page()
    for part in PARTS:
        assert str(list(part)) in page
    assert "data:image/png;base64," in page
    assert "http" not in page
