"""Intrinsics: found, compared with the factory's, and refused when the views do not show enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from made_views import BOARD, CAMERA, made_views

from calibration import coverage, intrinsics_page
from calibration.coverage import Coverage
from calibration.detection import CaptureError, Detection
from calibration.intrinsics import measure, summary
from calibration.views import ViewSet


def test_intrinsics_are_found_and_compared() -> None:
    views, _ = made_views(seed=1, count=20)
    measured = measure(views, BOARD)
    k = measured.intrinsics
    assert [k.fx, k.fy] == pytest.approx([CAMERA.fx, CAMERA.fy], rel=0.005)
    assert [k.cx, k.cy] == pytest.approx([CAMERA.cx, CAMERA.cy], abs=4.0)
    assert measured.rms_px == pytest.approx(0.08 * np.sqrt(2), rel=0.15)
    assert measured.hold_out_px < 0.2
    assert measured.factory_px is not None and measured.factory_px < 1.0
    truth = np.array([CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy])
    found = np.array([k.fx, k.fy, k.cx, k.cy])
    assert np.all(np.abs(found - truth) < 5 * measured.standard_errors)
    assert summary(measured)["coverage"] >= coverage.LEAST_COVERED


def test_a_wrong_factory_value_shows() -> None:
    views, _ = made_views(seed=1, count=12)
    wrong = replace(CAMERA, fx=CAMERA.fx * 1.02, fy=CAMERA.fy * 1.02)
    measured = measure(replace(views, factory=wrong), BOARD)
    assert measured.factory_px is not None and measured.factory_px > 2.0


def test_a_bad_view_is_named() -> None:
    views, _ = made_views(seed=2, count=14)
    bad = views.views[5]
    bent = bad.detection.corners + np.random.default_rng(0).normal(0, 3.0, (24, 2))
    spoiled = replace(bad, detection=replace(bad.detection, corners=bent))
    views = replace(views, views=(*views.views[:5], spoiled, *views.views[6:]))
    measured = measure(views, BOARD)
    assert list(measured.outliers) == [6]
    page = intrinsics_page.render(measured, datetime(2026, 1, 2))
    assert "view 6 (" in page and "Left out" in page


def test_too_few_parallel_or_crowded_views_are_refused() -> None:
    views, _ = made_views(count=8)
    with pytest.raises(CaptureError, match="too few views: 8"):
        measure(views, BOARD)
    views, _ = made_views(seed=3, tilt=0.1)
    with pytest.raises(CaptureError, match=r"parallel views|do not determine"):
        measure(views, BOARD)
    with pytest.raises(CaptureError, match=r"covered \d+ % of the picture.*bring the board to"):
        measure(_crowded(made_views(seed=4)[0]), BOARD)


def _crowded(views: ViewSet) -> ViewSet:
    """Only the upper left of the pictures ever holds the board."""
    shrunk = tuple(
        replace(v, detection=replace(v.detection, corners=0.45 * v.detection.corners))
        for v in views.views
    )
    return replace(views, views=shrunk)


def test_coverage_says_where_to_go() -> None:
    spots = np.array([[100.0, 80.0]] * 4)
    covered = Coverage.of([Detection(np.arange(4), spots, 0.8)], 640, 480)
    assert covered.covered.sum() == 1 and covered.covered[0, 0]
    assert "upper far left" not in covered.hint and covered.hint.startswith("bring the board to")
    everywhere = np.array([[x, y] for x in range(20, 640, 40) for y in range(20, 480, 40)])
    full = Coverage.of([Detection(np.arange(len(everywhere)), everywhere, 0.8)], 640, 480)
    assert full.share == 1.0 and full.hint == ""


def test_coverage_is_drawn_on_a_copy() -> None:
    image = np.full((480, 640, 3), 100, np.uint8)
    spots = np.array([[100.0, 80.0]] * 4)
    found = Detection(np.arange(4), spots, 0.8)
    drawn = coverage.draw(image, found, Coverage.of([found], 640, 480))
    assert (image == 100).all()
    assert (drawn[40, 40] != 100).any() and (drawn[400, 500] == 100).all()
