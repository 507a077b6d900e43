"""The lab study: its plan, its guards, and one that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from training import lab, lab_plan
from training.lab_arms import ARMS
from training.lab_sizes import SIZES


@pytest.mark.parametrize("name", SIZES)
def test_no_stage_waits_for_one_that_never_comes(name: str) -> None:
    stages = lab_plan.stages(SIZES[name])
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    done: set[str] = set()
    while len(done) < len(stages):
        ready = [s.name for s in stages if s.name not in done and done >= set(s.after)]
        assert ready, f"stuck with {sorted(set(names) - done)}"
        done.update(ready)
    assert {f"trials:{arm}:0" for arm in ARMS} <= done


def test_a_study_does_not_change_its_size(tmp_path: Path) -> None:
    lab.check_config(tmp_path, SIZES["smoke"])
    lab.check_config(tmp_path, SIZES["smoke"])
    with pytest.raises(lab.StudyError, match="sft_steps"):
        lab.check_config(tmp_path, replace(SIZES["smoke"], sft_steps=77))


def test_a_stage_that_fails_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(out: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(lab_plan, "stages", lambda _: [lab_plan.Stage("scenes", broken)])
    with pytest.raises(OSError, match="disk full"):
        lab.run_stage(tmp_path, SIZES["smoke"], "scenes")
    assert not lab.is_done(tmp_path, "scenes")


def study(out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.lab", "--smoke", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_smallest_study_runs_from_data_to_page(tmp_path: Path) -> None:
    finished = study(tmp_path)
    logs = "".join(
        f"{path.name}: {path.read_text(errors='replace')[-1500:]}\n"
        for path in sorted((tmp_path / "logs").glob("*.log"))
        if f"{path.stem}.json" not in {p.name for p in (tmp_path / "stages").glob("*.json")}
    )
    assert finished.returncode == 0, finished.stderr[-3000:] + logs
    assert (tmp_path / "report.html").stat().st_size > 20_000
    content = json.loads((tmp_path / "study.json").read_text())
    arms = {arm["key"]: arm for arm in content["arms"]}
    assert set(arms) == {key for key, arm in ARMS.items() if arm.group != "ladder"}
    for key, arm in arms.items():
        assert arm["trials"] and arm["readout"], key
        assert arm["skills"] or key == "random"
        assert arm["knn"] or arm["group"] == "alternative"
    assert {rung["key"] for rung in content["ladder"] if rung["trials"]} == {
        "state", "end_to_end", "grounded", "release",
    }  # fmt: skip
    assert len(content["comparisons"]) == 4
    assert all(content["curves"].values())
    assert content["responses"] and content["fast"]
    assert max(stage["peak_gb"] for stage in content["stages"]) < 6.0
    # Nothing is left to do: the same command only writes the page again.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stages").glob("*.json")}
    assert study(tmp_path).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
