"""Collects what the stages of a lab study wrote into study.json, and writes its page."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import binomtest

from contracts.task import OBJECTS, TASKS
from training import study_report
from training.lab_arms import ARMS, seeds_of, trials_of
from training.lab_sizes import Size
from training.lab_stages import SEEDS, write

COMPARED: Final = (("base", "random"), ("sft", "base"), ("sft_rl", "sft"), ("sft_rl", "base"))
SHOWN_RESPONSES: Final = 8
SHOWN_FAILURES: Final = 12
NORMAL_95: Final = 1.959964
DEVIATIONS: Final = (
    "The model is a Qwen3-VL of 4.9 million parameters trained on simulated data alone; nothing "
    "pretrained exists at this size, so the base is trained here and the vision tower learns too.",
    "A grounding readout, tuned on each arm's frozen features of scene snapshots, joins the head's "
    "state token: 240 demonstrations are too few for a backbone of this size (see the ladder).",
    "Supervised stages rehearse 8 grounding scenes beside each batch: language modelling alone "
    "erases the millimetres that the readout needs.",
    "FAST has 256 tokens at scale 5 instead of 2048 at 10, so that sampled responses meet right "
    "first tokens; the codec then costs the millimetres that the report states.",
    "SFT also shows thoughts before FAST tokens; the paper relies on zero-shot transfer, which a "
    "model of this size does not show.",
    "Prompts have no system message at this size. Learning rates and batches are the lab's.",
    "2D trajectories are the object's way to its goal; four actions share a token of the head.",
)


def write_report(out: Path, size: Size) -> Path:
    """study.json and report.html of what is there by now; returns the page's path."""
    study = collect(out, size)
    write(out / "study.json", study)
    return study_report.write(study, out)


def publish(out: Path, folder: Path) -> None:
    """Copy the page, its numbers, every config, and the films that the page shows to `folder`."""
    study = json.loads((out / "study.json").read_text())
    configs = [path.relative_to(out) for path in out.glob("models/*/config.json")]
    films = [Path(failure["film"]) for failure in study["failures"]]
    for path in (Path("report.html"), Path("study.json"), Path("size.json"), *configs, *films):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / path, folder / path)


def collect(out: Path, size: Size) -> dict[str, Any]:
    """The study as `study_schema` describes it; what was not run is left out."""
    stages = [json.loads(path.read_text()) for path in sorted((out / "stages").glob("*.json"))]
    times = [path.stat().st_mtime for path in (out / "stages").glob("*.json")]
    return {
        "size": size.name,
        "command": f"python -m training.lab --{size.name} --out {out}",
        "started": _time(min(times)) if times else None,
        "finished": _time(max(times)) if times else None,
        "commit": _commit(),
        "machine": {"cpu": _processor(), "cores": os.cpu_count()},
        "seeds": list(range(size.seeds)),
        "deviations": list(DEVIATIONS),
        "fast": _read(out / "data/round_trip.json") or {},
        "ladder": [rung for rung in (_state_rung(out), *_rungs(out, size)) if rung],
        "arms": [
            _arm(out, size, key) for key, arm in ARMS.items() if arm.group != "ladder"
        ],
        "comparisons": [c for pair in COMPARED if (c := _compare(out, size, *pair))],
        "curves": {
            "base": _rows(out / "models/base/curve.jsonl"),
            "sft": _rows(out / "models/sft/curve.jsonl"),
            "grpo": _rows(out / "models/sft_rl/curve.jsonl"),
            "heads": {
                key: head["curve"]
                for key in ARMS
                if (head := _read(out / "heads" / f"{key}-0" / "head.json"))
            },
        },
        "responses": _responses(out / "models/sft_rl"),
        "failures": _failures(out, size),
        "stages": stages,
    }


def _arm(out: Path, size: Size, key: str) -> dict[str, Any]:
    arm, records = ARMS[key], trial_records(out, key, seeds_of(size, key))
    readout = _read(out / "arms" / key / "readout.json") or {}
    return {
        "key": key,
        "label": arm.label,
        "group": arm.group,
        "what": arm.what,
        **counted(records),
        "tasks": {
            task: _counts([r for r in records if r["task"] == task]) for task in TASKS
        } if records else {},
        "objects": {
            obj: _counts([r for r in records if r["object"] == obj]) for obj in OBJECTS
        } if records else {},
        "seeds": [
            {"seed": seed, **_counts([r for r in records if r["head"] == seed])}
            for seed in sorted({r["head"] for r in records})
        ],
        "readout": readout.get("held_out", {}),
        "skills": _read(out / "skills" / f"{key}.json") or {},
        "knn": _neighbours(out, key),
        "command": _trial_command(out, size, key),
    }  # fmt: skip


def _neighbours(out: Path, key: str) -> dict[str, Any] | None:
    found = _read(out / "knn" / f"{key}.json")
    if found is None:
        return None
    return {name: found[name] for name in ("accuracy", "interval", "chance") if name in found}


def _state_rung(out: Path) -> dict[str, Any] | None:
    found = _read(out / "ladder/state.json")
    if found is None:
        return None
    successes, trials = found["successes"], found["trials"]
    last = found["curve"][-1]
    return {
        "key": "state",
        "label": "State",
        "what": "the same head on the simulator's truth, no pictures",
        "successes": successes,
        "trials": trials,
        "interval": wilson(successes, trials),
        "held_out": {"loss": last["held_out"], "action_mm": last["action_mm"]},
    }


def _rungs(out: Path, size: Size) -> list[dict[str, Any] | None]:
    return [
        _rung(out, "end_to_end", "Pictures, end to end", "all parts trained on demonstrations"),
        _rung(out, "grounded", "Frozen: grounding only", ARMS["grounded"].what),
        _rung(out, "release", "To be shipped", "the best arm, its head trained longer"),
    ]


def _rung(out: Path, key: str, label: str, what: str) -> dict[str, Any] | None:
    records = trial_records(out, key, 1)
    if not records:
        return None
    readout = (_read(out / "arms" / key / "readout.json") or {}).get("held_out", {})
    head = _read(out / "heads" / f"{key}-0" / "head.json") or {}
    last = {k: v for k, v in head.get("curve", [{}])[-1].items() if k in ("held_out", "action_mm")}
    return {"key": key, "label": label, "what": what, **counted(records),
            "held_out": {**readout, **last}}  # fmt: skip


def trial_records(out: Path, arm: str, seeds: int) -> list[dict[str, Any]]:
    """Records of all trials of an arm's heads; `head` is the head's seed."""
    records = []
    for seed in range(seeds):
        folder = out / "trials" / f"{arm}-{seed}"
        if not (folder / "summary.json").is_file():
            continue
        for row in _rows(folder / "trials.jsonl"):
            records.append({**row, "head": seed, "folder": f"trials/{arm}-{seed}"})
    return records


def counted(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Successes and trials with Wilson's 95 % interval; nulls where there are none."""
    if not records:
        return {"successes": None, "trials": None, "interval": None}
    counts = _counts(records)
    return {**counts, "interval": wilson(counts["successes"], counts["trials"])}


def wilson(successes: int, trials: int) -> list[float]:
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def paired(a: list[bool], b: list[bool]) -> dict[str, Any]:
    """Difference of two success rates on the same starts.

    Interval of Bonett and Price (2012); p of McNemar's exact test.
    """
    first, second = np.array(a), np.array(b)
    only_a, only_b, n = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    p12, p21 = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = NORMAL_95 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    discordant = only_a + only_b
    return {
        "difference": (only_a - only_b) / n,
        "interval": [max(-1.0, p12 - p21 - half), min(1.0, p12 - p21 + half)],
        "p": float(binomtest(only_a, discordant).pvalue) if discordant else 1.0,
    }


def _compare(out: Path, size: Size, a: str, b: str) -> dict[str, Any] | None:
    outcomes = []
    for arm in (a, b):
        records = trial_records(out, arm, seeds_of(size, arm))
        outcomes.append(
            {(r["head"], r["task"], r["object"], r["trial"]): r["success"] for r in records}
        )
    common = sorted(set(outcomes[0]) & set(outcomes[1]))
    if not common:
        return None
    return {"a": a, "b": b, **paired(*([o[key] for key in common] for o in outcomes))}


def _responses(folder: Path) -> list[dict[str, Any]]:
    """The same held-out prompts answered before and after RL, the most changed first."""
    before, after = (
        _rows(folder / f"validation-{when}.jsonl") for when in ("before", "after")
    )
    found = []
    for old, new in zip(before, after, strict=False):
        one, other = old["responses"][0], new["responses"][0]
        found.append(
            {
                "instruction": old["question"],
                "truth": old["truth"],
                "before": one["text"],
                "after": other["text"],
                "reward_before": one["reward"],
                "reward_after": other["reward"],
            }
        )
    found.sort(key=lambda r: -abs(r["reward_after"] - r["reward_before"]))
    return found[:SHOWN_RESPONSES]


def _failures(out: Path, size: Size) -> list[dict[str, Any]]:
    records = trial_records(out, "sft_rl", size.seeds)
    failed = [r for r in records if not r["success"] and r.get("film")]
    return [
        {
            "arm": "sft_rl",
            "task": r["task"],
            "object": r["object"],
            "reason": r["message"],
            "film": f"{r['folder']}/{r['film']}",
        }
        for r in failed[:SHOWN_FAILURES]
    ]


def _trial_command(out: Path, size: Size, arm: str) -> str:
    return (
        f"python -m evaluation run --policy {out}/bundles/{arm}-SEED --backend fast --trials "
        f"{trials_of(size, arm)} --seed {SEEDS['trials']}+1000*SEED --out {out}/trials/{arm}-SEED"
    )


def _counts(records: list[dict[str, Any]]) -> dict[str, int]:
    return {"successes": sum(r["success"] for r in records), "trials": len(records)}


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _time(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).isoformat(timespec="seconds")


def _commit() -> str | None:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
