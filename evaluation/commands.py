"""What the command line asks for, carried out: checks first, then the run, then one last line."""

from __future__ import annotations

import argparse
import json
import signal
from datetime import datetime
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from contracts.bundle import BundleError
from contracts.task import OBJECTS, TASKS
from evaluation.fast_backend import WorkersLost
from evaluation.fast_backend import run_trials as run_fast
from evaluation.graph_process import GraphFailed, PortTaken, check_ports
from evaluation.live_backend import RosMissing, broken_trials, check_ros
from evaluation.live_backend import run_trials as run_live
from evaluation.plan import PlanError, RunConfig, check_request
from evaluation.policies import SCRIPTED, choose_policies
from evaluation.report import REPORT
from evaluation.representation import analyse
from evaluation.runner import Backend, run
from evaluation.summary import main_figures
from evaluation.trial_log import LogError

DONE: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
INTERRUPTED: Final = 130
MISUSE: Final = (PlanError, BundleError, LogError, PortTaken, RosMissing)
"""What a person can put right; nothing has been started, or it has been stopped again."""


def execute(options: argparse.Namespace) -> int:
    """Carry out `options.command`; the exit code is one of the four above."""
    console = Console(stderr=True, highlight=False, markup=False)
    # A closed terminal and a kill end a run in order, as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        COMMANDS[options.command](options, console)
    except MISUSE as error:
        return _say(console, str(error), REFUSED)
    except (WorkersLost, GraphFailed) as error:
        return _say(console, str(error), FAILED)
    except KeyboardInterrupt:
        return _say(console, "interrupted; finished trials are kept", INTERRUPTED)
    return DONE


def _run(options: argparse.Namespace, console: Console) -> None:
    tasks, objects = tuple(options.task or TASKS), tuple(options.object or OBJECTS)
    check_request(options.backend, options.trials, options.seed, tasks, objects)
    if options.workers < 1:
        raise PlanError(f"--workers must be at least 1, got {options.workers}")
    if options.backend == "live":
        if SCRIPTED in options.policy:
            raise PlanError("the scripted policy reads the simulator's truth: use --backend fast")
        _check_live()
    config = RunConfig(
        policies=choose_policies(options.policy),
        backend=options.backend,
        trials=options.trials,
        seed=options.seed,
        tasks=tasks,
        objects=objects,
        film=options.film,
        random_look=options.random_look,
    )
    _carry_out(config, options.out, options.workers, console)


def _demo(options: argparse.Namespace, console: Console) -> None:
    tasks = tuple(TASKS)[: 1 if options.short else None]
    check_request("live", options.trials, options.seed, tasks, OBJECTS)
    _check_live()
    config = RunConfig(
        policies=choose_policies([options.bundle]),
        backend="live",
        trials=options.trials,
        seed=options.seed,
        tasks=tasks,
        film="all",
        rotate_objects=True,
    )
    out = options.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    _carry_out(config, out, 1, console)


def _representation(options: argparse.Namespace, console: Console) -> None:
    result = analyse(
        choose_policies(options.bundle or ["shipped"]),
        options.trajectories,
        options.seed,
        options.out,
    )
    if not options.json:
        console.print(f"{result['frames']} frames of {result['trajectories']} trajectories")
        for model in result["models"]:
            low, high = (100 * bound for bound in model["interval"])
            console.print(
                f"{model['bundle']}: {100 * model['accuracy']:.2f} % ({low:.2f} to {high:.2f}), "
                f"chance {100 * model['chance']:.2f} %"
            )
    print(json.dumps(result), flush=True)


def _check_live() -> None:
    check_ros()
    check_ports()


def _carry_out(config: RunConfig, directory: Path, workers: int, console: Console) -> None:
    """Run and show the figures. A low score is a result; only a broken graph is a failure."""
    backend: Backend = (
        (lambda specs, tell: run_live(config, specs, directory, tell))
        if config.backend == "live"
        else (lambda specs, tell: run_fast(config, specs, workers, tell))
    )
    summary, records = run(config, directory, backend, console)
    console.print(f"report: {directory / REPORT}", soft_wrap=True)
    print(json.dumps(main_figures(summary)), flush=True)
    broken = broken_trials(records) if config.backend == "live" else []
    if broken:
        raise GraphFailed("\n".join(["the graph did not work in every trial:", *broken]))


COMMANDS: Final = {"run": _run, "demo": _demo, "representation": _representation}


def _say(console: Console, text: str, code: int) -> int:
    console.print(f"evaluation: {text}", style="red", soft_wrap=True)
    return code


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
