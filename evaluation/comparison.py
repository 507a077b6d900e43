"""Two policies of a study compared: overall, and for each task and object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from evaluation.plan import RunConfig
from evaluation.statistics.differences import (
    Difference,
    Pairs,
    barnard,
    paired_difference,
    unpaired_difference,
)
from evaluation.statistics.multiplicity import holm
from evaluation.statistics.stratified import Stratum, pooled_difference
from evaluation.statistics.success_rate import SuccessRate
from evaluation.trial_log import TrialRecord

Start = tuple[str, str, int, int]
"""Task, object, trial and seed: what policies have in common in a matched trial."""
GROUPS: Final = ("task", "object")


def compare_all(config: RunConfig, records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Every pair of policies; `p_holm` holds for all of these comparisons together."""
    policies = [policy.name for policy in config.policies]
    by_policy = {name: _by_start(records, name) for name in policies}
    found = [
        _compare(config, a, b, by_policy[a], by_policy[b])
        for a, b in combinations(policies, 2)
        if by_policy[a] and by_policy[b]
    ]
    adjusted = holm([comparison["p_value"] for comparison in found])
    return [{**c, "p_holm": p} for c, p in zip(found, adjusted, strict=True)]


def _compare(
    config: RunConfig, first: str, second: str, a: Mapping[Start, bool], b: Mapping[Start, bool]
) -> dict[str, Any]:
    """One comparison; the main p-value is McNemar's on matched starts, else Barnard's.

    Of matched policies only the starts that both have met count.
    """
    shared = [start for start in a if start in b]
    # Policies met the same starts, but for those that a run under way has not come to yet.
    matched = 2 * len(shared) >= min(len(a), len(b))
    if matched:
        a, b = ({start: outcomes[start] for start in shared} for outcomes in (a, b))
    rate1, rate2 = _rate(a), _rate(b)
    main = _difference(a, b, matched)
    pooled = pooled_difference([_stratum(a, b, t, o) for t in config.tasks for o in config.objects])
    groups = _groups(config, a, b, matched)
    return {
        "first": first,
        "second": second,
        "matched": matched,
        "trials": [rate1.trials, rate2.trials],
        "success_rates": [rate1.rate, rate2.rate],
        "pairs": _pair_counts(a, b) if matched else None,
        **_as_json(main),
        "test": "McNemar, exact" if matched else "Barnard, exact",
        "p_barnard": barnard(rate1.successes, rate1.trials, rate2.successes, rate2.trials),
        "pooled": {**_as_json(pooled), "test": "Cochran-Mantel-Haenszel", "over": "task, object"},
        "per_task": groups["task"],
        "per_object": groups["object"],
    }


def _groups(
    config: RunConfig, a: Mapping[Start, bool], b: Mapping[Start, bool], matched: bool
) -> dict[str, dict[str, Any]]:
    """The same for each task and object; Holm's adjustment is over all of these together."""
    members = [("task", 0, task) for task in config.tasks]
    members += [("object", 1, obj) for obj in config.objects]
    rows: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for group, index, name in members:
        here = [{s: v for s, v in side.items() if s[index] == name} for side in (a, b)]
        if here[0] and here[1]:
            rates = [_rate(side) for side in here]
            rows[group][name] = {
                "successes": [rate.successes for rate in rates],
                "trials": [rate.trials for rate in rates],
                **_as_json(_difference(here[0], here[1], matched)),
            }
    cells = [cell for group in GROUPS for cell in rows[group].values()]
    for cell, p_value in zip(cells, holm([cell["p_value"] for cell in cells]), strict=True):
        cell["p_holm"] = p_value
    return rows


def _difference(a: Mapping[Start, bool], b: Mapping[Start, bool], matched: bool) -> Difference:
    if matched:
        return paired_difference(Pairs.of((a[start], b[start]) for start in a))
    return unpaired_difference(_rate(a), _rate(b))


def _pair_counts(a: Mapping[Start, bool], b: Mapping[Start, bool]) -> dict[str, int]:
    return dict(vars(Pairs.of((a[start], b[start]) for start in a)))


def _stratum(a: Mapping[Start, bool], b: Mapping[Start, bool], task: str, obj: str) -> Stratum:
    sides = [_rate({s: v for s, v in side.items() if s[:2] == (task, obj)}) for side in (a, b)]
    return Stratum(sides[0].successes, sides[0].trials, sides[1].successes, sides[1].trials)


def _rate(outcomes: Mapping[Start, bool]) -> SuccessRate:
    return SuccessRate.of(sum(outcomes.values()), len(outcomes))


def _by_start(records: Sequence[TrialRecord], policy: str) -> dict[Start, bool]:
    return {(r.task, r.object, r.trial, r.seed): r.success for r in records if r.policy == policy}


def _as_json(difference: Difference) -> dict[str, Any]:
    return {
        "difference": difference.estimate,
        "interval": [difference.low, difference.high],
        "p_value": difference.p_value,
    }
