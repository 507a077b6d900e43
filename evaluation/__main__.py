"""`python -m evaluation plan | run | score | report`: trials of policies, and what they say.

`demo`: a first look at the whole graph. `representation`: how well a backbone's hidden states tell
the steps of a task apart.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contracts.task import OBJECTS, TASKS
from evaluation.plan import BACKENDS, FILMS, SIMULATED
from evaluation.policies import SCRIPTED
from evaluation.rendering import NoRendering, check_rendering

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130
POLICIES: Final = f"{SCRIPTED}, a shipped bundle's name, or a bundle's directory; may be repeated"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed, 2 it could not start as asked, 130 Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        check_rendering()
    except NoRendering as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return USAGE_ERROR
    try:
        # Only now: MuJoCo cannot even be imported where its OpenGL library is missing.
        from evaluation.commands import execute
    except KeyboardInterrupt:
        return INTERRUPTED
    return execute(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    _add_plan(commands.add_parser("plan", help="fix starts, order, labels and power beforehand"))
    _add_run(commands.add_parser("run", help="N trials for each task and object"))
    _add_score(commands.add_parser("score", help="a person judges trials on the real robot"))
    _add_void(commands.add_parser("void", help="let a spoilt trial not count; it is repeated"))
    _add_report(commands.add_parser("report", help="page, JSON and LaTeX of a run"))
    _add_compare(commands.add_parser("compare", help="one page of several runs"))
    _add_power(commands.add_parser("power", help="what a number of starts can show"))
    _add_bench(commands.add_parser("bench", help="time of an evaluation, by part"))
    _add_demo(commands.add_parser("demo", help="the whole graph, one trial of each task"))
    _add_representation(
        commands.add_parser("representation", help="nearest neighbours on hidden states (Table 9)")
    )
    return parser


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", action="append", required=True, metavar="NAME", help=POLICIES)
    _add_trials(parser, BACKENDS)


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    processors = os.cpu_count() or 1
    help_text = f"{POLICIES}; without one the plan in --out is carried out"
    add("--policy", action="append", metavar="NAME", help=help_text)
    add("--workers", type=int, default=processors, help="processes of the fast backend")
    _add_trials(parser, SIMULATED)


def _add_trials(parser: argparse.ArgumentParser, backends: Sequence[str]) -> None:
    """What decides the trials of a run, planned beforehand or not."""
    add = parser.add_argument
    add("--backend", choices=backends, default="fast", help="default fast")
    add("--trials", type=int, default=6, help="for each task and object (default 6)")
    add("--seed", type=int, default=0, help="trial i starts from placement seed + i (default 0)")
    add("--out", type=Path, required=True, help="new directory, or one to go on in")
    add("--task", action="append", metavar="TASK", help=f"default all: {', '.join(TASKS)}")
    add("--object", action="append", metavar="OBJECT", help=f"default all: {', '.join(OBJECTS)}")
    kept = "trials whose film is kept (default failures, and all where policies are compared)"
    add("--film", choices=FILMS, help=kept)
    add("--random-look", action="store_true", help="light and colours from each trial's seed")
    early = "stop once one of two policies is shown to be better, with this error rate (0.05)"
    add("--sequential", type=float, nargs="?", const=0.05, metavar="ALPHA", help=early)


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="with a plan for --backend real"
    )
    address = "http://127.0.0.1:8000, to be told before each trial which policy it serves"
    parser.add_argument("--policy-server", metavar="URL", help=address)
    graph = "start, film and stop trials on the graph that runs in this ROS_DOMAIN_ID"
    parser.add_argument("--robot", action="store_true", help=graph)


def _add_void(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--number", type=int, required=True, help="of the trial, in the plan")
    parser.add_argument("--reason", required=True, help="what spoilt it")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="of a run, finished or not")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="of runs")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="of the page")


def _add_power(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--starts", type=int, default=384, help="matched starts (default 384)")
    add("--alpha", type=float, default=0.05, help="error rate (default 0.05)")
    add("--experiments", type=int, default=10_000, help="simulated ones (default 10000)")
    add("--seed", type=int, default=0, help="of the simulated experiments")
    add("--json", action="store_true", help="only the last line")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--policy", default="shipped", metavar="NAME", help=POLICIES.partition(";")[0])
    add("--trials", type=int, default=24, help="for each task and object (default 24: 384 in all)")
    add("--seed", type=int, default=0, help="as run's")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    add("--json", action="store_true", help="only the last line")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--trials", type=int, default=1, help="of each task (default 1)")
    add("--short", action="store_true", help="one task instead of four")
    add("--bundle", default="shipped", help="a shipped bundle's name, or a bundle's directory")
    add("--seed", type=int, default=0, help="trial i starts from placement seed + i (default 0)")
    add("--out", type=Path, help="default runs/<date>-<time>")


def _add_representation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--bundle", action="append", metavar="NAME", help=f"default shipped; {POLICIES}")
    add("--trajectories", type=int, default=20, help="successful ones of one task (default 20)")
    add("--seed", type=int, default=0, help="first placement seed, and of the bootstrap")
    add("--out", type=Path, help="directory for the figures and the features")
    add("--json", action="store_true", help="only the last line, without the table before it")


if __name__ == "__main__":
    sys.exit(main())
