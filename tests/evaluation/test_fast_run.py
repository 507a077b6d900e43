"""Whole runs on the fast simulation: resumed, with more workers, and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RUN = [sys.executable, "-m", "evaluation", "run", "--policy", "scripted", "--seed", "21"]
PAIR = ["--task", "box_to_bowl", "--task", "plate_to_basket", "--object", "cup"]
TIME_LIMIT_S = 200


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments], capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
    )


def results(directory: Path) -> tuple[dict[str, Any], dict[tuple[str, str, int], Any]]:
    """Summary without the clock, and the outcome of every trial."""
    summary = json.loads((directory / "summary.json").read_text())
    del summary["wall_seconds"]
    records = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()]
    outcomes = {
        (r["task"], r["object"], r["trial"]): (r["success"], r["stage"], r["duration_s"])
        for r in records
    }
    assert len(outcomes) == len(records)
    return summary, outcomes


@pytest.mark.slow
def test_killed_and_resumed_run_equals_an_undisturbed_one(tmp_path: Path) -> None:
    """Also: one worker or two, the outcomes are the same."""
    arguments = [*PAIR, "--trials", "2", "--film", "none"]
    whole = run(*arguments, "--workers", "1", "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    last = json.loads(whole.stdout.splitlines()[-1])
    assert last["trials"] == 4

    directory = tmp_path / "killed"
    command = [*RUN, *arguments, "--workers", "2", "--out", str(directory)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        log = directory / "trials.jsonl"
        deadline = time.monotonic() + TIME_LIMIT_S
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert not (directory / "summary.json").exists()
    wait_for_group_to_end(process.pid)
    resumed = run(*arguments, "--workers", "2", "--out", str(directory))
    assert resumed.returncode == 0, resumed.stderr
    assert "of 4 trials are already there" in resumed.stderr
    assert results(directory) == results(tmp_path / "whole")

    refused = run(*PAIR, "--trials", "3", "--film", "none", "--out", str(directory))
    assert refused.returncode == 2
    assert "another 'trials' (2, not 3)" in refused.stderr


def wait_for_group_to_end(group: int) -> None:
    """The workers of a killed run end by themselves."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers outlived their parent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--policy", "scripted", "--task", "fly"], "unknown task 'fly'; known tasks"),
        (["run", "--policy", "scripted", "--object", "duck"], "unknown object 'duck'; known"),
        (["run", "--policy", "nowhere"], "unknown bundle 'nowhere'"),
        (["run", "--policy", "scripted", "--trials", "0"], "at least 1, got 0"),
        (["run", "--policy", "scripted", "--policy", "scripted"], "given twice"),
        (["run", "--policy", "scripted", "--backend", "live"], "use --backend fast"),
        (["run", "--policy", "scripted", "--sequential"], "compares two policies, not 1"),
        (["run"], "not the directory of a run"),
        (["plan", "--policy", "scripted", "--backend", "real"], "use --backend fast"),
        (["demo", "--bundle", "nowhere"], "unknown bundle 'nowhere'"),
    ],
)
def test_bad_input_is_one_message_and_nothing_started(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from evaluation.__main__ import main

    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error
    assert not out.exists()


def test_missing_opengl_library_is_said_before_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import ctypes.util

    from evaluation.__main__ import main

    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    assert main(["run", "--policy", "scripted", "--out", str(tmp_path / "out")]) == 2
    assert "is missing" in (error := capsys.readouterr().err)
    assert "apt-get install" in error
    assert not (tmp_path / "out").exists()
