"""The fast backend records what the simulation did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_episodes import header

import simulation  # noqa: F401  chooses MuJoCo's renderer, which must precede MuJoCo's import
from contracts import episode as layout
from contracts import geometry
from contracts.kinematics import pose_error
from contracts.robot import FR3
from simulation.fast import CONTROL_PERIOD, FastSimulation
from simulation.placement import sample_placement
from teleop.dataset import DemonstrationDataset
from teleop.devices.device import DeviceCommand
from teleop.devices.scripted import ScriptedDevice
from teleop.fast_backend import FastBackend, calibration_of
from teleop.recorder import EpisodeWriter

SIZE = 64


@pytest.fixture(scope="module")
def drawn() -> FastSimulation:
    return FastSimulation(SIZE)


class StepAside:
    """A device that asks for a jump out of the workspace and lets go halfway."""

    name, phase = "made", "aside"

    def begin(self) -> None:
        self.calls = 0

    def command(self, commanded: np.ndarray, opening: float) -> DeviceCommand:
        self.calls += 1
        pose = np.concatenate([[0.5, 0.9, 0.3], commanded[3:]])
        return DeviceCommand(pose, 1.0, engaged=self.calls <= 25)

    @property
    def finished(self) -> bool:
        return self.calls == 50


def test_recorded_setpoints_are_those_the_arm_was_given(
    drawn: FastSimulation, tmp_path: Path
) -> None:
    device = ScriptedDevice(drawn, disturbed=1.0, seed=1)
    backend = FastBackend(drawn, device, SIZE)
    backend.home(sample_placement("box_to_bowl", "cup", 3))
    controls, advance = [], drawn.advance

    def watched(pose: np.ndarray, gripper: float) -> None:
        advance(pose, gripper)
        controls.append(drawn.data.ctrl[:7].copy())

    drawn.advance = watched  # type: ignore[method-assign]
    try:
        with EpisodeWriter(tmp_path, header(cameras=backend.cameras)) as writer:
            writer.commit(backend.perform(writer))
    finally:
        del drawn.advance
    (episode,) = DemonstrationDataset(tmp_path, labels=("success", "failure"))
    setpoints = episode.filtered["joint_positions"]
    velocity = np.diff(setpoints, axis=0) / CONTROL_PERIOD
    expected = setpoints[1:] + velocity * FR3.joint_damping / FR3.joint_stiffness
    assert np.allclose(np.array(controls)[1:], expected, atol=1e-9)


def test_a_released_deadman_holds_and_the_filter_says_what_it_changed(
    drawn: FastSimulation, tmp_path: Path
) -> None:
    backend = FastBackend(drawn, StepAside(), SIZE)
    backend.home(sample_placement("box_to_bowl", "cup", 3))
    with EpisodeWriter(tmp_path, header(cameras=backend.cameras)) as writer:
        outcome = backend.perform(writer)
        writer.commit(outcome)
    (episode,) = DemonstrationDataset(tmp_path, labels=("failure",))
    assert outcome.label == "failure" and outcome.note.startswith("stage")
    assert episode.commands["pose"][0, 1] == 0.9
    assert episode.filtered["pose"][:, 1].max() < FR3.workspace_upper[1] + 0.01
    assert episode.filtered["limited"][:25].all()
    assert episode.commands["engaged"][:25].all()
    assert not episode.commands["engaged"][25:50].any()


def test_the_calibration_puts_a_known_point_where_the_camera_sees_it(
    drawn: FastSimulation,
) -> None:
    """The bowl, which is taken away, in the front picture; the wrist camera moves along."""
    drawn.reset(sample_placement("box_to_bowl", "cup", 3))
    found = calibration_of(drawn, SIZE).cameras
    camera = found["front"]
    at = drawn.placement.containers["bowl"] if drawn.placement else None
    assert at is not None
    local = geometry.to_matrix(camera.pose[3:]).T @ (np.array([at.x, at.y, at.z]) - camera.pose[:3])
    u = camera.fx * local[0] / local[2] + camera.cx
    v = camera.fy * local[1] / local[2] + camera.cy
    with_bowl = drawn.images()["front"].astype(int)
    drawn.data.mocap_pos[drawn.model.body("container_bowl").mocapid[0], 2] = -2.0
    changed = np.abs(with_bowl - drawn.images()["front"]).max(axis=2) > 25
    rows, columns = np.nonzero(changed)
    assert abs(columns.mean() - u) < 3.0 and abs(rows.mean() - v) < 3.0
    drawn.reset(sample_placement("box_to_plate", "box", 8))
    wrist = calibration_of(drawn, SIZE).cameras["wrist"]
    assert wrist.frame == "hand"
    # The simulated arm is not where kinematics puts it to the last tenth of a millimetre.
    assert np.abs(pose_error(wrist.pose, found["wrist"].pose)).max() < 2e-3


def test_states_are_at_the_simulations_rate(drawn: FastSimulation, tmp_path: Path) -> None:
    backend = FastBackend(drawn, StepAside(), SIZE)
    backend.home(sample_placement("box_to_bowl", "cup", 4))
    with EpisodeWriter(tmp_path, header(cameras=backend.cameras)) as writer:
        writer.commit(backend.perform(writer))
    (episode,) = DemonstrationDataset(tmp_path, labels=("failure",))
    assert np.allclose(np.diff(episode.state_times), 1 / backend.state_rate, atol=1e-6)
    pictures = episode.pictures("wrist").stamps
    assert np.allclose(np.diff(pictures), 1 / backend.camera_rate, atol=1e-6)
    assert episode.log_times(layout.ROBOT_STATE.topic) == pytest.approx(episode.state_times)
