"""The bench counts what a killed recorder loses, and what it reads is what LeRobot would read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_episodes import make_dataset

from teleop import bench
from teleop.dataset import DemonstrationDataset


@pytest.mark.slow
def test_killed_at_random_moments_nothing_committed_is_lost(made: Path) -> None:
    command = [sys.executable, "-m", "teleop.bench", "--json", "--kills", "4", "--items", "20"]
    done = subprocess.run(
        [*command, "--dataset", str(made)], capture_output=True, text=True, timeout=250, check=True
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] == 4 and figures["episodes_lost"] == 0
    assert figures["parts_left"] <= 4 and figures["read_ms"] > 0.0
    assert figures["read_speedup_vs_lerobot"] is None


def test_a_reader_that_cannot_run_is_one_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", str(made), "--kills", "0", "--items", "2"]
    assert bench.main([*arguments, "--lerobot-python", str(tmp_path / "nowhere")]) == 1
    assert "did not run" in (error := capsys.readouterr().err) and "Traceback" not in error


def test_a_reader_that_reads_other_steps_is_found_out(tmp_path: Path) -> None:
    dataset = DemonstrationDataset(make_dataset(tmp_path / "demos", episodes=1, seconds=0.5))
    places = [(0, 0.1 * i) for i in range(5)]
    pose = dataset[0].states_at([0.3])["pose"][0].tolist()
    item = {"observation.state.cartesian_position": [*pose[:3], 0.0, 0.0, 0.0]}
    bench._compare(dataset, places, [3], {"frames": 5, "items": [item]})
    for frames, index in ((5, 1), (4, 3)):
        with pytest.raises(bench.BenchFailed):
            bench._compare(dataset, places, [index], {"frames": frames, "items": [item]})
