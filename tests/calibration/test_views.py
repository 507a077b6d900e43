"""Views: bad poses and clocks are refused, and what is kept can be read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_views import BOARD, CAMERA, board_in_camera, made_views, picture

from calibration import capture, poses
from calibration.detection import CaptureError
from calibration.pinhole import Intrinsics
from calibration.source import Shot
from calibration.views import View, ViewSet, load_views, save_views, view_of
from contracts.geometry import Vector

HAND = np.array([0.4, 0.1, 0.4, 1.0, 0.0, 0.0, 0.0])


def shot(seed: int = 1) -> Shot:
    image = picture(board_in_camera(np.random.default_rng(seed), tilt=0.5))
    return Shot(image, 10.0, poses.end_effector_of(HAND), 10.02)


def test_a_view_knows_where_the_hand_was() -> None:
    view = view_of(shot(), 3, BOARD)
    assert view.name == "view 3"
    np.testing.assert_allclose(view.hand, HAND, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pose_that_is_none(value: float) -> None:
    bad = shot().pose.copy()
    bad[1] = value
    with pytest.raises(CaptureError, match="view 3: the robot's pose: has values that are not fin"):
        view_of(replace(shot(), pose=bad), 3, BOARD)


def test_a_quaternion_that_is_none() -> None:
    with pytest.raises(CaptureError, match="quaternion"):
        view_of(replace(shot(), pose=np.zeros(7)), 3, BOARD)


@pytest.mark.parametrize("stamp", [8.0, 3600.0, float("nan")])
def test_clocks_that_are_apart(stamp: float) -> None:
    with pytest.raises(CaptureError, match="clocks of robot and camera are"):
        view_of(replace(shot(), robot_stamp=stamp), 3, BOARD)


class StillSource:
    """A source whose arm is anywhere at once and whose pictures are given."""

    camera, serial, robot = "front", "123", "fr3"
    factory: Intrinsics | None = CAMERA

    def __init__(self, images: list[np.ndarray]) -> None:
        self._images = iter(images)
        self._pose = HAND

    def move_to(self, pose: Vector) -> None:
        self._pose = pose

    def take(self) -> Shot:
        return Shot(next(self._images), 1.0, self._pose, 1.0)

    def close(self) -> None:
        pass


def test_pictures_without_the_board_are_left_out() -> None:
    good, empty = shot().image, np.full((480, 640, 3), 90, np.uint8)
    told: list[tuple[int, str]] = []

    def tell(count: int, view: View | None, reason: str) -> None:
        told.append((count, reason))

    route = [HAND] * 5
    found = capture.visit(StillSource([empty, good, empty, good, good]), BOARD, route, 2, tell)
    assert [view.number for view in found.views] == [2, 4]
    assert [count for count, _ in told] == [0, 1, 1, 2]
    assert "view 1: no board" in told[0][1] and told[1][1] == ""


def test_a_capture_without_hope_ends_early_and_says_why() -> None:
    empty = np.full((480, 640, 3), 90, np.uint8)
    source = StillSource([empty] * 30)
    with pytest.raises(CaptureError, match="6 of 6 pictures, and none can be used: no board"):
        capture.visit(source, BOARD, [HAND] * 30, 25, lambda *_: None)


def test_a_guided_capture_ends_when_the_person_says_so() -> None:
    source = StillSource([shot().image] * 5)
    found = capture.guide(source, BOARD, 5, lambda count: count < 2, lambda *_: None)
    assert len(found) == 2


def kept(folder: Path) -> ViewSet:
    views = (view_of(shot(1), 1, BOARD), view_of(shot(2), 4, BOARD))
    view_set = ViewSet("fr3", "wrist", "77", True, CAMERA, views)
    save_views(view_set, folder)
    return view_set


def test_kept_views_come_back(tmp_path: Path) -> None:
    view_set = kept(tmp_path)
    back = load_views(tmp_path, BOARD)
    assert (back.robot, back.camera, back.serial, back.on_hand) == ("fr3", "wrist", "77", True)
    assert back.factory == CAMERA
    for old, new in zip(view_set.views, back.views, strict=True):
        assert new.number == old.number
        np.testing.assert_array_equal(new.image, old.image)
        np.testing.assert_allclose(new.hand, old.hand, atol=1e-12)
        np.testing.assert_array_equal(new.detection.corners, old.detection.corners)


def test_broken_kept_views_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"views\.json.*missing or wrong"):
        load_views(tmp_path, BOARD)
    kept(tmp_path)
    document = json.loads((tmp_path / "views.json").read_text())
    del document["serial"]
    (tmp_path / "views.json").write_text(json.dumps(document))
    with pytest.raises(CaptureError, match=r"views\.json: KeyError\('serial'\)"):
        load_views(tmp_path, BOARD)
    kept(tmp_path)
    (tmp_path / "view-04.png").write_bytes(b"no picture")
    with pytest.raises(CaptureError, match=r"view-04\.png: no picture"):
        load_views(tmp_path, BOARD)
    kept(tmp_path)
    document = json.loads((tmp_path / "views.json").read_text())
    document["views"][1]["end_effector"][0] = None
    (tmp_path / "views.json").write_text(json.dumps(document))
    with pytest.raises(CaptureError, match="view 4: the robot's pose"):
        load_views(tmp_path, BOARD)


def test_observations_number_views_and_corners() -> None:
    views, _ = made_views("wrist", count=12)
    observations = views.observations(BOARD)
    some = observations.of_views([2, 5])
    assert len(some) == 2
    np.testing.assert_array_equal(some.pixels[some.view == 1], views.views[5].detection.corners)
    np.testing.assert_allclose(
        some.chains[0] @ poses.to_matrix(views.views[2].hand), np.eye(4), atol=1e-12
    )
