"""summary.json and the page: right figures, and a page that opens without an error."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluation.__main__ import main
from evaluation.failures import KINDS, kind_of
from evaluation.latex import render_latex
from evaluation.plan import RunConfig, TrialSpec
from evaluation.report import render_page, report_figures, write_report
from evaluation.results import RunResults
from evaluation.runner import Backend, run
from evaluation.stage_bars import stage_bars
from evaluation.study import Study
from evaluation.summary import main_figures, summarise
from evaluation.trial_log import TrialRecord

MakeRecord = Callable[[TrialSpec], TrialRecord]


@pytest.fixture
def records(plan: list[TrialSpec], make_record: MakeRecord) -> list[TrialRecord]:
    return [make_record(spec) for spec in plan]


@pytest.fixture
def summary(config: RunConfig, records: list[TrialRecord]) -> dict[str, Any]:
    return summarise(config, records, 12.0, {"python": "3"})


def study_of(config: RunConfig, records: Sequence[TrialRecord]) -> Study:
    run = RunResults(Path("nowhere"), config, (), tuple(records), (), None, None, None)
    return Study(config, tuple(records), {}, (run,))


def page_of(
    config: RunConfig, records: Sequence[TrialRecord], embed: Callable[[str], str | None]
) -> str:
    summary, study = summarise(config, records, 0.0, {}), study_of(config, records)
    return render_page(study, summary, report_figures(study, summary), embed, datetime.now())


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
    assert "No trial has finished" in page_of(config, [], lambda _: None)


def test_page_is_self_contained_and_escaped(config: RunConfig, records: list[TrialRecord]) -> None:
    page = page_of(config, records, lambda _: None)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<lifted>" not in page
    assert "&lt;lifted&gt;" in page
    assert "34.4" in page
    HTMLParser().feed(page)


def test_a_missing_film_is_said(config: RunConfig, plan: list[TrialSpec]) -> None:
    record = TrialRecord(
        plan[0].policy, plan[0].task, plan[0].object, 0, plan[0].seed, False, "grasped", "timeout",
        "it slipped", 15.0, 1.0, film="films/gone.jpg",
    )  # fmt: skip
    page = page_of(config, [record], lambda _: None)
    assert "Its film <code>films/gone.jpg</code> is not on this page" in page
    assert "data:image" in page_of(config, [record], lambda _: "data:image/jpeg;base64,xx")


def test_stage_bars_follow_each_other_and_the_round_trip_holds_the_server() -> None:
    times = {
        "picture_to_observation": 40.0, "backbone": 20.0, "head": 10.0, "round_trip": 40.0,
        "arm_queue": 20.0, "picture_to_setpoint": 100.0,
    }  # fmt: skip
    bars = stage_bars({stage: {"median": ms} for stage, ms in times.items()})
    assert [round(bar.start) for bar in bars] == [0, 40, 60, 40, 80, 0]
    assert [round(bar.share) for bar in bars] == [40, 20, 10, 40, 20, 100]
    assert [bar.total for bar in bars] == [False, False, False, True, False, True]


@pytest.fixture
def pair(tmp_path: Path, pair_config: RunConfig, backend: Backend) -> Path:
    """Directory of a whole run of two policies."""
    run(pair_config, tmp_path / "pair", backend, Console(file=io.StringIO()))
    return tmp_path / "pair"


def test_figures_of_a_comparison(pair: Path) -> None:
    figures = json.loads((pair / "report.json").read_text())
    (comparison,) = figures["comparisons"]
    pairs = comparison["pairs"]
    rates = [figures["policies"][name]["success_rate"] for name in ("one", "two")]
    assert (comparison["first"], comparison["second"]) == ("one", "two")
    assert comparison["matched"]
    assert sum(pairs.values()) == 32
    assert comparison["difference"] == pytest.approx(rates[0] - rates[1])
    assert (pairs["only_first"] - pairs["only_second"]) / 32 == comparison["difference"]
    assert comparison["pooled"]["difference"] == pytest.approx(comparison["difference"])
    assert comparison["p_value"] == comparison["p_holm"] < 0.05
    cells = [*comparison["per_task"].values(), *comparison["per_object"].values()]
    assert len(cells) == 8
    assert all(cell["p_holm"] >= cell["p_value"] for cell in cells)
    failed = sum(figures["failures"]["two"].values())
    assert failed == 32 - figures["policies"]["two"]["successes"]
    assert figures["protocol"]["runs"][0]["commitment_holds"]


def test_page_of_a_comparison(pair: Path) -> None:
    page = (pair / "report.html").read_text()
    assert "one is better" in page
    assert page.count("<polyline") == 2
    assert page.count("<figure") == 10
    assert "Starts on which a policy failed" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))


def test_report_can_be_written_again(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (pair / "summary.json").read_bytes()
    (pair / "report.html").unlink()
    assert main(["report", str(pair)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["comparisons"][0]["first"] == "one"
    assert (pair / "report.html").exists()
    assert (pair / "summary.json").read_bytes() == before


def test_runs_are_compared(
    tmp_path: Path, pair: Path, pair_config: RunConfig, backend: Backend,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    alone = RunConfig(pair_config.policies[:1], "fast", trials=3, seed=900)
    run(alone, tmp_path / "alone", backend, Console(file=io.StringIO()))
    out = tmp_path / "compare"
    assert main(["compare", str(pair), str(tmp_path / "alone"), "--out", str(out)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(line["policies"]) == ["pair/one", "two", "alone/one"]
    tests = {(c["first"], c["second"]): c["test"] for c in line["comparisons"]}
    assert tests == {
        ("pair/one", "two"): "McNemar, exact",
        ("pair/one", "alone/one"): "Barnard, exact",
        ("two", "alone/one"): "Barnard, exact",
    }
    page = (out / "report.html").read_text()
    assert "did not meet the same starts" in page
    assert "These runs differ in more than their policies" in page


@pytest.mark.parametrize("arguments", [["report", "DIR"], ["compare", "DIR", "DIR"]])
def test_a_directory_without_a_run(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")] if arguments[0] == "compare" else []
    assert main([a.replace("DIR", str(tmp_path)) for a in arguments] + out) == 2
    assert "not the directory of a run" in capsys.readouterr().err.replace("\n", " ")


def test_latex_escapes_names_and_has_every_number(
    config: RunConfig, records: list[TrialRecord], summary: dict[str, Any]
) -> None:
    summary["policies"] = {"50%_of & all": summary["policies"]["scripted"]}
    text = render_latex(summary, [])
    assert r"50\%\_of \& all & " in text
    assert "34.4" in text
    row = next(line for line in text.splitlines() if "all & " in line)
    assert row.count(" & ") == len(config.tasks) + 1


def test_every_failure_has_a_kind(records: list[TrialRecord]) -> None:
    kinds = [kind_of(record) for record in records]
    assert all((kind is None) == r.success for kind, r in zip(kinds, records, strict=True))
    assert set(kinds) == {None, "slipped"}
    for reason in ("policy_error", "wrong_object", "operator_stop", "arm_error", "operator"):
        record = TrialRecord("p", "t", "o", 0, 0, False, "moved", reason, "", 1.0, 1.0)
        assert kind_of(record) in KINDS
    assert kind_of(record) == "not released"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_opens_in_a_browser(
    tmp_path: Path, config: RunConfig, summary: dict[str, Any], records: list[TrialRecord]
) -> None:
    page = write_report(tmp_path, study_of(config, records), summary)
    result = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--enable-logging=stderr", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Every trial" in result.stdout
    assert "CONSOLE" not in result.stderr
