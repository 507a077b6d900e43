"""`python -m evaluation run`: trials of policies in simulation; `demo`: a first look.

`representation`: how well a backbone's hidden states tell the steps of a task apart.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contracts.task import OBJECTS, TASKS
from evaluation.plan import BACKENDS, FILMS
from evaluation.policies import SCRIPTED
from evaluation.rendering import NoRendering, check_rendering

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130


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
    _add_run(commands.add_parser("run", help="N trials for each task and object"))
    _add_demo(commands.add_parser("demo", help="the whole graph, one trial of each task"))
    _add_representation(
        commands.add_parser("representation", help="nearest neighbours on hidden states (Table 9)")
    )
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = f"{SCRIPTED}, a shipped bundle's name, or a bundle's directory; may be repeated"
    processors = os.cpu_count() or 1
    add("--policy", action="append", required=True, metavar="NAME", help=names)
    add("--backend", choices=BACKENDS, default="fast", help="default fast")
    add("--trials", type=int, default=6, help="for each task and object (default 6)")
    add("--seed", type=int, default=0, help="trial i starts from placement seed + i (default 0)")
    add("--out", type=Path, required=True, help="new directory, or one to go on in")
    add("--task", action="append", metavar="TASK", help=f"default all: {', '.join(TASKS)}")
    add("--object", action="append", metavar="OBJECT", help=f"default all: {', '.join(OBJECTS)}")
    add("--film", choices=FILMS, default="failures", help="trials whose film is kept")
    add("--random-look", action="store_true", help="light and colours from each trial's seed")
    add("--workers", type=int, default=processors, help="processes of the fast backend")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--trials", type=int, default=1, help="of each task (default 1)")
    add("--short", action="store_true", help="one task instead of four")
    add("--bundle", default="shipped", help="a shipped bundle's name, or a bundle's directory")
    add("--seed", type=int, default=0, help="trial i starts from placement seed + i (default 0)")
    add("--out", type=Path, help="default runs/<date>-<time>")


def _add_representation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = "a shipped bundle's name, or a bundle's directory; may be repeated"
    add("--bundle", action="append", metavar="NAME", help=f"default shipped; {names}")
    add("--trajectories", type=int, default=20, help="successful ones of one task (default 20)")
    add("--seed", type=int, default=0, help="first placement seed, and of the bootstrap")
    add("--out", type=Path, help="directory for the figures and the features")
    add("--json", action="store_true", help="only the last line, without the table before it")


if __name__ == "__main__":
    sys.exit(main())
