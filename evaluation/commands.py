"""What the command line asks for, carried out: checks first, then the work, then one last line."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from contracts.bundle import BundleError
from contracts.task import OBJECTS, TASKS
from evaluation.bench_command import bench
from evaluation.fast_backend import WorkersLost
from evaluation.fast_backend import run_trials as run_fast
from evaluation.graph_process import GraphFailed, PortTaken, check_ports
from evaluation.live_backend import RosMissing, broken_trials, check_ros
from evaluation.live_backend import run_trials as run_live
from evaluation.plan import SIMULATED, PlanError, RunConfig, check_request
from evaluation.policies import SCRIPTED, choose_policies
from evaluation.power_command import power
from evaluation.report import REPORT
from evaluation.report_commands import compare, report
from evaluation.representation import analyse
from evaluation.runner import Backend, run
from evaluation.scoring_commands import score, void
from evaluation.summary import main_figures
from evaluation.trial_log import LogError, read_config
from evaluation.trial_plan import PLAN, RunPlan, prepare

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
    except (WorkersLost, GraphFailed, OSError) as error:
        return _say(console, str(error), FAILED)
    except KeyboardInterrupt:
        return _say(console, "interrupted; finished trials are kept", INTERRUPTED)
    return DONE


def _plan(options: argparse.Namespace, console: Console) -> None:
    plan = prepare(options.out, _config(options, options.policy))
    _show_plan(plan, options.out, console)
    figures = {name: plan.content[name] for name in ("estimated_seconds", "power", "commitment")}
    print(json.dumps({"trials": len(plan.trials), **figures, "hash": plan.hash}), flush=True)


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.workers < 1:
        raise PlanError(f"--workers must be at least 1, got {options.workers}")
    config = _config(options, options.policy) if options.policy else _planned_config(options.out)
    if config.backend not in SIMULATED:
        raise PlanError(f"{options.out} is for the real robot: python -m evaluation score")
    if config.backend == "live":
        _check_live()
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


def _config(options: argparse.Namespace, policies: Sequence[str]) -> RunConfig:
    """The run that the options of `plan` and `run` describe; bundles are loaded last."""
    tasks, objects = tuple(options.task or TASKS), tuple(options.object or OBJECTS)
    check_request(options.backend, options.trials, options.seed, tasks, objects)
    if options.backend != "fast" and SCRIPTED in policies:
        raise PlanError("the scripted policy reads the simulator's truth: use --backend fast")
    return RunConfig(
        policies=choose_policies(policies),
        backend=options.backend,
        trials=options.trials,
        seed=options.seed,
        tasks=tasks,
        objects=objects,
        # A failure is looked at beside the other policy's trial from the same start.
        film=options.film or ("all" if len(policies) > 1 else "failures"),
        random_look=options.random_look,
        sequential_alpha=options.sequential,
    )


def _planned_config(directory: Path) -> RunConfig:
    """The run that was planned in `directory`, with its bundles as they are now."""
    config = RunConfig.from_json(read_config(directory))
    names = [policy.bundle or SCRIPTED for policy in config.policies]
    return replace(config, policies=choose_policies(names))


def _show_plan(plan: RunPlan, directory: Path, console: Console) -> None:
    power, minutes = plan.content["power"], plan.content["estimated_seconds"] / 60
    console.print(f"{len(plan.trials)} trials, about {minutes:.0f} min: {directory / PLAN}")
    console.print(f"a rate will be known to ± {100 * power['half_width']:.0f} points at worst")
    if len(plan.config.policies) > 1:
        found = power["detectable_difference"]
        text = f"of {100 * found:.0f} points" if found is not None else "however large"
        chance = f"{100 * power['wanted_power']:.0f} %"
        never = "" if found is not None else "not "
        console.print(
            f"a difference {text} will {never}be found with {chance} power "
            f"({power['starts']} matched starts, rates about {100 * power['expected_rate']:.0f} %)"
        )
        names = ", ".join(policy.name for policy in plan.config.policies)
        console.print(f"the policies are {names}; which is which stays sealed until the last trial")


def _check_live() -> None:
    check_ros()
    check_ports()


def _carry_out(config: RunConfig, directory: Path, workers: int, console: Console) -> None:
    """Run and show the figures. A low score is a result; only a broken graph is a failure."""
    backend: Backend = (
        (lambda config, specs, tell: run_live(config, specs, directory, tell))
        if config.backend == "live"
        else (lambda config, specs, tell: run_fast(config, specs, workers, tell))
    )
    summary, results = run(config, directory, backend, console)
    console.print(f"report: {directory / REPORT}", soft_wrap=True)
    print(json.dumps(main_figures(summary)), flush=True)
    broken = broken_trials(results.records) if config.backend == "live" else []
    if broken:
        raise GraphFailed("\n".join(["the graph did not work in every trial:", *broken]))


COMMANDS: Final = {
    "plan": _plan,
    "run": _run,
    "score": score,
    "void": void,
    "report": report,
    "compare": compare,
    "power": power,
    "bench": bench,
    "demo": _demo,
    "representation": _representation,
}


def _say(console: Console, text: str, code: int) -> int:
    console.print(f"evaluation: {text}", style="red", soft_wrap=True)
    return code


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
