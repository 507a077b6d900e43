"""The accuracy gate: what passes, what fails, and that a failing engine does not serve."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from server_process import ROOT
from tiny_bundle import save_bundle

from contracts import bundle, geometry
from contracts.bundle import BundleError, Normalisation
from policy_server import verify
from policy_server.engines import open_engine
from policy_server.policy import Policy


def rewrite_reference(directory: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change the reference and sign the bundle again: as if another engine had answered."""
    manifest = bundle.read_manifest(directory)
    with np.load(directory / bundle.REFERENCE) as file:
        content = dict(file)
    change(content)
    np.savez(directory / bundle.REFERENCE, **content)
    bundle.write_manifest(directory, manifest)


def check(directory: Path) -> verify.Accuracy:
    manifest = bundle.read_manifest(directory)
    return verify.check(directory, open_engine("onnxruntime", directory), manifest)


@pytest.mark.parametrize("continues", [False, True])
def test_the_engine_that_made_the_reference_passes(tmp_path: Path, continues: bool) -> None:
    accuracy = check(save_bundle(tmp_path, continues=continues))
    assert accuracy.faults == []
    assert accuracy.cosine > 0.999999
    assert max(accuracy.position_mm, accuracy.rotation_deg, accuracy.gripper) < 1e-3


def turn_one_token(content: dict[str, np.ndarray]) -> None:
    content["backbone_out_hidden"][1, 3] += 10.0


def move_one_waypoint(content: dict[str, np.ndarray]) -> None:
    content["head_out_actions"][0, 2, 0] += 0.2


def turn_one_waypoint(content: dict[str, np.ndarray]) -> None:
    content["head_out_actions"][1, 0, 5] += 0.2


def open_the_gripper(content: dict[str, np.ndarray]) -> None:
    content["head_out_actions"][1, 4, 6] += 0.2


def lose_a_value(content: dict[str, np.ndarray]) -> None:
    content["head_out_actions"][0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (turn_one_token, "cosine"),
        (move_one_waypoint, "position"),
        (turn_one_waypoint, "rotation"),
        (open_the_gripper, "gripper"),
        (lose_a_value, "position"),
    ],
)
def test_one_wrong_value_fails_the_gate_and_does_not_serve(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None], fault: str
) -> None:
    directory = save_bundle(tmp_path)
    rewrite_reference(directory, change)
    assert [fault in text for text in check(directory).faults] == [True]
    with pytest.raises(BundleError, match=f"does not serve: {fault}"):
        Policy.load(directory)


def test_padding_does_not_count(tmp_path: Path) -> None:
    """Hidden states of masked tokens are nobody's business."""

    def spoil_padding(content: dict[str, np.ndarray]) -> None:
        content["backbone_in_attention_mask"][0, :2] = 0
        content["head_in_mask"][0, :2] = 0
        content["backbone_out_hidden"][0, :2] = 7.0

    directory = save_bundle(tmp_path)
    rewrite_reference(directory, spoil_padding)
    assert check(directory).cosine > 0.999


def test_a_bundle_without_a_reference_does_not_serve(tmp_path: Path) -> None:
    directory = save_bundle(tmp_path)
    manifest = bundle.read_manifest(directory)
    (directory / bundle.REFERENCE).unlink()
    bundle.write_manifest(directory, manifest)
    with pytest.raises(BundleError, match="no engine can be checked"):
        Policy.load(directory)


def test_a_reference_of_something_else_is_refused(tmp_path: Path) -> None:
    directory = save_bundle(tmp_path)
    rewrite_reference(directory, lambda content: content.pop("head_in_noise"))
    with pytest.raises(BundleError, match="not the reference of this bundle"):
        Policy.load(directory)


def test_errors_are_in_millimetres_and_degrees() -> None:
    statistics = Normalisation((-0.5,) * 7, (0.5,) * 7)
    wanted = np.zeros((1, 2, 7), np.float32)
    wanted[0, 1, 3:6] = 0.3
    actions = wanted.copy()
    actions[0, 0, :2] = 0.006, 0.008  # normalised: half of it in metres
    turn = geometry.from_rotation_vector(np.array([0.0, 0.0, np.deg2rad(3.0)]))
    before = geometry.from_rotation_vector(np.full(3, 0.15))
    actions[0, 1, 3:6] = 2 * geometry.to_rotation_vector(geometry.multiply(turn, before))
    actions[0, 0, 6] = 0.1
    position, rotation, gripper = verify.action_errors(actions, wanted, statistics)
    assert position == pytest.approx(5.0, abs=1e-3)
    assert rotation == pytest.approx(3.0, abs=1e-3)
    assert gripper == pytest.approx(0.05, abs=1e-6)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "policy_server.verify", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_ends_with_one_line_of_json(tmp_path: Path) -> None:
    directory = save_bundle(tmp_path)
    passed = run(str(directory), "--engine", "onnxruntime")
    assert passed.returncode == 0, passed.stderr
    result = json.loads(passed.stdout.splitlines()[-1])
    assert result["passed"] is True and result["cosine"] > 0.999
    rewrite_reference(directory, move_one_waypoint)
    failed = run(str(directory))
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["passed"] is False
    missing = run(str(directory), "--engine", "tensorrt")
    assert missing.returncode == 2 and "server-gpu" in missing.stderr


def test_the_closed_loop_asks_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation's command, engine and log; the trials themselves are its own tests' matter."""
    asked = {}

    def evaluate(command, *, env, **_):
        asked.update(command=command, engine=env["ROBOALIGN_ENGINE"])
        out = Path(command[command.index("--out") + 1])
        lines = [{"success": True}, {"success": False}, {"success": True}]
        (out / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", evaluate)
    assert verify.closed_loop(tmp_path, "tensorrt", 3) == {"trials": 3, "successes": 2}
    assert asked["engine"] == "tensorrt"
    assert asked["command"][1:4] == ["-m", "evaluation", "run"]
    from evaluation.__main__ import _parser

    options = _parser().parse_args(asked["command"][3:])
    assert options.policy == [str(tmp_path)] and options.trials == 3
