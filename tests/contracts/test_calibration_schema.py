"""Calibration: its document form and what it refuses."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from contracts.calibration import Calibration, CameraCalibration, Latencies


def calibration() -> Calibration:
    front = CameraCalibration(
        name="front",
        serial="123",
        width=640,
        height=480,
        fx=600.0,
        fy=601.0,
        cx=320.0,
        cy=240.0,
        distortion=(0.1, 0.0, 0.0, 0.0, -0.1),
        frame="base",
        pose=np.array([1, 0, 0.5, 0, 1, 0, 0]),
        residual_px=0.3,
    )
    return Calibration("fr3", date(2026, 1, 2), {"front": front}, Latencies(0.1, 0.0, 0.05, 0.1))


def test_document_form_is_plain_and_comes_back() -> None:
    document = json.loads(json.dumps(calibration().to_document()))
    back = Calibration.from_document(document)
    assert back.to_document() == calibration().to_document()
    assert back.made_on == date(2026, 1, 2)
    np.testing.assert_array_equal(back.cameras["front"].pose, calibration().cameras["front"].pose)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema version 2"),
        (("cameras", "front", "frame"), "moon", "'base' or 'hand'"),
        (("cameras", "front", "width"), 0, "must be positive"),
        (("cameras", "front", "fx"), -1.0, "must be positive"),
        (("cameras", "front", "cx"), 640.0, "principal point"),
        (("cameras", "front", "distortion"), [0.0] * 4, "five finite"),
        (("cameras", "front", "distortion"), [float("nan")] * 5, "five finite"),
        (("cameras", "front", "pose"), [0.0] * 7, "quaternion"),
        (("cameras", "front", "name"), "wrist", "filed under 'front'"),
        (("cameras", "front", "colour"), "red", "colour"),
        (("cameras",), 3, "missing or wrong"),
        (("latencies", "camera"), 3.0, "latency 'camera'"),
        (("latencies", "camera"), float("nan"), "latency 'camera'"),
        (("made_on",), "yesterday", "isoformat"),
        (("cameras", "front", "fx"), float("nan"), "must be positive"),
        (("cameras", "front", "standard_errors"), [0.1] * 5, "six small numbers"),
        (("cameras", "front", "standard_errors"), [float("nan")] * 6, "six small numbers"),
        (("cameras", "front", "board_pose"), [0.0] * 7, "board_pose"),
        (("cameras", "front", "calibrated_on"), "today", "isoformat"),
        (("cameras", "front", "views"), -1, "must not be negative"),
        (("latencies", "intervals"), {"network": [0.0, 0.1]}, "no latency"),
        (("latencies", "intervals"), {"camera": [0.2, 0.3]}, "outside its interval"),
        (("latencies", "intervals"), {"camera": 0.1}, "missing or wrong"),
        (("colour",), "red", "unknown field colour"),
    ],
)
def test_wrong_fields_are_named(path: tuple[str, ...], value: Any, message: str) -> None:
    document = copy.deepcopy(calibration().to_document())
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        Calibration.from_document(document)


def test_what_was_measured_beside_the_pose_comes_back() -> None:
    front = replace(
        calibration().cameras["front"],
        residual_mm=0.4,
        standard_errors=(1e-4,) * 6,
        board_pose=np.array([0.1, 0, 0.1, 0, 0, 0, 1]),
        intrinsics_source="estimated",
        calibrated_on=date(2026, 1, 1),
        views=24,
    )
    latencies = Latencies(0.1, 0.0, 0.05, 0.1, intervals={"camera": (0.09, 0.12)})
    made = replace(
        calibration(), cameras={"front": front}, latencies=latencies, board={"columns": 7}
    )
    back = Calibration.from_document(json.loads(json.dumps(made.to_document())))
    assert back.to_document() == made.to_document()
    assert back.cameras["front"].calibrated_on == date(2026, 1, 1)
    assert back.latencies is not None and back.latencies.intervals == {"camera": (0.09, 0.12)}


def test_latencies_may_not_be_measured_yet() -> None:
    made = replace(calibration(), latencies=None)
    assert Calibration.from_document(made.to_document()).latencies is None


@pytest.mark.parametrize("name", ["robot", "made_on", "cameras", "latencies", "schema_version"])
def test_missing_fields_are_named(name: str) -> None:
    document = calibration().to_document()
    del document[name]
    with pytest.raises(ValueError, match=name):
        Calibration.from_document(document)
