"""The command: from rendered views to a file in force, and no refusal touches the last one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_views import BOARD, CAMERA, made_views

import simulation  # noqa: F401  chooses MuJoCo's renderer, which must precede MuJoCo's import
from calibration import hand_eye, poses, session
from calibration.fast_source import ROBOT
from calibration.hand_eye import HandEyeConfig, main
from calibration.store import CalibrationStore
from calibration.views import ViewSet
from simulation.cameras import CAMERAS


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the front camera was calibrated from a few rendered views."""
    out = tmp_path_factory.mktemp("calibration")
    assert main(["--camera", "front", "--views", "12", "--seed", "3", "--out", str(out)]) == 0
    return out


@pytest.fixture
def folder(calibrated: Path, tmp_path: Path) -> Path:
    """A folder of its own with that calibration in force."""
    shutil.copytree(calibrated / "calibrations", tmp_path / "calibrations")
    return tmp_path


def made(**changes: object) -> ViewSet:
    """Views of the camera that is in force, made without a renderer."""
    views, _ = made_views("front", seed=2, count=12)
    own = {"robot": ROBOT, "serial": CAMERAS["front"].serial}
    return replace(views, **own | changes)  # type: ignore[arg-type]


def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch, views: ViewSet) -> list[str]:
    """The command that solves these views."""
    monkeypatch.setattr(hand_eye, "load_views", lambda path, board: views)
    return ["--camera", "front", "--recorded", "somewhere", "--out", str(folder)]


def views_folder(out: Path) -> Path:
    return next((out / "views").glob("front_*"))


def test_it_finds_the_camera(calibrated: Path) -> None:
    result = json.loads((calibrated / "front.json").read_text())
    assert result["error_mm"] < 1.0 and result["error_deg"] < 0.1
    assert result["views"] + len(result["outliers"]) == 12
    in_force = CalibrationStore(calibrated / "calibrations").in_force()
    assert in_force is not None
    camera = in_force.cameras["front"]
    np.testing.assert_allclose(camera.pose, result["pose"])
    assert camera.frame == "base" and camera.intrinsics_source == "factory"
    assert camera.standard_errors is not None and max(camera.standard_errors[:3]) < 1e-3
    assert in_force.latencies is None and in_force.board == BOARD.to_document()
    assert len(list(views_folder(calibrated).glob("*.png"))) >= 12


def test_the_page_is_whole_in_itself(calibrated: Path) -> None:
    page = (calibrated / "front.html").read_text()
    assert page.count("<figure>") == 12
    assert "data:image/jpeg;base64," in page
    assert "In force." in page and "off the truth" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_kept_views_give_the_same_camera_and_a_json_line(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--camera", "front", "--recorded", str(views_folder(calibrated)), "--json"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    first = json.loads((calibrated / "front.json").read_text())
    assert poses.apart(line["pose"], first["pose"])[0] < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robot": "fr4"}, "is of robot"),
        ({"serial": "9"}, "serial"),
        ({"views": made_views(count=5)[0].views}, "too few views: 5"),
        ({"views": made_views(tilt=0.0)[0].views}, "parallel views"),
        ({"views": made_views(scale=0.97)[0].views}, "mis-sized print"),
        ({"camera": "wrist"}, "has views of wrist, not front"),
        ({"factory": None}, "no factory intrinsics"),
    ],
)
def test_no_refusal_touches_the_calibration_in_force(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    message: str,
) -> None:
    before = CalibrationStore(folder / "calibrations").path_in_force()
    assert main(recorded(folder, monkeypatch, made(**changes))) == 1
    error = capsys.readouterr().err
    assert message in error and "stays in force" in error
    assert CalibrationStore(folder / "calibrations").path_in_force() == before


def test_a_calibration_that_fails_the_gate_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = CalibrationStore(folder / "calibrations").path_in_force()
    monkeypatch.setattr(hand_eye, "gate_problems", lambda camera: ["the corners are 9 px off"])
    assert main(recorded(folder, monkeypatch, made())) == 3
    assert "refused: the corners are 9 px off" in capsys.readouterr().err
    assert CalibrationStore(folder / "calibrations").path_in_force() == before
    assert "Refused, the last calibration stays" in (folder / "front.html").read_text()


def test_noise_beyond_use_never_comes_into_force(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = CalibrationStore(folder / "calibrations").path_in_force()
    noisy = made_views("front", seed=2, count=12, robot_noise=4e-3)[0].views
    assert main(recorded(folder, monkeypatch, made(views=noisy))) in (1, 3)
    assert CalibrationStore(folder / "calibrations").path_in_force() == before


def test_a_new_camera_must_be_meant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = recorded(folder, monkeypatch, made(serial="9"))
    assert main(command) == 1
    assert main([*command, "--new-camera"]) == 0
    in_force = CalibrationStore(folder / "calibrations").in_force()
    assert in_force is not None and in_force.cameras["front"].serial == "9"


def test_the_other_camera_s_part_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = replace(made_views("wrist", seed=2, count=12)[0], robot=ROBOT)
    monkeypatch.setattr(hand_eye, "load_views", lambda path, board: views)
    assert main(["--camera", "wrist", "--recorded", "x", "--out", str(folder)]) == 0
    in_force = CalibrationStore(folder / "calibrations").in_force()
    assert in_force is not None and set(in_force.cameras) == {"front", "wrist"}
    assert in_force.cameras["wrist"].frame == "hand"


def test_estimated_intrinsics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = recorded(folder, monkeypatch, made(factory=None))
    assert main([*command, "--intrinsics", "estimated"]) == 0
    in_force = CalibrationStore(folder / "calibrations").in_force()
    assert in_force is not None
    camera = in_force.cameras["front"]
    assert camera.intrinsics_source == "estimated"
    assert camera.fx == pytest.approx(CAMERA.fx, rel=0.005) and camera.fx != CAMERA.fx


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"camera": "left"}, "no camera 'left'"),
        ({"by_hand": True}, "--by-hand needs --backend live"),
        ({"address": "172.16.0.2"}, "--robot-ip needs --backend live"),
        ({"views": 5}, "at least 10"),
        ({"seed": -1}, "negative"),
    ],
)
def test_options_that_contradict_each_other(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HandEyeConfig(**{"camera": "front", "out": Path("x")} | fields)  # type: ignore[arg-type]


def test_ctrl_c_ends_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session.viewpoints, "plan", interrupted)
    assert main(["--camera", "wrist", "--out", str(tmp_path)]) == 130
    assert "interrupted; the last calibration stays in force" in capsys.readouterr().err
