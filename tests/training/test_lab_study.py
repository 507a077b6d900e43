"""Statistics of the lab study, and what is collected from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from contracts.task import OBJECTS, TASKS
from training import lab_study
from training.lab_sizes import SIZES
from training.study_schema import read_study


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_statsmodels(counts: tuple[int, int]) -> None:
    wanted = proportion_confint(*counts, method="wilson")
    assert lab_study.wilson(*counts) == pytest.approx(wanted, abs=1e-6)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_paired_comparison(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    found = lab_study.paired(a, b)
    table = [[pairs.count((x, y)) for y in (True, False)] for x in (True, False)]
    assert found["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found["difference"] == pytest.approx((sum(a) - sum(b)) / len(pairs))
    low, high = found["interval"]
    assert -1 <= low <= high <= 1


def write_trials(out: Path, arm: str, seed: int, success: bool) -> None:
    folder = out / "trials" / f"{arm}-{seed}"
    folder.mkdir(parents=True)
    rows = [
        {"task": task, "object": obj, "trial": 0, "success": success, "message": "m", "film": None}
        for task in TASKS
        for obj in OBJECTS
    ]
    (folder / "trials.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "summary.json").write_text("{}")


def test_a_study_under_way_is_collected_as_far_as_it_is(tmp_path: Path) -> None:
    write_trials(tmp_path, "sft", 0, True)
    write_trials(tmp_path, "base", 0, False)
    size = SIZES["smoke"]
    study = read_study(json.loads(json.dumps(lab_study.collect(tmp_path, size))))
    arms = {arm.key: arm for arm in study.arms}
    assert (arms["sft"].successes, arms["sft"].trials) == (16, 16)
    assert arms["sft_rl"].trials is None
    [comparison] = study.comparisons
    assert (comparison.a, comparison.b, comparison.difference) == ("sft", "base", 1.0)
    assert comparison.p is not None and comparison.p < 1e-3
    assert lab_study.write_report(tmp_path, size).is_file()
    (tmp_path / "size.json").write_text("{}")
    lab_study.publish(tmp_path, tmp_path / "published")
    names = sorted(path.name for path in (tmp_path / "published").iterdir())
    assert names == ["report.html", "size.json", "study.json"]


def test_trials_of_an_unfinished_run_do_not_count(tmp_path: Path) -> None:
    write_trials(tmp_path, "sft", 0, True)
    (tmp_path / "trials/sft-0/summary.json").unlink()
    assert lab_study.trial_records(tmp_path, "sft", 1) == []
