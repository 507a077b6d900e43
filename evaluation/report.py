"""report.html, report.json and report.tex: what a study says, for people and for machines."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.comparison import compare_all
from evaluation.failures import KINDS, count_kinds, kind_of
from evaluation.latex import render_latex
from evaluation.outcome import STAGE_WORDS
from evaluation.protocol import protocol_of
from evaluation.report_charts import (
    difference_forest,
    learning_curves,
    position_maps,
    rate_forest,
)
from evaluation.stage_bars import STAGE_TIME_WORDS, Bar, stage_bars
from evaluation.study import Study
from evaluation.trial_log import TrialRecord, write_json, write_text

REPORT: Final = "report.html"
FIGURES: Final = "report.json"
LATEX: Final = "report.tex"
TEMPLATES: Final = Path(__file__).parent / "templates"
MOST_FILMS: Final = 96
"""Film strips within the page; about 25 kB each. The others stay in films/ beside it."""
BACKEND_WORDS: Final = {
    "fast": "fast simulation (in process, modelled latency)",
    "live": "live graph (ROS nodes, policy server, simulated arm and cameras in real time)",
    "real": "real robot, scored by a person",
}

Embed = Callable[[str], str | None]
"""A film's path as a data URI, or None if it is gone."""


@dataclass(frozen=True)
class Card:
    """One trial with its film as a data URI, or without one."""

    record: TrialRecord
    film: str | None
    shown: bool
    """Whether the page has more of it than its mark."""

    @property
    def kind(self) -> str | None:
        return kind_of(self.record)

    @property
    def anchor(self) -> str:
        """Name of its place on the page."""
        r = self.record
        return f"{r.policy}-{r.task}-{r.object}-{r.trial}".replace(" ", "_").replace("/", "_")


def write_report(directory: Path, study: Study, summary: Mapping[str, Any]) -> Path:
    """Write page, figures and tables of a study into `directory`; return the page's path."""
    figures = report_figures(study, summary)
    page = render_page(study, summary, figures, _embedder(directory), datetime.now())
    write_json(directory / FIGURES, figures)
    write_text(directory / LATEX, render_latex(summary, figures["comparisons"]))
    write_text(directory / REPORT, page)
    return directory / REPORT


def report_figures(study: Study, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Content of report.json: the summary, comparisons, kinds of failure, and the protocol."""
    policies = [policy.name for policy in study.config.policies]
    return {
        **summary,
        "blind": study.blind,
        "comparisons": compare_all(study.config, study.records),
        "failures": {
            name: count_kinds([r for r in study.records if r.policy == name]) for name in policies
        },
        "protocol": protocol_of(study),
    }


def render_page(
    study: Study,
    summary: Mapping[str, Any],
    figures: Mapping[str, Any],
    embed: Embed,
    written: datetime,
) -> str:
    """The page as HTML."""
    config = summary["config"]
    cards = _cards(study, embed)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent, words=_words, heat=_heat, p_value=_p_value, points=_points
    )
    names = list(summary["policies"])
    failed = {_start(card.record) for card in cards if not card.record.success}
    return environment.get_template("report.html.j2").render(
        summary=summary,
        config=config,
        configs=[run.config.as_json() for run in study.runs],
        policies=summary["policies"],
        colours={name: f"var(--p{i % 6})" for i, name in enumerate(names)},
        figures=figures,
        comparisons=[(c, difference_forest(c)) for c in figures["comparisons"]],
        rates=rate_forest(summary),
        curves=learning_curves(study),
        maps={
            name: position_maps(
                [r for r in study.records if r.policy == name], study.config.objects
            )
            for name in names
        },
        cards=cards,
        failing=_failing_starts(cards),
        successes=[c for c in cards if c.shown and _start(c.record) not in failed],
        missing_films=sum(1 for c in cards if c.shown and c.record.film and not c.film),
        rows={name: _trial_rows(config, name, cards) for name in names},
        funnels={name: _funnel(p) for name, p in summary["policies"].items()},
        stages={name: stage_bars(p["stage_times_ms"]) for name, p in summary["policies"].items()},
        stage_words=STAGE_TIME_WORDS,
        kinds=KINDS,
        backend_words=BACKEND_WORDS[config["backend"]],
        written=written.strftime("%-d %B %Y, %H:%M"),
    )


def _cards(study: Study, embed: Embed) -> list[Card]:
    """A card for every trial; starts on which somebody failed get the room for films first."""
    failed = {_start(r) for r in study.records if not r.success}
    ordered = sorted(study.records, key=lambda r: _plan_order(study, r))
    wanted = [r for r in ordered if _start(r) in failed or (r.film and r.trial == 0)]
    filmed = sorted((r for r in wanted if r.film), key=lambda r: _start(r) not in failed)
    with_film = {r.spec.key for r in filmed[:MOST_FILMS]}
    shown = {r.spec.key for r in wanted}
    return [
        Card(
            r,
            embed(r.film) if r.film is not None and r.spec.key in with_film else None,
            r.spec.key in shown,
        )
        for r in ordered
    ]


def _failing_starts(cards: Sequence[Card]) -> list[list[Card]]:
    """For each start on which a policy failed, the trials of all policies from it."""
    starts: dict[tuple[str, str, int, int], list[Card]] = {}
    for card in cards:
        starts.setdefault(_start(card.record), []).append(card)
    return [group for group in starts.values() if any(not c.record.success for c in group)]


def _trial_rows(
    config: Mapping[str, Any], policy: str, cards: Sequence[Card]
) -> list[tuple[str, list[list[Card]]]]:
    """For each object, the trials of each task in order."""
    pairs: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        if card.record.policy == policy:
            pairs.setdefault((card.record.object, card.record.task), []).append(card)
    return [
        (obj, [pairs.get((obj, task), []) for task in config["tasks"]]) for obj in config["objects"]
    ]


def _funnel(policy: Mapping[str, Any]) -> list[Bar]:
    trials = policy["trials"]
    return [
        Bar(STAGE_WORDS[stage], f"{count} of {trials}", 100 * count / trials if trials else 0.0)
        for stage, count in policy["per_stage"].items()
    ]


def _start(record: TrialRecord) -> tuple[str, str, int, int]:
    return record.task, record.object, record.trial, record.seed


def _plan_order(study: Study, r: TrialRecord) -> tuple[int, int, int, int]:
    names = [policy.name for policy in study.config.policies]
    tasks, objects = study.config.tasks, study.config.objects
    return r.trial, tasks.index(r.task), objects.index(r.object), names.index(r.policy)


def _embedder(directory: Path) -> Embed:
    def embed(film: str) -> str | None:
        path = directory / film
        if not path.is_file():
            return None
        return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")

    return embed


def _percent(rate: float | None) -> str:
    """A rate 0..1 as the paper prints it: one decimal."""
    return "–" if rate is None else f"{100 * rate:.1f}"


def _points(value: float, decimals: int = 1) -> str:
    """A difference in points, with its sign."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _words(name: str) -> str:
    """An identifier as a person reads it."""
    return name.replace("_", " ")


def _heat(rate: float | None) -> int:
    """Strength 0..100 of a cell's colour."""
    return 0 if rate is None else round(100 * rate)
