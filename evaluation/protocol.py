"""How a study was done, for the reader of its page: plans, keys, sessions, what was voided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.results import RunResults
from evaluation.run_events import STARTED, read_events
from evaluation.study import Study, differing_settings


def protocol_of(study: Study) -> dict[str, Any]:
    """Plain content for the page and for JSON."""
    return {
        "runs": [_run(run) for run in study.runs],
        "differing_settings": differing_settings(study),
    }


def _run(run: RunResults) -> dict[str, Any]:
    plan: Mapping[str, Any] = run.plan or {}
    sessions = [e for e in read_events(run.directory) if e["event"] == STARTED]
    return {
        "directory": str(run.directory),
        "policies": [policy.name for policy in run.config.policies],
        "planned": len(run.trials),
        "scored": len(run.records),
        "complete": run.complete,
        "blocks": max((trial.block for trial in run.trials), default=0) if plan else None,
        "plan_hash": plan.get("hash"),
        "commitment": plan.get("commitment"),
        "labels": dict(run.key.labels) if run.key is not None else None,
        "salt": run.key.salt if run.key is not None else None,
        "commitment_holds": run.key.commitment == plan.get("commitment") if run.key else None,
        "power": plan.get("power"),
        "sessions": [event.get("time") for event in sessions],
        "voided": [
            {"policy": v.spec.policy, "task": v.spec.task, "object": v.spec.object,
             "trial": v.spec.trial, "scored": v.record is not None, "reason": v.reason}
            for v in run.voided
        ],
        "sequential": _sequential(run),
    }  # fmt: skip


def _sequential(run: RunResults) -> dict[str, Any] | None:
    alpha = run.config.sequential_alpha
    if alpha is None:
        return None
    stop = run.stop
    better = None
    if stop is not None and stop.decision in ("first", "second"):
        label = (run.plan or {})["policies"][0 if stop.decision == "first" else 1]
        better = run.key.labels[label] if run.key is not None else label
    return {
        "alpha": alpha,
        "starts": stop.starts if stop is not None else None,
        "planned_starts": len(run.trials) // len(run.config.policies),
        "decision": stop.decision if stop is not None else None,
        "better": better,
    }
