"""Calibration: its document form and what it refuses."""

from __future__ import annotations

import copy
import json
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


@pytest.mark.parametrize("name", ["robot", "made_on", "cameras", "latencies", "schema_version"])
def test_missing_fields_are_named(name: str) -> None:
    document = calibration().to_document()
    del document[name]
    with pytest.raises(ValueError, match=name):
        Calibration.from_document(document)
