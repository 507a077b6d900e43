"""Fault drills on the live simulated graph: `python -m roboalign.drills [--only NAME] [--json]`.

Each fault of `drills_faults.DRILLS` is made in real processes while the arm moves; the table says
how long after the deadline the arm held, how far it moved after the fault, and what mended it.
Exit codes: 0 when every drill passed, 1 when one did not, or could not run here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from contracts import kinematics
from contracts.motion import WORKSPACE_TOLERANCE
from contracts.robot import FR3
from roboalign.drills_graph import DrillGraph, NotPossible
from roboalign.graph import GraphArguments, build_graph
from roboalign.safety_filter import FilterLimits
from roboalign.supervisor import GraphDied
from simulation.live_control import LiveControlError

if TYPE_CHECKING:
    from roboalign.drills_faults import Drill, Scene
    from roboalign.drills_link import DrillLink, Seen

LONGEST_HOLD_MS = 100.0
"""After the deadline that defines the fault."""
REACTION_TIMEOUT_S = 20.0
RECOVERY_TIMEOUT_S = 90.0
AFTER_HOLD_S = 1.0
"""For how long the arm is looked at after it holds."""
MOVING_S = 1.0
TELL_AGAIN_S = 4.0
TRACKING = "tracking"


@dataclass(frozen=True)
class Outcome:
    """hold_ms: from the deadline to the hold, 0 if it held before; None where none was due.

    motion_mm: how far the end effector was from where it was at the deadline, at most.
    limits_broken: setpoints outside a limit, of all that were sent.
    """

    name: str
    passed: bool
    why: str
    hold_ms: float | None = None
    motion_mm: float | None = None
    limits_broken: int = 0


def run(drill: Drill, scene: Scene) -> Outcome:
    """One drill, from a moving arm to a moving arm."""
    link = scene.link
    try:
        if drill.needs:
            scene.graph.require(drill.needs)
        _get_moving(scene)
        drill.before(scene)
        link.forget()
        fault_at = time.monotonic()
        fault_at = drill.inject(scene) or fault_at
        hold_ms, motion_mm, problem = _watch(drill, scene, fault_at)
        drill.heal(scene)
        if not problem and not _moves_again(scene):
            problem = f"did not move again: {link.status.mode}: {link.status.reason}"
    except (NotPossible, TimeoutError, LiveControlError, GraphDied, _NotMoving) as error:
        drill.heal(scene) if not isinstance(error, NotPossible | GraphDied) else None
        return Outcome(drill.name, False, str(error))
    broken = sum(map(_breaks_a_limit, list(link.setpoints)))
    if not problem and broken:
        problem = f"{broken} setpoints outside the limits"
    return Outcome(drill.name, not problem, problem, hold_ms, motion_mm, broken)


class _NotMoving(Exception):
    """The arm could not be brought to move before a drill."""


def _get_moving(scene: Scene) -> None:
    """Everything mended, and the arm on its way."""
    graph, link = scene.graph, scene.link
    graph.set_mode("normal")
    graph.control.set_fault("none")
    if graph.clock is not None:
        graph.clock.jump(0.0)
    if not link.until(lambda: bool(link.statuses) and bool(link.poses), REACTION_TIMEOUT_S):
        raise _NotMoving("the arm node publishes nothing")
    if link.status.emergency_stop:
        link.call("reset_emergency_stop")
    if link.status.mode in ("error", "idle"):
        link.call("recover")
    if link.status.command_source != "policy":
        link.select("policy")
    if not _moves_again(scene):
        raise _NotMoving(f"the arm does not move: {link.status.mode}: {link.status.reason}")


def _moves_again(scene: Scene) -> bool:
    """Whether the arm follows the policy, for a while without a break."""
    from roboalign.drills_faults import INSTRUCTION

    link = scene.link
    link.instruct(INSTRUCTION)
    since = told_at = time.monotonic()

    def moving() -> bool:
        nonlocal since, told_at
        now = time.monotonic()
        if link.status.mode != TRACKING and now - told_at > TELL_AGAIN_S:
            told_at = now
            link.instruct(INSTRUCTION)  # a task node that starts switches the policy off
        if link.status.mode == "idle":  # a hold of half a minute has become a stop
            link.call("recover")
        if link.status.mode != TRACKING or now - link.statuses[-1].at > 1.0:
            since = now
        return now - since > MOVING_S

    return link.until(moving, RECOVERY_TIMEOUT_S)


def _watch(drill: Drill, scene: Scene, fault_at: float) -> tuple[float | None, float | None, str]:
    """Time to hold [ms], largest motion [mm] and what was wrong."""
    link = scene.link
    if drill.deadline is None:
        return None, None, drill.check(scene) if drill.check is not None else ""

    def held() -> Seen | None:
        later = (s for s in list(link.statuses) if s.at > fault_at)
        return next((s for s in later if s.message.mode != TRACKING), None)

    if not link.until(lambda: held() is not None, REACTION_TIMEOUT_S):
        return None, None, f"did not hold within {REACTION_TIMEOUT_S:g} s"
    seen = held()
    assert seen is not None
    deadline = _queue_end(link, seen.at) if drill.deadline < 0.0 else fault_at + drill.deadline
    hold_ms = 1e3 * max(0.0, seen.at - deadline)
    time.sleep(AFTER_HOLD_S)
    motion_mm = _motion(link, min(deadline, seen.at))
    problem = ""
    reasons = [s.message.reason for s in list(link.statuses) if s.at >= seen.at]
    if drill.reason and not any(re.search(drill.reason, reason) for reason in reasons):
        problem = f"held for another reason: {reasons[0] if reasons else 'none given'}"
    elif hold_ms > LONGEST_HOLD_MS:
        problem = f"held {hold_ms:.0f} ms after the deadline"
    return hold_ms, motion_mm, problem


def _queue_end(link: DrillLink, until: float) -> float:
    """When the arm's last queued waypoint was due."""
    ends = [s.at + s.message.queue_remaining_s for s in list(link.statuses) if s.at < until]
    return max(ends, default=until)


def _motion(link: DrillLink, since: float) -> float:
    """Largest distance [mm] of the measured position after `since` from where it was then."""
    positions = [
        (s.at, np.array([getattr(s.message.pose.position, axis) for axis in "xyz"]))
        for s in list(link.poses)
    ]
    before = [p for at, p in positions if at <= since]
    after = [p for at, p in positions if at > since]
    start = before[-1] if before else after[0] if after else np.zeros(3)
    return 1e3 * max((float(np.linalg.norm(p - start)) for p in after), default=0.0)


def _breaks_a_limit(seen: Seen) -> bool:
    """Whether one setpoint is outside a limit of position or speed."""
    limits, message = FilterLimits(), seen.message
    joints, velocity = np.array(message.joints), np.array(message.velocity)
    jacobian, pose = kinematics.jacobian(joints)
    twist = jacobian @ velocity
    lower, upper = FR3.joint_velocity_limits(joints)
    inside = (
        FR3.joints_within_limits(joints)
        and bool(np.all(velocity >= lower - 1e-6) and np.all(velocity <= upper + 1e-6))
        and bool(np.all(pose[:3] >= FR3.workspace_lower - WORKSPACE_TOLERANCE - 1e-4))
        and bool(np.all(pose[:3] <= FR3.workspace_upper + WORKSPACE_TOLERANCE + 1e-4))
        and float(np.linalg.norm(twist[:3])) <= 1.02 * limits.linear_speed
        and float(np.linalg.norm(twist[3:])) <= 1.02 * limits.angular_speed
    )
    return not inside


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The last line with `--json`."""
    holds = [o.hold_ms for o in outcomes if o.hold_ms is not None]
    return {
        "drills": len(outcomes),
        "passed": sum(o.passed for o in outcomes),
        "worst_hold_ms": round(max(holds), 1) if holds else None,
        "limits_broken": sum(o.limits_broken for o in outcomes),
        "outcomes": [asdict(o) for o in outcomes],
    }


def table(drills: Sequence[Drill], outcomes: Sequence[Outcome]) -> Table:
    shown = Table(title="Fault drills", show_lines=False)
    for column in ("fault", "reaction", "to hold", "motion", "limits", "recovered", ""):
        shown.add_column(column, overflow="fold")
    for drill, outcome in zip(drills, outcomes, strict=True):
        shown.add_row(
            drill.fault,
            drill.reaction,
            "" if outcome.hold_ms is None else f"{outcome.hold_ms:.0f} ms",
            "" if outcome.motion_mm is None else f"{outcome.motion_mm:.0f} mm",
            str(outcome.limits_broken),
            drill.recovered,
            "[green]passed" if outcome.passed else f"[red]{outcome.why}",
        )
    return shown


def _run_all(drills: Sequence[Drill], console: Console, logs: Path | None) -> list[Outcome]:
    """Raises GraphDied: the graph did not start."""
    outcomes: list[Outcome] = []
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress, DrillGraph(logs) as graph:
        task = progress.add_task("the robot graph is ready")
        from roboalign.drills_faults import Scene
        from roboalign.drills_link import DrillLink

        with DrillLink(graph.domain_id) as link:
            scene = Scene(graph, link)
            for number, drill in enumerate(drills):
                progress.update(task, description=f"{number + 1}/{len(drills)} {drill.fault}")
                if graph.died:
                    graph.stop()
                    graph.start()
                outcomes.append(run(drill, scene))
                word = "passed" if outcomes[-1].passed else outcomes[-1].why
                console.print(f"{drill.name}: {word}")
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m roboalign.drills", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    parser.add_argument("--logs", type=Path, help="keep the processes' logs in this directory")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console = Console(stderr=options.json)
    # First: rclpy reads the graph's environment when it is loaded.
    os.environ.update(build_graph(GraphArguments(sim=True)).environment)
    try:
        from roboalign.drills_faults import DRILLS

        names = [drill.name for drill in DRILLS]
        if options.list:
            print("\n".join(names))
            return 0
        unknown = sorted(set(options.only or ()) - set(names))
        if unknown:
            print(
                f"drills: unknown {', '.join(unknown)}; known: {', '.join(names)}", file=sys.stderr
            )
            return 2
        drills = [d for d in DRILLS if not options.only or d.name in options.only]
        outcomes = _run_all(drills, console, options.logs)
    except GraphDied as error:
        print(f"drills: the graph did not start: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drills: interrupted", file=sys.stderr)
        return 130
    console.print(table(drills, outcomes))
    if options.json:
        print(json.dumps(summary(outcomes)))
    return 0 if all(o.passed for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
