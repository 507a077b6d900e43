"""report.html of a study: one self-contained page beside its study.json.

    python -m training.study_report runs/lab/study.json

The tables are laid out as the paper's 2/4, 6, 7 and 9, with the paper's figures beside ours. What
was not run is shown as that. Film strips stay files beside the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training import paper_figures as paper
from training import study_charts as charts
from training.study_charts import Dot
from training.study_schema import (
    Arm,
    Failure,
    Rung,
    Stage,
    Study,
    StudyError,
    read_study,
    unknown_fields,
)  # fmt: skip

REPORT: Final = "report.html"
TEMPLATE: Final = "study_report.html.j2"
REFUSED: Final = 2
MOST_FILMS: Final = 24
OPEN_RESPONSES: Final = 4
"""The others are there, folded away."""

MAIN: Final = {
    "random": "Random backbone",
    "base": "Base",
    "sft": "RoboAlign (SFT)",
    "sft_rl": "RoboAlign (SFT + RL)",
}
ALTERNATIVES: Final = {
    "language_sft": "Language-only SFT",
    "action_sft": "Action-only SFT",
    "moves_rl": "RL on moves in words",
    "trajectory_rl": "RL on 2D trajectories",
    "ecot_sft": "SFT on embodied chain of thought (ECoT)",
}
LADDER: Final = {
    "state": "Policy on the true state",
    "end_to_end": "Policy on images, end to end",
    "grounded": "Frozen: grounding only",
}
"""Arms and rungs that a whole study has; one that is missing is shown as not run."""

LOGS: Final = {
    "base": ("Base: general questions and pointing", "model:base"),
    "sft": ("Stage 1: supervised fine-tuning", "model:sft"),
    "grpo": ("Stage 2: reinforcement learning (GRPO)", "model:sft_rl"),
}
"""Title of each training log, and the stage that wrote it."""

SHOWN_APART: Final = ("model", "ladder")
"""Kinds of stages whose members differ in what they do, so that each has its own bar."""

TABLES: Final = (
    (
        "Methods", "main", "Laid out as the paper's Tables 2 and 4.",
        ("random", "base", "language_sft", "action_sft", "sft", "sft_rl"),
        "Table 2", paper.TABLE_2_AVERAGE,
    ),
    (
        "What RL is aligned with", "alignment", "Laid out as the paper's Table 6.",
        ("sft", "moves_rl", "trajectory_rl", "sft_rl"), "Table 6", paper.TABLE_6_AVERAGE,
    ),
    (
        "RL or SFT for the alignment", "sft-alignment", "Laid out as the paper's Table 7.",
        ("sft", "ecot_sft", "sft_rl"), "Table 7", paper.TABLE_7_AVERAGE,
    ),
)  # fmt: skip
"""Title, anchor, text, arms, and the paper's table whose LIBERO average stands in the last
column."""


@dataclass(frozen=True)
class MethodTable:
    """Rows of arms (None: not run) under the title; `reference` is the paper's table."""

    title: str
    anchor: str
    text: str
    rows: tuple[tuple[str, str, Arm | None], ...]
    reference: str
    averages: Mapping[str, float]


def write(study: Mapping[str, Any], folder: Path) -> Path:
    """Render `study` (as study.json holds it) to report.html in `folder`; the page's path.

    Raises:
        StudyError: a field is missing, of another kind, or contradicts another one.
    """
    page = render(read_study(study), folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{REPORT}.part"
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(folder / REPORT)
    return folder / REPORT


def render(study: Study, folder: Path) -> str:
    """The page as HTML; `folder` is where film strips are looked for."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        points=_points,
        number=_number,
        words=charts.words,
        duration=_duration,
        upper_first=charts.upper_first,
    )
    arms = {arm.key: arm for arm in study.arms}
    labels = MAIN | ALTERNATIVES | {arm.key: arm.label for arm in study.arms}
    commands = {stage.name: stage.command for stage in study.stages if stage.command}
    films = _films(study.failures, folder)
    page = environment.get_template(TEMPLATE).render(
        study=study,
        labels=labels,
        tasks=paper.TABLE_4_TASKS,
        headline=[_dot(arms.get(k), labels[k], paper.TABLE_4_AVERAGE.get(k)) for k in MAIN],
        best=arms.get("sft_rl"),
        order=_order(arms),
        tables=_tables(arms, labels),
        paper_tasks=paper.TABLE_4,
        paper_average=paper.TABLE_4_AVERAGE,
        arms=[*arms.values()],
        objects=list(dict.fromkeys(obj for arm in study.arms for obj in arm.objects)),
        ladder=_ladder(study.ladder, arms, labels),
        neighbours=_neighbours(arms, labels, commands),
        curves=_curves(study, labels, commands),
        commands=commands,
        compute=_compute(study.stages),
        skills=_columns(arm.skills for arm in study.arms),
        readouts=_columns(arm.readout for arm in study.arms),
        open_responses=OPEN_RESPONSES,
        films=films[:MOST_FILMS],
        more_films=len(films) - len(films[:MOST_FILMS]),
        without_film=len(study.failures) - len(films),
        total=sum(stage.seconds for stage in study.stages),
        width=charts.WIDTH,
        height=charts.HEIGHT,
        left=charts.LEFT,
        bottom=charts.HEIGHT - charts.BOTTOM,
    )
    # The macros before the document leave empty lines.
    return page.lstrip()


def _dot(
    counted: Arm | Rung | None, label: str, from_paper: float | None = None
) -> tuple[Dot, Arm | Rung | None]:
    if counted is None or counted.rate is None:
        return Dot(label, None, paper=from_paper), counted
    low, high = counted.interval or (None, None)
    return Dot(
        label,
        100 * counted.rate,
        None if low is None else 100 * low,
        None if high is None else 100 * high,
        note=f"{counted.successes} of {counted.trials}",
        seeds=tuple(
            100 * seed.rate for seed in getattr(counted, "seeds", ()) if seed.rate is not None
        ),
        paper=from_paper,
    ), counted


def _tables(arms: Mapping[str, Arm], labels: Mapping[str, str]) -> list[MethodTable]:
    known = {key for *_, keys, _, _ in TABLES for key in keys}
    others = tuple(key for key in arms if key not in known)
    tables = []
    for title, anchor, text, keys, reference, averages in TABLES:
        shown = keys + others if anchor == "main" else keys
        rows = tuple((key, labels[key], arms.get(key)) for key in shown)
        tables.append(MethodTable(title, anchor, text, rows, reference, averages))
    return tables


def _ladder(
    rungs: Sequence[Rung], arms: Mapping[str, Arm], labels: Mapping[str, str]
) -> list[tuple[Dot, Arm | Rung | None]]:
    """Ceilings and start first, in the study's order, then the frozen backbones."""
    found = {rung.key: rung for rung in rungs}
    keys = [*LADDER, *(key for key in found if key not in LADDER and key not in MAIN)]
    first = [
        _dot(found.get(key), found[key].label if key in found else LADDER[key]) for key in keys
    ]
    return first + [_dot(arms.get(key), f"Frozen: {labels[key]}") for key in MAIN]


def _neighbours(
    arms: Mapping[str, Arm], labels: Mapping[str, str], commands: Mapping[str, str]
) -> list[tuple[Dot, str | None]]:
    """Rows of Table 9, in per cent, each with its command."""
    rows: list[tuple[Dot, str | None]] = []
    for key in [*MAIN, *(key for key, arm in arms.items() if arm.knn and key not in MAIN)]:
        knn = arms[key].knn if key in arms else None
        if knn is None:
            rows.append((Dot(labels[key], None, paper=paper.TABLE_9.get(key)), None))
            continue
        low, high = (None, None) if knn.interval is None else (100 * b for b in knn.interval)
        chance = None if knn.chance is None else 100 * knn.chance
        dot = Dot(
            labels[key], 100 * knn.accuracy, low, high, paper=paper.TABLE_9.get(key), chance=chance
        )
        rows.append((dot, knn.command or commands.get(f"knn:{key}")))
    return rows


def _curves(
    study: Study, labels: Mapping[str, str], commands: Mapping[str, str]
) -> list[tuple[str, list[str], list[charts.LineChart]]]:
    """For each log: its title, the commands that wrote it, its charts (none: not run)."""
    found = [
        (title, [stage], charts.stage_charts(name, getattr(study.curves, name)))
        for name, (title, stage) in LOGS.items()
    ]
    heads = study.curves.heads
    drawn = charts.heads_charts({labels.get(arm, arm): rows for arm, rows in heads.items()})
    stages = [f"head:{arm}:{study.seeds[0] if study.seeds else 0}" for arm in heads]
    found.append(("Diffusion heads on the frozen backbones, first seed", stages, drawn))
    return [
        (title, [commands[name] for name in names if name in commands], drawn)
        for title, names, drawn in found
    ]


def _compute(stages: Sequence[Stage]) -> list[tuple[str, list[Stage]]]:
    """Stages of one kind together: `head:sft:0` and `head:base:1` are both heads."""
    kinds: dict[str, list[Stage]] = {}
    for stage in stages:
        kind = stage.name.split(":")[0]
        kinds.setdefault(stage.name if kind in SHOWN_APART else kind, []).append(stage)
    return list(kinds.items())


def _order(arms: Mapping[str, Arm]) -> str | None:
    """One sentence on whether base, SFT and SFT + RL come in the paper's order."""
    rates = [arms[k].rate if k in arms else None for k in ("base", "sft", "sft_rl")]
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return None
    if known[0] < known[1] < known[2]:
        return "Base, SFT and SFT + RL come in the paper's order."
    return "Base, SFT and SFT + RL come in another order than the paper's."


def _films(failures: Sequence[Failure], folder: Path) -> list[Failure]:
    return [f for f in failures if f.film is not None and (folder / f.film).is_file()]


def _columns(rows: Any) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _percent(rate: float | None, digits: int = 1) -> str:
    """A fraction as the paper prints it."""
    return "–" if rate is None else f"{100 * rate:.{digits}f}"


def _points(difference: float) -> str:
    """A difference of rates in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    if float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def main() -> int:
    """Exit code: 0 done, 2 the study cannot be shown."""
    parser = argparse.ArgumentParser(description="Write the page of a study beside its study.json.")
    parser.add_argument("study", type=Path, help="study.json, or the folder that holds it")
    arguments = parser.parse_args()
    path = arguments.study / "study.json" if arguments.study.is_dir() else arguments.study
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name in unknown_fields(read_study(content)):
            print(f"{path}: the field {name} is not known and not shown", file=sys.stderr)
        print(write(content, path.parent))
    except (OSError, json.JSONDecodeError) as error:
        print(f"{path}: cannot be read ({error})", file=sys.stderr)
        return REFUSED
    except StudyError as error:
        print(f"{path}: not a study that can be shown\n{error}", file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
