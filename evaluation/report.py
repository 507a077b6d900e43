"""report.html: one self-contained page that a person would rather look at than read."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.outcome import STAGE_WORDS
from evaluation.trial_log import WHOLE_WAY, TrialRecord

REPORT: Final = "report.html"
TEMPLATE: Final = "report.html.j2"
MOST_FILMS: Final = 96
"""Film strips within the page; about 25 kB each. The others stay in films/ beside it."""
BACKEND_WORDS: Final = {
    "fast": "fast simulation (in process, modelled latency)",
    "live": "live graph (ROS nodes, policy server, simulated arm and cameras in real time)",
}


FIRST_STAGE: Final = "picture_to_observation"
ROUND_TRIP: Final = "round_trip"
STAGE_TIME_WORDS: Final = {
    FIRST_STAGE: "picture to observation",
    "queue": "wait for the server",
    ROUND_TRIP: "request to answer",
    "arm_transport": "to the arm node",
    "arm_queue": "until it is followed",
    WHOLE_WAY: "picture to setpoint",
}
"""`round_trip` holds all of the server's stages, `picture_to_setpoint` all there is."""


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: `share` and `start` in per cent of the full width."""

    label: str
    text: str
    share: float
    start: float = 0.0
    total: bool = False


@dataclass(frozen=True)
class Card:
    """One trial with its film as a data URI, or without one."""

    record: TrialRecord
    film: str | None

    @property
    def shown(self) -> bool:
        """Whether the page has more of it than its mark."""
        return not self.record.success or self.film is not None

    @property
    def anchor(self) -> str:
        """Name of its place on the page."""
        r = self.record
        return f"{r.policy}-{r.task}-{r.object}-{r.trial}".replace(" ", "_")


def write_report(
    directory: Path, summary: Mapping[str, Any], records: Sequence[TrialRecord]
) -> Path:
    """Write the page of a run beside its summary; return its path."""
    path = directory / REPORT
    page = render_page(summary, records, lambda film: _data_uri(directory / film), datetime.now())
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


def render_page(
    summary: Mapping[str, Any],
    records: Sequence[TrialRecord],
    embed: Callable[[str], str | None],
    written: datetime,
) -> str:
    """The page as HTML; `embed` turns a film's path into a data URI, or None if it is gone."""
    config = summary["config"]
    ordered = sorted(records, key=lambda r: _plan_order(config, r))
    cards = _cards(ordered, embed)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, words=_words, heat=_heat)
    return environment.get_template(TEMPLATE).render(
        summary=summary,
        config=config,
        policies=summary["policies"],
        cards=cards,
        failures=[card for card in cards if not card.record.success],
        successes=[card for card in cards if card.record.success and card.shown],
        without_film=sum(1 for c in cards if c.record.film and not c.film),
        rows={name: _trial_rows(config, name, cards) for name in summary["policies"]},
        funnels={name: _funnel(p) for name, p in summary["policies"].items()},
        stages={name: stage_bars(p["stage_times_ms"]) for name, p in summary["policies"].items()},
        stage_words=STAGE_TIME_WORDS,
        backend_words=BACKEND_WORDS[config["backend"]],
        written=written.strftime("%-d %B %Y, %H:%M"),
    )


def stage_bars(times: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    """Median times on one time line, each stage where the ones before it end."""
    medians = {stage: t["median"] for stage, t in times.items()}
    starts, now = {}, 0.0
    for stage, median in medians.items():
        if stage == WHOLE_WAY:
            starts[stage] = 0.0
        elif stage == ROUND_TRIP:
            # The server's stages lie within; what is left of it is the way there and back.
            starts[stage] = medians.get(FIRST_STAGE, 0.0)
            now = starts[stage] + median
        else:
            starts[stage] = now
            now += median
    width = max((starts[stage] + median for stage, median in medians.items()), default=1.0) or 1.0
    return [
        Bar(
            STAGE_TIME_WORDS.get(stage, _words(stage)),
            f"{median:.1f} ms",
            100 * median / width,
            100 * starts[stage] / width,
            total=stage in (ROUND_TRIP, WHOLE_WAY),
        )
        for stage, median in medians.items()
    ]


def _cards(records: Sequence[TrialRecord], embed: Callable[[str], str | None]) -> list[Card]:
    """A card for every trial; failures get the room for films first."""
    chosen = sorted((r for r in records if r.film), key=lambda r: r.success)[:MOST_FILMS]
    keys = {r.spec.key for r in chosen}
    return [
        Card(r, embed(r.film) if r.film is not None and r.spec.key in keys else None)
        for r in records
    ]


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


def _plan_order(config: Mapping[str, Any], r: TrialRecord) -> tuple[int, int, int, str]:
    return r.trial, config["tasks"].index(r.task), config["objects"].index(r.object), r.policy


def _data_uri(path: Path) -> str | None:
    if not path.is_file():
        return None
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _percent(rate: float | None) -> str:
    """A rate 0..1 as the paper prints it: one decimal."""
    return "–" if rate is None else f"{100 * rate:.1f}"


def _words(name: str) -> str:
    """An identifier as a person reads it."""
    return name.replace("_", " ")


def _heat(rate: float | None) -> int:
    """Strength 0..100 of a cell's colour."""
    return 0 if rate is None else round(100 * rate)
