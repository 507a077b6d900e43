"""The store: the newest calibration is in force, none is ever replaced, and strangers are named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from calibration.intrinsics_file import load_intrinsics, save_intrinsics
from calibration.pinhole import Intrinsics
from calibration.store import CalibrationStore, check_owner
from contracts.calibration import Calibration, CameraCalibration, Latencies

MORNING = datetime(2026, 1, 2, 9, 30, 0, tzinfo=UTC)


def calibration(x: float = 1.0, robot: str = "fr3", serial: str = "123") -> Calibration:
    front = CameraCalibration(
        name="front", serial=serial, width=640, height=480, fx=600.0, fy=601.0, cx=320.0, cy=240.0,
        distortion=(0.0,) * 5, frame="base", pose=np.array([x, 0, 0.5, 0, 1, 0, 0]),
        residual_px=0.3, residual_mm=0.5, standard_errors=(1e-4,) * 6,
        board_pose=np.array([0, 0, 0.1, 0, 0, 0, 1]), calibrated_on=MORNING.date(), views=25,
    )  # fmt: skip
    latencies = Latencies(0.1, 0.01, 0.05, 0.2, intervals={"camera": (0.09, 0.11)})
    return Calibration(
        robot, MORNING.date(), {"front": front}, latencies, board={"columns": 7, "rows": 5}
    )


def test_the_newest_is_in_force(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path / "calibrations")
    assert store.in_force() is None
    later = store.write(calibration(2.0), MORNING.replace(hour=10))
    store.write(calibration(1.0), MORNING)
    assert store.path_in_force() == later
    found = store.in_force()
    assert found is not None
    assert found.to_document() == calibration(2.0).to_document()


def test_nothing_is_ever_replaced(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    paths = [store.write(calibration(float(i)), MORNING) for i in range(3)]
    assert [path.name for path in paths] == [
        "2026-01-02_093000.yaml", "2026-01-02_093000_01.yaml", "2026-01-02_093000_02.yaml",
    ]  # fmt: skip
    assert store.path_in_force() == paths[-1]
    assert sorted(tmp_path.iterdir()) == paths  # and no temporary file is left


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    path = store.write(calibration(), MORNING)
    path.write_text(path.read_text().replace("frame: base", "frame: moon"))
    with pytest.raises(ValueError, match=rf"{path.name}: camera 'front': frame must be"):
        store.in_force()


def test_another_robot_or_camera_is_named(tmp_path: Path) -> None:
    where = tmp_path / "today.yaml"
    check_owner(calibration(), "fr3", "front", "123", where)
    check_owner(calibration(), "fr3", "wrist", "9", where)  # not calibrated yet
    with pytest.raises(ValueError, match=r"today\.yaml is of robot 'fr3', this one is 'fr4'"):
        check_owner(calibration(), "fr4", "front", "123", where)
    with pytest.raises(ValueError, match="front camera with serial 123, this one has 124"):
        check_owner(calibration(), "fr3", "front", "124", where)


def test_intrinsics_of_another_camera_are_refused(tmp_path: Path) -> None:
    path, camera = tmp_path / "k.yaml", Intrinsics(640, 480, 600.0, 601.0, 320.0, 240.0)
    save_intrinsics(path, camera, "front", "123", 0.1, MORNING.date())
    assert load_intrinsics(path, "front", "123") == camera
    with pytest.raises(ValueError, match="front camera with serial 123, this is the wrist camera"):
        load_intrinsics(path, "wrist", "9")
    path.write_text("camera: front\n")
    with pytest.raises(ValueError, match=r"k\.yaml: KeyError\('serial'\)"):
        load_intrinsics(path, "front", "123")
    with pytest.raises(ValueError, match="cannot be read"):
        load_intrinsics(tmp_path / "none.yaml", "front", "123")
