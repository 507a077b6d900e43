"""Trials on the real robot: a person puts up the scene, watches, and says how far it came.

The person sees labels, never names or scores. Every answer is on disk before the next question.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from rich.console import Console

from contracts.task import get_task
from evaluation.film import save_strip
from evaluation.operator_robot import OperatorRobot
from evaluation.outcome import FAILURES, SUCCESS
from evaluation.policy_switch import PolicySwitch
from evaluation.results import early_stop
from evaluation.start_pictures import StartPictures
from evaluation.trial_log import TrialLog, TrialRecord
from evaluation.trial_order import PlannedTrial
from evaluation.trial_plan import RunPlan
from simulation.cameras import FRONT
from simulation.placement import Placement, sample_placement
from simulation.scoring import STAGES

STAGE_KEYS: Final = {"n": "none", **{stage[0]: stage for stage in STAGES}}
"""One letter for each stage: n, r, g, l, m, p."""
REASON_KEYS: Final = {"w": "wrong_object", "c": "collision", "o": "operator_stop", "": "operator"}
QUESTION: Final = (
    "how far? s success (stayed at its place) | furthest stage: n none, r reached, g grasped, "
    "l lifted, m moved, p placed | v void | q quit"
)
WHY: Final = "why? Enter ran out of time | w wrong object | c collision | o stopped for safety"

Ask = Callable[[str], str]
"""Shows a question and returns the answer; EOFError ends the session."""


class Quit(Exception):
    """The person wants to go on another time."""


@dataclass(frozen=True)
class Verdict:
    """What the person said; `void` is the reason why the trial does not count."""

    success: bool = False
    stage: str = "none"
    reason: str = "operator"
    void: str | None = None


@dataclass
class ScoringSession:
    """A person, a plan and its log; with a `robot` trials are started and filmed from here.

    switch: the policy server that is told before each trial which policy it serves.
    """

    plan: RunPlan
    log: TrialLog
    ask: Ask
    console: Console
    switch: PolicySwitch | None = None
    robot: OperatorRobot | None = None

    def __post_init__(self) -> None:
        self._starts = StartPictures(self.log.directory)

    def run(self) -> int:
        """Ask for every trial that is missing, in the plan's order; return how many were scored.

        Raises:
            PlanError: the policy server did not change its policy.
            GraphFailed: the robot's graph does not answer.
        """
        scored = 0
        try:
            while (trial := self._next()) is not None:
                scored += self._one(trial)
        except (Quit, EOFError):
            self.console.print("stopped here; the same command goes on")
        finally:
            self._starts.close()
        return scored

    def _one(self, trial: PlannedTrial) -> bool:
        """One trial; False if it was voided."""
        spec = trial.spec
        self._announce(trial)
        if self.switch is not None:
            self.switch.serve(spec.policy)
        self._wait_for_scene(trial)
        started = time.monotonic()
        if self.robot is not None:
            self.robot.start(spec.task, spec.object)
        film: bytes | None = None
        stage_times: Mapping[str, Sequence[float]] = {}
        try:
            verdict = ask_verdict(self.ask, self.console)
        finally:
            if self.robot is not None:
                film, stage_times = self.robot.end()
        if verdict.void is not None:
            self.log.void(spec, verdict.void)
            return False
        seconds = round(time.monotonic() - started, 1)
        path = save_strip(film, self.log.directory, f"trial-{trial.number:04d}") if film else None
        self.log.append(
            TrialRecord(
                **asdict(spec),
                success=verdict.success,
                stage=verdict.stage,
                reason=verdict.reason,
                message=SUCCESS if verdict.success else FAILURES[verdict.stage],
                duration_s=seconds,
                wall_s=seconds,
                stage_times_ms=stage_times,
                film=path,
            )
        )
        return True

    def _wait_for_scene(self, trial: PlannedTrial) -> None:
        """With a robot, pictures show how far the scene is from the start that it should be."""
        question = "Enter when the scene stands and the policy may start, q quits"
        if self.robot is not None:
            self.robot.home()
            question += ", p draws the scene over the start"
        while True:
            answer = self.ask(question).strip().lower()
            if answer == "q":
                raise Quit
            seen = self.robot.pictures().get(FRONT) if self.robot is not None else None
            if answer == "p" and seen is not None:
                path = self._starts.overlay(_placement(trial), seen)
                self.console.print(f"overlay: {path}", soft_wrap=True)
            elif answer == "":
                if seen is not None:
                    self._starts.keep(_placement(trial), seen)
                return

    def _announce(self, trial: PlannedTrial) -> None:
        spec, placement = trial.spec, _placement(trial)
        self.console.rule(f"trial {trial.number} of {len(self.plan.trials)} · policy {spec.policy}")
        self.console.print(get_task(spec.task).instruction(spec.object))
        self.console.print("centres in the base frame, x forward and y left:")
        # A box is a container and an object too.
        for role, poses in (("container", placement.containers), ("object", placement.objects)):
            for name, pose in poses.items():
                self.console.print(
                    f"  {role:9} {name:11} x {100 * pose.x:5.1f} cm  y {100 * pose.y:+6.1f} cm  "
                    f"turned {math.degrees(pose.yaw):+4.0f}°"
                )
        self.console.print(f"picture: {self._starts.draw(placement)}", soft_wrap=True)

    def _next(self) -> PlannedTrial | None:
        if early_stop(self.plan, self.log.records.values()) is not None:
            return None
        return next((t for t in self.plan.trials if t.spec.key not in self.log.records), None)


def _placement(trial: PlannedTrial) -> Placement:
    return sample_placement(trial.spec.task, trial.spec.object, trial.spec.seed)


def ask_verdict(ask: Ask, console: Console) -> Verdict:
    """Ask until the answer is one; raises Quit."""
    while True:
        answer = ask(QUESTION).strip().lower()
        if answer == "q":
            raise Quit
        if answer == "v":
            if reason := ask("what spoilt the trial?").strip():
                return Verdict(void=reason)
            console.print("a trial is voided only with a reason")
        elif answer == "s":
            return Verdict(True, "placed", "success")
        elif answer in STAGE_KEYS:
            why = ask(WHY).strip().lower()
            if why in REASON_KEYS:
                return Verdict(False, STAGE_KEYS[answer], REASON_KEYS[why])
            console.print(f"{why!r} is none of w, c, o and Enter")
        else:
            console.print(f"{answer!r} is none of s, n, r, g, l, m, p, v and q")
