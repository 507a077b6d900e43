"""`python -m evaluation score` and `void`: what a person says about trials."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from rich.console import Console

from evaluation.live_backend import check_ros
from evaluation.operator_robot import OperatorRobot, connect
from evaluation.operator_scoring import ScoringSession
from evaluation.plan import PlanError, RunConfig
from evaluation.policies import SCRIPTED, choose_policies
from evaluation.policy_switch import PolicySwitch
from evaluation.report import REPORT
from evaluation.results import key_is_open
from evaluation.runner import write_results
from evaluation.summary import main_figures
from evaluation.trial_log import TrialLog, read_config
from evaluation.trial_plan import prepare, read_plan
from simulation.cameras import FRONT, WRIST

REAL_LIMIT_S: Final = 60.0
"""The task node ends a task by then; on the robot a person decides before that."""


def score(options: argparse.Namespace, console: Console) -> None:
    """Score trials of a plan for the real robot, from where the last session stopped."""
    directory = options.directory
    config = RunConfig.from_json(read_config(directory))
    if config.backend != "real":
        raise PlanError(f"{directory} is judged by physics: python -m evaluation run --out")
    bundles = [policy.bundle or SCRIPTED for policy in config.policies]
    plan = prepare(directory, replace(config, policies=choose_policies(bundles)))
    switch = None
    if options.policy_server is not None:
        by_label = {policy.name: policy for policy in plan.config.policies}
        switch = PolicySwitch(options.policy_server, by_label)
    started = time.monotonic()
    with TrialLog(directory, config.as_json(), plan.specs) as log:
        log.begin(plan.hash)
        try:
            with _robot(options) as robot:
                session = ScoringSession(
                    plan, log, lambda q: console.input(f"{q}: "), console, switch, robot
                )
                session.run()
        finally:
            seconds = time.monotonic() - started
            summary, results = write_results(directory, config, plan, log, seconds)
    left = len(results.trials) - len(results.records)
    console.print(f"{len(results.records)} trials are scored, {left} are left")
    if results.complete:
        console.print(f"report: {directory / REPORT}", soft_wrap=True)
        print(json.dumps(main_figures(summary)), flush=True)
    else:
        print(json.dumps({"scored": len(results.records), "left": left}), flush=True)


@contextmanager
def _robot(options: argparse.Namespace) -> Iterator[OperatorRobot | None]:
    """The robot's graph, if the person has it started from here."""
    if not options.robot:
        yield None
        return
    check_ros()
    domain_id = int(os.environ.get("ROS_DOMAIN_ID") or 0)
    with connect(domain_id, (FRONT, WRIST)) as link, OperatorRobot(link, REAL_LIMIT_S) as robot:
        yield robot


def void(options: argparse.Namespace, console: Console) -> None:
    """Let one trial not count; the run's own command repeats it."""
    directory = options.directory
    config = RunConfig.from_json(read_config(directory))
    plan = read_plan(directory, config)
    if key_is_open(directory):
        raise PlanError(f"{directory}: scoring has ended and the key is open; nothing is voided")
    chosen = [trial for trial in plan.trials if trial.number == options.number]
    if not chosen:
        raise PlanError(f"--number must be 1 to {len(plan.trials)}, got {options.number}")
    with TrialLog(directory, config.as_json(), plan.specs) as log:
        log.void(chosen[0].spec, options.reason)
        voided = len(log.voided)
    console.print(f"trial {options.number} does not count; the next session repeats it")
    print(json.dumps({"number": options.number, "voided": voided}), flush=True)
