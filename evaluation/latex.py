"""report.tex: the page's main tables for a paper, laid out as Table 4 (booktabs)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

ESCAPES: Final = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def render_latex(summary: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Success rates by task with 95 % intervals, and a second table of the differences."""
    parts = [_rates(summary)]
    if comparisons:
        parts.append(_differences(comparisons))
    return "% Needs the package booktabs.\n" + "\n".join(parts)


def _rates(summary: Mapping[str, Any]) -> str:
    tasks = summary["config"]["tasks"]
    head = ["Policy", *(_escape(t.replace("_", " ").capitalize()) for t in tasks), "Avg."]
    rows = [
        [_escape(name), *(_cell(p["per_task"][task]) for task in tasks), _cell(p)]
        for name, p in summary["policies"].items()
    ]
    trials = max((p["trials"] for p in summary["policies"].values()), default=0)
    caption = (
        f"Success rates (\\%) with 95\\,\\% Wilson intervals, {trials} trials a policy "
        f"({summary['backend']} backend, seed {summary['seed']})."
    )
    return _table("l" + "c" * (len(tasks) + 1), head, rows, caption)


def _differences(comparisons: Sequence[Mapping[str, Any]]) -> str:
    head = ["First", "Second", "Difference", "Pooled", "Test", "$p$", "$p$ (Holm)"]
    rows = [
        [
            _escape(c["first"]), _escape(c["second"]), _difference(c), _difference(c["pooled"]),
            _escape(c["test"]), _p(c["p_value"]), _p(c["p_holm"]),
        ]
        for c in comparisons
    ]  # fmt: skip
    caption = (
        "Differences of success rates in points with 95\\,\\% Newcombe intervals; pooled: "
        "stratified by task and object."
    )
    return _table("llccccc", head, rows, caption)


def _table(
    columns: str, head: Sequence[str], rows: Sequence[Sequence[str]], caption: str
) -> str:  # fmt: skip
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(cell: Mapping[str, Any]) -> str:
    if not cell["trials"]:
        return "--"
    low, high = (100 * bound for bound in cell["interval"])
    return rf"{100 * cell['success_rate']:.1f} {{\scriptsize[{low:.1f}, {high:.1f}]}}"


def _difference(cell: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in cell["interval"])
    return rf"${100 * cell['difference']:+.1f}$ {{\scriptsize$[{low:+.1f}, {high:+.1f}]$}}"


def _p(value: float) -> str:
    return "$<0.001$" if value < 0.001 else f"${value:.3f}$"


def _escape(text: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in text)
