"""summary.json and the page: right figures, and a page that opens without an error."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evaluation.plan import RunConfig, TrialSpec
from evaluation.report import render_page, stage_bars, write_report
from evaluation.summary import main_figures, summarise
from evaluation.trial_log import TrialRecord

MakeRecord = Callable[[TrialSpec], TrialRecord]


@pytest.fixture
def records(plan: list[TrialSpec], make_record: MakeRecord) -> list[TrialRecord]:
    return [make_record(spec) for spec in plan]


@pytest.fixture
def summary(config: RunConfig, records: list[TrialRecord]) -> dict[str, Any]:
    return summarise(config, records, 12.0, {"python": "3"})


def test_summary_counts(summary: dict[str, Any]) -> None:
    assert (summary["trials"], summary["successes"]) == (32, 11)
    assert summary["success_rate"] == 11 / 32
    assert summary["complete"]
    assert sum(cell["trials"] for cell in summary["per_task"].values()) == 32
    assert sum(cell["successes"] for cell in summary["per_object"].values()) == 11
    assert summary["per_stage"] == {
        "reached": 32, "grasped": 32, "lifted": 11, "moved": 11, "placed": 11, "success": 11
    }  # fmt: skip
    assert summary["inference_ms"]["median"] == 15.0
    assert summary["config"]["seed"] == 7
    assert main_figures(summary)["success_rate"] == summary["success_rate"]


def test_summary_does_not_depend_on_the_order(
    config: RunConfig, records: list[TrialRecord], summary: dict[str, Any]
) -> None:
    assert summarise(config, records[::-1], 12.0, {"python": "3"}) == summary


def test_empty_run_has_no_rate(config: RunConfig) -> None:
    summary = summarise(config, [], 0.0, {})
    assert summary["success_rate"] is None
    assert not summary["complete"]
    assert "No trial has finished" in render_page(summary, [], lambda _: None, datetime.now())


def test_page_is_self_contained_and_escaped(
    summary: dict[str, Any], records: list[TrialRecord]
) -> None:
    page = render_page(summary, records, lambda _: None, datetime.now())
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<lifted>" not in page
    assert "&lt;lifted&gt;" in page
    assert "34.4" in page
    HTMLParser().feed(page)


def test_stage_bars_follow_each_other_and_the_round_trip_holds_the_server() -> None:
    times = {
        "picture_to_observation": 40.0, "backbone": 20.0, "head": 10.0, "round_trip": 40.0,
        "arm_queue": 20.0, "picture_to_setpoint": 100.0,
    }  # fmt: skip
    bars = stage_bars({stage: {"median": ms} for stage, ms in times.items()})
    assert [round(bar.start) for bar in bars] == [0, 40, 60, 40, 80, 0]
    assert [round(bar.share) for bar in bars] == [40, 20, 10, 40, 20, 100]
    assert [bar.total for bar in bars] == [False, False, False, True, False, True]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_opens_in_a_browser(
    tmp_path: Path, summary: dict[str, Any], records: list[TrialRecord]
) -> None:
    page = write_report(tmp_path, summary, records)
    result = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--enable-logging=stderr", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Every trial" in result.stdout
    assert "CONSOLE" not in result.stderr
