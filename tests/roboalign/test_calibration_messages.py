"""A calibration as ROS tells it: the right file, the right scale, the right frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from contracts.calibration import Calibration, CameraCalibration
from roboalign.calibration_messages import (
    camera_info,
    camera_of,
    camera_transform,
    load_calibration,
    scaled,
)
from roboalign.graph import SIM_CALIBRATION, GraphArguments, build_graph
from simulation.cameras import CAMERAS
from simulation.realsense_device import SimulatedRealSense


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return load_calibration(SIM_CALIBRATION)


@pytest.mark.parametrize("name", CAMERAS)
def test_the_simulations_file_is_true_for_its_pictures(calibration: Calibration, name: str) -> None:
    truth = SimulatedRealSense(name, "x", 320, 240, 15).intrinsics()
    info = camera_info(camera_of(calibration, name, CAMERAS[name].serial, 320, 240))
    assert (info.width, info.height) == (320, 240)
    assert info.k.tolist() == pytest.approx(
        [truth.fx, 0.0, truth.cx, 0.0, truth.fy, truth.cy, 0.0, 0.0, 1.0]
    )
    assert list(info.d) == [0.0] * 5


def pixel(camera: CameraCalibration, point: tuple[float, float, float]) -> np.ndarray:
    x, y, z = point
    return np.array([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_scaled_camera_shows_a_point_at_the_same_place(
    calibration: Calibration, factor: int
) -> None:
    whole = calibration.cameras["front"]
    half = scaled(whole, whole.width // factor, whole.height // factor)
    for point in ((0.1, 0.05, 0.9), (-0.2, 0.1, 1.1), (0.0, 0.0, 1.0)):
        # Places in the picture are counted from the edge of its first pixel.
        np.testing.assert_allclose(
            (pixel(half, point) + 0.5) * factor, pixel(whole, point) + 0.5, atol=1e-9
        )


def test_another_shape_of_picture_is_refused(calibration: Calibration) -> None:
    with pytest.raises(ValueError, match="another part of its sensor"):
        camera_of(calibration, "front", "", 1280, 720)


def test_another_camera_is_refused(calibration: Calibration) -> None:
    with pytest.raises(ValueError, match=r"serial number 834412070001, this one has 77"):
        camera_of(calibration, "front", "77", 640, 480)
    with pytest.raises(ValueError, match="no camera 'rear', only front, wrist"):
        camera_of(calibration, "rear", "", 640, 480)


@pytest.mark.parametrize(("name", "parent"), [("front", "fr3_link0"), ("wrist", "fr3_hand")])
def test_the_transform_leads_from_the_mount_to_the_optical_frame(
    calibration: Calibration, name: str, parent: str
) -> None:
    camera = calibration.cameras[name]
    message = camera_transform(camera, f"{name}_color_optical_frame", "fr3")
    assert (message.header.frame_id, message.child_frame_id) == (
        parent, f"{name}_color_optical_frame",
    )  # fmt: skip
    place, turn = message.transform.translation, message.transform.rotation
    np.testing.assert_array_equal(
        [place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w], camera.pose
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("cameras: [", "calibration.yaml"),
        ("just text", "calibration.yaml"),
        ("robot: fr3", "calibration.yaml"),
    ],
)
def test_a_file_that_is_none_is_named(content: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=why):
        load_calibration(path)


def calibration_parameters(arguments: GraphArguments) -> list[str]:
    return [
        str(process.parameters["calibration"])
        for process in build_graph(arguments).processes
        if process.executable == "camera_node"
    ]


def test_the_graph_gives_cameras_their_calibration() -> None:
    assert calibration_parameters(GraphArguments(sim=True)) == [str(SIM_CALIBRATION)] * 2
    assert calibration_parameters(GraphArguments(robot_ip="172.16.0.2")) == ["", ""]
    own = GraphArguments(robot_ip="172.16.0.2", calibration="lab.yaml")
    assert calibration_parameters(own) == ["lab.yaml"] * 2
    # The simulation's file is for its own profile; another may show another part of the picture.
    assert calibration_parameters(GraphArguments(sim=True, color_profile="424x240x15")) == ["", ""]


def test_a_written_calibration_is_read_again(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump(replace(calibration, robot="fr3").to_document()))
    assert load_calibration(path).robot == "fr3"
