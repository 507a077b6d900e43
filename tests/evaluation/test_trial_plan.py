"""A plan fixes a run beforehand, and what was fixed is not changed afterwards."""

from __future__ import annotations

import dataclasses
import io
import json
import stat
from pathlib import Path

import pytest
from rich.console import Console

from evaluation.blinding import OPEN_KEY, SEALED_KEY, BlindingKey
from evaluation.plan import PlanError, RunConfig
from evaluation.results import load_results
from evaluation.runner import Backend, run
from evaluation.trial_log import LogError, TrialLog
from evaluation.trial_plan import PLAN, plan_hash, prepare

CONSOLE = Console(file=io.StringIO())


def test_a_plan_is_made_once(tmp_path: Path, pair_config: RunConfig) -> None:
    plan = prepare(tmp_path, pair_config)
    assert prepare(tmp_path, pair_config) == plan
    assert plan.key is not None
    assert [policy.name for policy in plan.config.policies] == ["A", "B"]
    assert {spec.policy for spec in plan.specs} == {"A", "B"}
    assert plan.content["estimated_seconds"] == 2.0 * 64
    assert plan.content["power"]["starts"] == 32


def test_a_policy_alone_is_not_blind(tmp_path: Path, config: RunConfig) -> None:
    plan = prepare(tmp_path, config)
    assert plan.key is None
    assert {spec.policy for spec in plan.specs} == {"scripted"}
    assert not (tmp_path / SEALED_KEY).exists()


def test_nothing_but_the_sealed_key_tells_labels_from_names(
    tmp_path: Path, pair_config: RunConfig
) -> None:
    plan = prepare(tmp_path, pair_config)
    assert plan.key is not None
    swapped = BlindingKey(
        dict(zip("AB", reversed(list(plan.key.labels.values())), strict=True)), plan.key.salt
    )
    other = swapped.blind(pair_config)
    assert [p.name for p in other.policies] == ["A", "B"]
    assert swapped.commitment != plan.key.commitment
    text = (tmp_path / PLAN).read_text() + (tmp_path / SEALED_KEY).read_text()
    assert "one" not in text.replace("None", "")
    assert "two" not in text
    assert stat.S_IMODE((tmp_path / SEALED_KEY).stat().st_mode) == 0o600


def test_labels_are_drawn_by_lot(pair_config: RunConfig) -> None:
    drawn = {BlindingKey.draw(pair_config).labels["A"] for _ in range(64)}
    assert drawn == {"one", "two"}


def test_a_plan_changed_by_hand_is_refused(tmp_path: Path, pair_config: RunConfig) -> None:
    prepare(tmp_path, pair_config)
    content = json.loads((tmp_path / PLAN).read_text())
    content["trials"][0]["seed"] = 99
    (tmp_path / PLAN).write_text(json.dumps(content))
    with pytest.raises(PlanError, match="was changed by hand"):
        prepare(tmp_path, pair_config)


def test_a_plan_changed_after_the_start_is_refused(tmp_path: Path, pair_config: RunConfig) -> None:
    plan = prepare(tmp_path, pair_config)
    with TrialLog(tmp_path, pair_config.as_json(), plan.specs) as log:
        log.begin(plan.hash)
    content = json.loads((tmp_path / PLAN).read_text())
    content["trials"].reverse()
    content["hash"] = plan_hash(content)
    (tmp_path / PLAN).write_text(json.dumps(content))
    changed = prepare(tmp_path, pair_config)
    with (
        TrialLog(tmp_path, pair_config.as_json(), changed.specs) as log,
        pytest.raises(LogError, match="plan was changed after trials had started"),
    ):
        log.begin(changed.hash)


def test_a_bundle_changed_after_planning_is_refused(tmp_path: Path, pair_config: RunConfig) -> None:
    prepare(tmp_path, pair_config)
    first, second = pair_config.policies
    changed = (first, dataclasses.replace(second, bundle_hash="another"))
    with pytest.raises(LogError, match="the bundle of 'two' was changed"):
        prepare(tmp_path, dataclasses.replace(pair_config, policies=changed))


@pytest.mark.parametrize("damage", ["missing", "other", "garbage"])
def test_a_key_that_is_not_the_plans_is_refused(
    tmp_path: Path, pair_config: RunConfig, damage: str
) -> None:
    prepare(tmp_path, pair_config)
    key = tmp_path / SEALED_KEY
    if damage == "missing":
        key.unlink()
    elif damage == "garbage":
        key.write_text("nothing")
    else:
        prepare(tmp_path / "other", pair_config)
        key.write_bytes((tmp_path / "other" / SEALED_KEY).read_bytes())
    with pytest.raises(PlanError, match=r"is missing|is damaged|not the key"):
        prepare(tmp_path, pair_config)


def test_a_blind_run_opens_its_key_with_the_last_trial(
    tmp_path: Path, pair_config: RunConfig, backend: Backend
) -> None:
    def interrupted(config: RunConfig, specs: object, tell: object) -> object:
        for count, finished in enumerate(backend(config, specs, tell)):  # type: ignore[arg-type]
            if count == 20:
                raise KeyboardInterrupt
            yield finished

    with pytest.raises(KeyboardInterrupt):
        run(pair_config, tmp_path, interrupted, CONSOLE)  # type: ignore[arg-type]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["policies"]) == ["A", "B"]
    assert not (tmp_path / OPEN_KEY).exists()
    for name in ("summary.json", "report.json", "report.html", "trials.jsonl", PLAN):
        assert "hash of" not in (tmp_path / name).read_text()
    assert load_results(tmp_path).blind
    assert "sealed until every trial is scored" in (tmp_path / "report.html").read_text()

    whole, results = run(pair_config, tmp_path, backend, CONSOLE)
    assert list(whole["policies"]) == ["one", "two"]
    assert whole["complete"]
    assert whole["policies"]["one"]["success_rate"] > whole["policies"]["two"]["success_rate"]
    key = json.loads((tmp_path / OPEN_KEY).read_text())
    assert sorted(key["labels"].values()) == ["one", "two"]
    assert results.plan is not None
    assert BlindingKey(**key).commitment == results.plan["commitment"]
    loaded = load_results(tmp_path)
    assert not loaded.blind
    assert [r.spec for r in loaded.records] == [r.spec for r in results.records]


def test_labels_and_order_of_results_do_not_decide_the_summary(
    tmp_path: Path, pair_config: RunConfig, backend: Backend
) -> None:
    def backwards(config: RunConfig, specs: list, tell: object) -> object:
        yield from backend(config, specs[::-1], tell)  # type: ignore[arg-type]

    summaries = []
    for i in range(4):
        directory = tmp_path / str(i)
        way = backwards if i % 2 else backend
        summary, _ = run(pair_config, directory, way, CONSOLE)  # type: ignore[arg-type]
        summaries.append({k: v for k, v in summary.items() if k != "wall_seconds"})
    assert all(summary == summaries[0] for summary in summaries)


def test_a_sequential_run_stops_early_and_the_same_whatever_ran_ahead(
    tmp_path: Path, pair_config: RunConfig, backend: Backend
) -> None:
    config = dataclasses.replace(
        pair_config, trials=8, tasks=("box_to_bowl", "box_to_plate"), sequential_alpha=0.05
    )

    def ahead(config: RunConfig, specs: list, tell: object) -> object:
        """As with many workers: later trials come first within each dozen."""
        for i in range(0, len(specs), 12):
            yield from backend(config, specs[i : i + 12][::-1], tell)  # type: ignore[arg-type]

    found = []
    for name, way in (("plain", backend), ("ahead", ahead)):
        summary, results = run(config, tmp_path / name, way, CONSOLE)  # type: ignore[arg-type]
        assert results.stop is not None
        found.append(
            ({k: v for k, v in summary.items() if k != "wall_seconds"}, results.stop.starts)
        )
        assert summary["complete"]
        assert results.stop.starts < 64
        assert len(results.records) == 2 * results.stop.starts
        again, _ = run(config, tmp_path / name, backend, CONSOLE)
        assert again["policies"] == summary["policies"]
        page = (tmp_path / name / "report.html").read_text()
        assert "one is better. Intervals" in page.replace("\n", " ")
    assert found[0] == found[1]
