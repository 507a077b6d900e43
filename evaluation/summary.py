"""The figures of a run: summary.json, from the configuration and the trials' records."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any, Final

import numpy as np

from evaluation.plan import RunConfig, trial_plan
from evaluation.policies import PolicyChoice
from evaluation.statistics import SuccessRate
from evaluation.statistics.sequential import Stop
from evaluation.trial_log import TrialRecord
from simulation.scoring import STAGES

PACKAGES: Final = ("roboalign-stack", "mujoco", "numpy", "onnxruntime", "scipy")


def summarise(
    config: RunConfig,
    records: Sequence[TrialRecord],
    wall_seconds: float,
    versions: dict[str, str],
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Content of summary.json.

    One policy's figures stand at the top level as well as under `policies`; several policies'
    only there, because a mean over different policies means nothing. Apart from `wall_seconds`
    (this session's) the result depends on the records alone, not on their order. `stop`: where a
    sequential run has ended.
    """
    policies = {c.name: _policy_summary(config, c, records) for c in config.policies}
    alone = next(iter(policies.values())) if len(policies) == 1 else {}
    return {
        **alone,
        "policies": policies,
        "complete": stop is not None or len(records) == _planned(config) * len(config.policies),
        "backend": config.backend,
        "seed": config.seed,
        "wall_seconds": round(wall_seconds, 2),
        "config": config.as_json(),
        "versions": versions,
        **({"stopped_after_starts": stop.starts} if stop is not None else {}),
    }


def software_versions() -> dict[str, str]:
    """Versions of what decides the outcomes, by package name."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def main_figures(summary: dict[str, Any]) -> dict[str, Any]:
    """What the last line of a run prints."""
    names = ("success_rate", "successes", "trials", "interval")
    policies = {
        policy: {name: content[name] for name in names}
        for policy, content in summary["policies"].items()
    }
    alone = next(iter(policies.values())) if len(policies) == 1 else {}
    common = {name: summary[name] for name in ("backend", "seed", "complete", "wall_seconds")}
    return {**alone, "policies": policies, **common}


def _planned(config: RunConfig) -> int:
    """Trials of each policy."""
    return sum(1 for _ in trial_plan(config)) // len(config.policies)


def _policy_summary(
    config: RunConfig, choice: PolicyChoice, all_records: Sequence[TrialRecord]
) -> dict[str, Any]:
    key: Callable[[TrialRecord], tuple[int, int, int]] = lambda r: (  # noqa: E731
        r.trial, config.tasks.index(r.task), config.objects.index(r.object)
    )  # fmt: skip
    records = sorted((r for r in all_records if r.policy == choice.name), key=key)
    return {
        **_rate(records),
        "planned_trials": _planned(config),
        "policy": choice.name,
        "bundle_hash": choice.bundle_hash,
        "per_task": {t: _rate([r for r in records if r.task == t]) for t in config.tasks},
        "per_object": {o: _rate([r for r in records if r.object == o]) for o in config.objects},
        "per_task_object": {
            t: {
                o: _rate([r for r in records if (r.task, r.object) == (t, o)])
                for o in config.objects
            }
            for t in config.tasks
        },
        "per_stage": _stage_counts(records),
        "per_reason": _reason_counts(records),
        "mean_success_seconds": _mean([r.duration_s for r in records if r.success]),
        "inference_ms": _times([ms for r in records for ms in r.inference_ms]),
        "stage_times_ms": _stage_times(records),
        "physics_hz": _mean([r.physics_hz for r in records if r.physics_hz is not None]),
    }


def _rate(records: Sequence[TrialRecord]) -> dict[str, Any]:
    return SuccessRate.of(sum(r.success for r in records), len(records)).as_json()


def _stage_counts(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Trials that came at least to each stage; `success` is `placed` that lasted."""
    reached = [STAGES.index(r.stage) if r.stage in STAGES else -1 for r in records]
    counts = {stage: sum(r >= i for r in reached) for i, stage in enumerate(STAGES)}
    return {**counts, "success": sum(r.success for r in records)}


def _reason_counts(records: Sequence[TrialRecord]) -> dict[str, int]:
    reasons = [r.reason for r in records]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 3) if values else None


def _times(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "count": len(values),
        "median": round(median(values), 3),
        "p95": round(float(np.percentile(values, 95)), 3),
        "max": round(max(values), 3),
    }


def _stage_times(records: Sequence[TrialRecord]) -> dict[str, dict[str, float]]:
    stages = {stage: None for r in records for stage in r.stage_times_ms}
    times = {s: _times([v for r in records for v in r.stage_times_ms.get(s, ())]) for s in stages}
    return {stage: values for stage, values in times.items() if values is not None}
