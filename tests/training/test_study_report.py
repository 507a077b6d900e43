"""The study's page: every figure as given, what is missing said, and what contradicts refused."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.task import OBJECTS, TASKS
from training import paper_figures
from training.study_charts import HEIGHT, WIDTH, heads_charts, stage_charts, ticks
from training.study_report import ALTERNATIVES, LADDER, MAIN, write
from training.study_schema import StudyError, read_study, unknown_fields

LITTLE: dict[str, Any] = {"size": "smoke", "command": "python -m training.lab --smoke"}
VOID = {"meta", "link", "img", "br", "line", "circle", "rect", "polyline"}


def arm(number: int, key: str, label: str) -> dict[str, Any]:
    """Another success for each task, object and seed, so that no two figures are the same."""
    per_task = [10 * number + i + 1 for i in range(4)]
    total = sum(per_task)
    halves = [total // 2, total - total // 2]
    return {
        "key": key, "label": label, "group": "main" if key in MAIN else "alternative",
        "what": f"what {key} is <b>", "successes": total, "trials": 384,
        "interval": [total / 384 - 0.01 * (total > 4), total / 384 + 0.0123],
        "tasks": {t: {"successes": k, "trials": 96} for t, k in zip(TASKS, per_task, strict=True)},
        "objects": {o: {"successes": k, "trials": 96}
                    for o, k in zip(OBJECTS, per_task, strict=True)},
        "seeds": [{"seed": i, "successes": k, "trials": 192} for i, k in enumerate(halves)],
        "readout": {"object_mm": 3.21 + number}, "skills": {"pointing": 0.125 + number / 100},
        "knn": {"accuracy": 0.3 + number / 100, "interval": [0.25, 0.75], "chance": 0.054},
        "command": f"python -m evaluation run --policy {key}",
    }  # fmt: skip


@pytest.fixture
def full() -> dict[str, Any]:
    labels = MAIN | ALTERNATIVES
    rows = [{"step": i, "loss": 1.0 / (i + 1), "reward": 0.1 * i, "note": "text"} for i in range(9)]
    heads = [{"step": i, "train": 2.0, "held_out": 3.0 + i, "action_mm": None} for i in range(5)]
    return LITTLE | {
        "started": "2026-11-25T16:00:00+00:00", "finished": "2026-11-26T06:00:00+00:00",
        "commit": "abc1234", "machine": {"cpu": "a CPU", "cores": 2}, "seeds": [0, 1],
        "deviations": ["four actions & one token"],
        "fast": {"chunks": 12034, "position_rms_mm": 1.021, "gripper_agreement": 0.9991},
        "ladder": [
            {"key": key, "label": label, "what": f"step {key}", "successes": 300 + i, "trials": 384,
             "interval": [0.7, 0.9], "held_out": {"action_mm": 4.56}, "command": f"climb {key}"}
            for i, (key, label) in enumerate(LADDER.items())
        ],
        "arms": [arm(i, key, label) for i, (key, label) in enumerate(labels.items())],
        "comparisons": [
            {"a": "sft_rl", "b": "sft", "difference": -0.0432, "interval": [-0.09, 0.01], "p": 0.07}
        ],
        "curves": {"base": rows, "sft": rows, "grpo": rows, "heads": {"sft": heads, "base": heads}},
        "responses": [
            {"instruction": "move it", "truth": "<ACTION_START>", "before": "<think>a</think>",
             "after": "<think>b</think>", "reward_before": 0.5, "reward_after": 0.75}
        ] * 6,
        "failures": [
            {"arm": "sft", "task": "box_to_bowl", "object": "cup", "reason": "dropped",
             "film": "films/a b.jpg"},
            {"arm": "sft", "task": "box_to_bowl", "object": "cup", "reason": "gone",
             "film": "films/gone.jpg"},
        ],
        "stages": [
            {"name": "model:sft", "seconds": 5400.0, "peak_gb": 4.44, "command": "train it"},
            {"name": "head:sft:0", "seconds": 600.0, "command": "head it"},
            {"name": "head:sft:1", "seconds": 660.0, "peak_gb": 2.0},
            {"name": "fast", "seconds": 44.0},
        ],
    }  # fmt: skip


class Page(HTMLParser):
    """Checks that tags nest, and keeps the text and the pictures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.pictures: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag}: an attribute twice: {names}"
        self.pictures += [value for name, value in attrs if name == "src" and value]
        # HTML lets a paragraph, a row and a cell stay open; this page closes them all.
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)


def rendered(study: dict[str, Any], folder: Path) -> Page:
    return Page(write(study, folder).read_text(encoding="utf-8"))


def test_every_figure_of_the_tables_is_shown_as_given(full: dict[str, Any], tmp_path: Path) -> None:
    text = rendered(full, tmp_path).text
    for a in full["arms"]:
        assert f"{100 * a['successes'] / 384:.1f}" in text
        assert f"{a['successes']}/384 · " in text
        assert f"{100 * a['interval'][0]:.1f}–{100 * a['interval'][1]:.1f}" in text
        for task in a["tasks"].values():
            assert f"{100 * task['successes'] / 96:.1f} {task['successes']}/96" in text
        for seed in a["seeds"]:
            assert f"seed {seed['seed']}: {100 * seed['successes'] / 192:.1f}" in text
        assert f"{100 * a['knn']['accuracy']:.2f}" in text
        assert f"{a['skills']['pointing']:.4g}" in text
        assert f"{a['readout']['object_mm']:.4g}" in text
        assert a["command"] in text
    for rung in full["ladder"]:
        assert f"{100 * rung['successes'] / 384:.1f} 70.0–90.0" in text
        assert rung["command"] in text
    for figure in ("−4.3", "−9.0 to +1.0", "0.07", "12034", "1.021", "0.9991", "4.56", "4.4 GB"):
        assert figure in text
    assert "not run" not in text


def test_stages_of_one_kind_share_a_bar(full: dict[str, Any], tmp_path: Path) -> None:
    text = rendered(full, tmp_path).text
    assert re.search(r"head × 2 21\.0 min · 2\.0 GB", text)
    assert re.search(r"model sft 1\.5 h · 4\.4 GB", text)
    # The commands that wrote the curves stand below them too.
    assert text.count("train it") == text.count("head it") == 2


def test_the_paper_s_figures_stand_beside_ours(full: dict[str, Any], tmp_path: Path) -> None:
    text = rendered(full, tmp_path).text
    for row in paper_figures.TABLE_4.values():
        assert all(f"paper {figure}" in text for figure in row)
    for table in (paper_figures.TABLE_4_AVERAGE, paper_figures.TABLE_9):
        assert all(f"paper {figure}" in text for figure in table.values())
    for table in (
        paper_figures.TABLE_2_AVERAGE,
        paper_figures.TABLE_6_AVERAGE,
        paper_figures.TABLE_7_AVERAGE,
    ):
        assert all(str(figure) in text for figure in table.values())


def test_averages_of_the_paper_are_those_of_its_tasks() -> None:
    for key, row in paper_figures.TABLE_4.items():
        assert paper_figures.TABLE_4_AVERAGE[key] == pytest.approx(sum(row) / 4, abs=0.051)


def test_a_study_with_nearly_nothing_says_what_was_not_run(tmp_path: Path) -> None:
    text = rendered(LITTLE, tmp_path).text
    for label in (*MAIN.values(), *ALTERNATIVES.values(), *LADDER.values()):
        assert re.search(rf"{re.escape(label)}[^.]*?not run", text), label
    assert "This study is not finished" in text
    assert "Comparisons: not run" in text
    # Only the paper's figures are there.
    known = {str(v) for t in (paper_figures.TABLE_4_AVERAGE, paper_figures.TABLE_9,
                              paper_figures.TABLE_2_AVERAGE, paper_figures.TABLE_6_AVERAGE,
                              paper_figures.TABLE_7_AVERAGE) for v in t.values()}  # fmt: skip
    assert set(re.findall(r"\d+\.\d+", text)) <= known


@pytest.mark.parametrize("key", [*MAIN, *ALTERNATIVES])
def test_a_missing_arm_says_not_run(key: str, full: dict[str, Any], tmp_path: Path) -> None:
    full["arms"] = [a for a in full["arms"] if a["key"] != key]
    text = rendered(full, tmp_path).text
    assert re.search(rf"{re.escape((MAIN | ALTERNATIVES)[key])} not run", text)


def test_an_arm_without_trials_says_not_run(full: dict[str, Any], tmp_path: Path) -> None:
    full["arms"][2] = {"key": "sft", "label": "trained only", "group": "main"}
    text = rendered(full, tmp_path).text
    assert "trained only not run" in text
    assert "0/0" not in text


def test_the_order_is_told_as_it_is(full: dict[str, Any], tmp_path: Path) -> None:
    assert "come in the paper's order" in rendered(full, tmp_path).text
    full["arms"][1] = arm(9, "base", "Base")
    assert "come in another order than the paper's" in rendered(full, tmp_path).text


def test_page_needs_no_network_and_no_script(full: dict[str, Any], tmp_path: Path) -> None:
    page = write(full, tmp_path).read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "http" not in page
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert "&lt;think&gt;" in page
    assert "<think>" not in page


def test_only_films_that_exist_are_shown(full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a b.jpg").write_bytes(b"jpg")
    page = rendered(full, tmp_path)
    assert page.pictures == ["films/a%20b.jpg"]
    assert "without a picture: 1" in page.text


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (("arms", 1, "successes"), 400, r"arms.1 \(base\): 400 successes of 384 trials"),
        (("arms", 1, "trials"), 385, "tasks add up to 50 of 384 trials, the arm says 50 of 385"),
        (("arms", 1, "trials"), None, "successes and trials go together"),
        (("arms", 1, "interval"), [0.9, 0.95], "does not hold the rate 0.1302"),
        (("arms", 1, "interval"), [9.0, 20.0], r"arms.1 \(base\).interval.0"),
        (("arms", 1, "tasks"), {"box_to_moon": {"successes": 50, "trials": 384}}, "box_to_moon"),
        (("arms", 1, "group"), "other", r"arms.1 \(base\).group"),
        (("arms", 1, "key"), "sft", "key 'sft' is there twice"),
        (("arms", 1, "skills"), {"pointing": float("nan")}, "skills.pointing"),
        (("failures", 0, "film"), "../outside.jpg", "inside the study's folder"),
        (("failures", 0, "film"), "/outside.jpg", "inside the study's folder"),
        (("stages", 0, "seconds"), -1, r"stages.0 \(model:sft\).seconds"),
        (("started",), "yesterday", "started"),
        (("size",), None, "size"),
    ],
)
def test_a_contradiction_is_refused_with_its_place(
    place: tuple[Any, ...], value: object, text: str, full: dict[str, Any], tmp_path: Path
) -> None:
    study = copy.deepcopy(full)
    at: Any = study
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    with pytest.raises(StudyError, match=text):
        write(study, tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_every_error_is_told_at_once() -> None:
    with pytest.raises(StudyError) as refused:
        read_study({"arms": [{"key": "a"}]})
    lines = str(refused.value).splitlines()
    assert "size: is missing" in lines
    assert "arms.0 (a).label: is missing" in lines


def test_slips_in_names_are_found(full: dict[str, Any]) -> None:
    assert list(unknown_fields(read_study(full))) == []
    full["arms"][2]["sucesses"] = 3
    full["machine"]["gpu"] = "none"
    assert list(unknown_fields(read_study(full))) == ["machine.gpu", "arms.2.sucesses"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_few_and_within(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    slack = 1e-6 * max(abs(low), span)
    assert 1 <= len(found) <= most
    assert all(low - slack <= tick <= low + span + slack for tick in found)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30))
def test_curves_stay_within_their_frame(values: list[float]) -> None:
    rows = [{"step": 10 * i, "loss": v, "kl": None, "name": "x"} for i, v in enumerate(values)]
    (chart,) = stage_charts("sft", rows)
    assert chart.title == "Loss"
    for line in chart.lines:
        points = [tuple(map(float, p.split(","))) for p in line.points.split()]
        assert len(points) == len(values)
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_unfinished_numbers_leave_no_curve() -> None:
    assert stage_charts("sft", []) == []
    assert stage_charts("sft", [{"step": 1, "loss": float("nan"), "x": None}]) == []
    assert heads_charts({"sft": []}) == []


def test_heads_share_a_chart_for_each_figure(full: dict[str, Any]) -> None:
    charts = heads_charts(full["curves"]["heads"])
    assert [len(chart.lines) for chart in charts] == [2, 2]
    assert charts[1].lines[0].last == "7"


def test_command_writes_the_page_or_says_why_not(full: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "study.json"

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "training.study_report", str(file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    file.write_text("{")
    refused = run()
    assert (refused.returncode, "cannot be read" in refused.stderr) == (2, True)
    file.write_text(json.dumps(LITTLE | {"sise": 3}))
    done = run()
    assert done.returncode == 0, done.stderr
    assert "field sise is not known" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "report.html")
