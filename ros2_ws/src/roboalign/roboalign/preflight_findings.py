"""What a check found: passed or not, how bad that is, what to do; as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from rich.table import Table
from rich.text import Text


class Outcome(StrEnum):
    """SKIPPED: not asked for, or without meaning here. UNKNOWN: it could not be found out."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    check: its name, in snake case. essential: nothing moves unless it passes.
    found: what was seen. remedy: what to do; empty where there is nothing to mend.
    """

    check: str
    essential: bool
    outcome: Outcome
    found: str
    remedy: str = ""

    @property
    def blocks(self) -> bool:
        """Whether it forbids to go on. What cannot be found out is not taken for granted."""
        return self.essential and self.outcome in (Outcome.FAILED, Outcome.UNKNOWN)


@dataclass(frozen=True)
class Unavailable:
    """What a probe gives where there is nothing to look at; `reason` says why."""

    reason: str


STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.UNKNOWN: "yellow",
    Outcome.SKIPPED: "dim",
}


def judge(
    check: str, *, essential: bool, problems: Sequence[str], found: str, remedy: str
) -> Finding:
    """PASSED without problems, else FAILED; problems stand in front of what was seen."""
    if not problems:
        return Finding(check, essential, Outcome.PASSED, found)
    text = "; ".join(problems)
    return Finding(check, essential, Outcome.FAILED, f"{text} ({found})" if found else text, remedy)


def table(title: str, findings: Sequence[Finding]) -> Table:
    """For rich: what fails first, then what is unknown, each with its remedy."""
    order = [Outcome.FAILED, Outcome.UNKNOWN, Outcome.PASSED, Outcome.SKIPPED]
    rows = sorted(findings, key=lambda f: (not f.blocks, order.index(f.outcome)))
    made = Table(title=title, title_justify="left", expand=True)
    for name, ratio in (("check", 3), ("outcome", 2), ("found", 6), ("to do", 7)):
        made.add_column(name, ratio=ratio, overflow="fold")
    for finding in rows:
        weight = "\nessential" if finding.essential else ""
        made.add_row(
            Text(finding.check.replace("_", " ")),
            Text(f"{finding.outcome}{weight}", style=STYLES[finding.outcome]),
            Text(finding.found),
            Text(finding.remedy),
        )
    return made


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """For JSON: names by outcome, what blocks, and every finding whole."""
    by_outcome = {
        str(outcome): [f.check for f in findings if f.outcome is outcome] for outcome in Outcome
    }
    return {
        **by_outcome,
        "blocking": [f.check for f in findings if f.blocks],
        "checks": [asdict(finding) for finding in findings],
    }
