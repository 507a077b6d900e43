"""`python -m calibration.check`: its verdict, its page, and what it refuses to start with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from calibration import check, poses
from calibration.board import Board
from calibration.check import COULD_NOT, REFUSED, SIMULATED, main
from calibration.check_views import plan_views, take_views
from calibration.drift import board_pixels
from calibration.gate import gate_problems
from calibration.simulated_set_up import simulated_calibration
from calibration.source import Shot
from calibration.store import CalibrationStore, read_calibration
from contracts.calibration import Calibration
from contracts.geometry import Vector

VIEWS = "4"


@pytest.fixture(scope="module")
def route() -> Sequence[Vector]:
    """Planned once: it takes a second."""
    return plan_views(simulated_calibration().cameras["front"], Board(), int(VIEWS))


def test_the_simulations_file_is_what_was_drawn() -> None:
    assert read_calibration(SIMULATED).to_document() == simulated_calibration().to_document()


@pytest.mark.parametrize(("bump", "code"), [(0.0, 0), (4.0, REFUSED)])
def test_an_unmoved_camera_passes_and_a_moved_one_is_refused(
    bump: float,
    code: int,
    route: Sequence[Vector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(check, "plan_views", lambda camera, board, count: route)
    words = ["--camera", "front", "--views", VIEWS, "--bump-mm", str(bump), "--json"]
    assert main([*words, "--out", str(tmp_path)]) == code
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["refused"] == (code == REFUSED)
    assert result["cameras"]["front"]["moved_mm"] == pytest.approx(bump, abs=0.6)
    assert result == json.loads((tmp_path / "check.json").read_text())
    page = (tmp_path / "check.html").read_text()
    assert page.count("<figure>") == int(VIEWS)
    assert page.count('class="before"') == page.count('class="after"') == int(VIEWS) + 1
    assert ("refused" in page) == (code == REFUSED)


def write(calibration: Calibration, path: Path) -> Path:
    path.write_text(yaml.safe_dump(calibration.to_document()))
    return path


def other_robot(calibration: Calibration) -> Calibration:
    return replace(calibration, robot="fr3-of-the-next-lab")


def other_serial(calibration: Calibration) -> Calibration:
    front = replace(calibration.cameras["front"], serial="999")
    return replace(calibration, cameras={"front": front})


def no_camera(calibration: Calibration) -> Calibration:
    return replace(calibration, cameras={"wrist": calibration.cameras["wrist"]})


def no_board_pose(calibration: Calibration) -> Calibration:
    front = replace(calibration.cameras["front"], board_pose=None)
    return replace(calibration, cameras={"front": front})


def bad_residual(calibration: Calibration) -> Calibration:
    front = replace(calibration.cameras["front"], residual_px=3.5)
    return replace(calibration, cameras={"front": front})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_robot, "is of robot 'fr3-of-the-next-lab'"),
        (other_serial, "serial 999"),
        (no_camera, "no camera 'front', only wrist"),
        (no_board_pose, "does not say where the board was"),
        (bad_residual, r"3\.50 px off \(RMS\), allowed are 1 px"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(
    change: Callable[[Calibration], Calibration],
    why: str,
    route: Sequence[Vector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if change is not no_board_pose:
        monkeypatch.setattr(check, "plan_views", lambda camera, board, count: route)
    path = write(change(simulated_calibration()), tmp_path / "calibration.yaml")
    before = path.read_bytes()
    words = ["--camera", "front", "--calibration", str(path), "--out", str(tmp_path / "out")]
    assert main(words) == COULD_NOT
    told = [line for line in capsys.readouterr().err.splitlines() if "check: " in line]
    assert len(told) == 1
    assert re.search(why, told[0])
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--calibration", "nowhere.yaml"], "nowhere.yaml"),
        (["--robot-ip", "172.16.0.2"], "--robot-ip needs --backend live"),
        (["--backend", "live", "--robot-ip", "172.16.0.2", "--bump-mm", "4"], "--bump-mm"),
        (["--views", "2"], "--views must be at least 4"),
        (["--serial", "rear=12"], "--serial rear=12"),
    ],
)
def test_options_that_cannot_work_say_why(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path)]) == COULD_NOT
    assert why in capsys.readouterr().err


def test_without_a_calibration_in_force_there_is_nothing_to_compare(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(check, "STORE", tmp_path)
    with pytest.raises(ValueError, match="calibrate first"):
        check.load_in_force(None, simulated=False)
    CalibrationStore(tmp_path).write(simulated_calibration())
    found = check.load_in_force(None, simulated=False)
    assert found.to_document() == simulated_calibration().to_document()


def test_held_out_residuals_are_held_against_limits() -> None:
    front = simulated_calibration().cameras["front"]
    assert gate_problems(front) == []
    [problem] = gate_problems(replace(front, residual_mm=2.6))
    assert "2.60 mm" in problem and "2 mm" in problem
    assert len(gate_problems(replace(front, residual_px=float("nan")))) == 1


def test_the_routes_views_show_the_whole_board(route: Sequence[Vector]) -> None:
    camera, board = simulated_calibration().cameras["front"], Board()
    assert len(route) == int(VIEWS)
    for pose in route:
        pixels = board_pixels(poses.hand_of(pose), camera, board.outline)
        assert (pixels > 0).all() and (pixels < [camera.width, camera.height]).all()


class BlindSource:
    """A set-up whose camera sees nothing but a wall."""

    camera, serial, robot, factory = "front", "1", "simulated-fr3", None

    def __init__(self) -> None:
        self.visited: list[Vector] = []

    def move_to(self, pose: Vector) -> None:
        self.visited.append(pose)

    def take(self) -> Shot:
        return Shot(np.full((480, 640, 3), 90, np.uint8), 1.0, self.visited[-1], 1.0)

    def close(self) -> None:
        pass


def test_a_board_that_is_not_seen_is_kept_with_its_reason() -> None:
    source, told = BlindSource(), []
    pose = np.array([0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0])
    views = take_views(source, Board(), [pose] * 3, told.append)
    assert told == [1, 2, 3]
    assert all(view.view is None and "no board in the picture" in view.problem for view in views)
