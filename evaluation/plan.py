"""What a run is asked to do: its configuration, and every trial of it.

In which order the trials are run, and under which labels, is `evaluation.trial_plan`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from contracts.task import OBJECTS, TASKS, check_object, get_task
from evaluation.policies import PolicyChoice

SIMULATED: Final = ("fast", "live")
"""Backends whose trials physics judges."""
BACKENDS: Final = (*SIMULATED, "real")
"""On the real robot a person judges: `python -m evaluation score`."""
FILMS: Final = ("all", "failures", "none")
"""Which trials keep a film; `failures` also keeps the first trial of each task and object."""

TIME_LIMIT_S: Final = 15.0
"""A trial that has not succeeded by then has failed."""
SUCCESS_HOLD_S: Final = 0.3
"""How long success must last, so that an object that rolls through the target does not count."""
POLICY_LATENCY_S: Final = 0.1
"""Modelled delay from picture to usable chunk on the fast backend; the live one has its own."""


class PlanError(ValueError):
    """A run that cannot be done as asked; the text says why and what would work."""


@dataclass(frozen=True)
class TrialSpec:
    """Trial number `trial` of a policy on one task and object; `seed` decides the placement."""

    policy: str
    task: str
    object: str
    trial: int
    seed: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes the trial unique within a run."""
        return self.policy, self.task, self.object, self.trial


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the outcomes of a run; saved whole beside its results."""

    policies: tuple[PolicyChoice, ...]
    backend: str
    trials: int
    seed: int
    tasks: tuple[str, ...] = tuple(TASKS)
    objects: tuple[str, ...] = OBJECTS
    film: str = "failures"
    rotate_objects: bool = False
    """One object for each task and trial, in turn, instead of all: a short look at every task."""
    random_look: bool = False
    """Light and colours drawn from each trial's seed; on the fast backend only."""
    time_limit_s: float = TIME_LIMIT_S
    success_hold_s: float = SUCCESS_HOLD_S
    policy_latency_s: float = POLICY_LATENCY_S
    sequential_alpha: float | None = None
    """Error rate of a comparison that may stop early; None runs every trial."""

    def __post_init__(self) -> None:
        check_request(self.backend, self.trials, self.seed, self.tasks, self.objects)
        if self.film not in FILMS:
            raise PlanError(f"unknown choice of films {self.film!r}; known: {', '.join(FILMS)}")
        if not self.policies:
            raise PlanError("no policy to evaluate")
        if self.backend != "fast" and any(policy.bundle is None for policy in self.policies):
            raise PlanError("the scripted policy reads the simulator's truth: use --backend fast")
        if self.backend != "fast" and self.random_look:
            raise PlanError("--random-look needs --backend fast")
        if self.sequential_alpha is not None:
            if len(self.policies) != 2:
                raise PlanError(f"--sequential compares two policies, not {len(self.policies)}")
            if not 0.0 < self.sequential_alpha < 1.0:
                raise PlanError(f"--sequential is an error rate, got {self.sequential_alpha}")

    def as_json(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and text, as they come back from a JSON file."""
        content = asdict(self)
        content["policies"] = [asdict(policy) for policy in self.policies]
        return content | {"tasks": list(self.tasks), "objects": list(self.objects)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunConfig:
        """The inverse of `as_json`; fields that older files lack have their defaults.

        Raises:
            PlanError: unknown or missing fields, or values that cannot be.
        """
        unknown = sorted(set(content) - {f.name for f in fields(cls)})
        if unknown:
            raise PlanError(f"unknown fields in the configuration: {', '.join(unknown)}")
        try:
            policies = tuple(PolicyChoice(**policy) for policy in content["policies"])
            lists = {name: tuple(content[name]) for name in ("tasks", "objects")}
            return cls(**{**content, **lists, "policies": policies})
        except (KeyError, TypeError) as error:
            raise PlanError(f"not the configuration of a run ({error})") from error


def check_request(
    backend: str, trials: int, seed: int, tasks: Sequence[str], objects: Sequence[str]
) -> None:
    """Refuse unknown names and impossible numbers before anything is loaded or started.

    Raises:
        PlanError: the text names the value and what is known.
    """
    try:
        for task in tasks:
            get_task(task)
        for obj in objects:
            check_object(obj)
    except ValueError as error:
        raise PlanError(str(error)) from error
    if len(set(tasks)) != len(tasks) or len(set(objects)) != len(objects):
        raise PlanError("a task or an object is given twice")
    if not tasks or not objects:
        raise PlanError("at least one task and one object are needed")
    if backend not in BACKENDS:
        raise PlanError(f"unknown backend {backend!r}; known backends: {', '.join(BACKENDS)}")
    if trials < 1:
        raise PlanError(f"--trials must be at least 1, got {trials}")
    if seed < 0:
        raise PlanError(f"--seed must not be negative, got {seed}")


def trial_plan(config: RunConfig) -> Iterator[TrialSpec]:
    """Every trial of a run, in order.

    Policies meet the same starts, and the first trials of every pair come first, so that the score
    shown while a run is under way is already about all tasks and objects.
    """
    for trial in range(config.trials):
        for number, task in enumerate(config.tasks):
            turn = config.objects[(number + trial) % len(config.objects)]
            for obj in (turn,) if config.rotate_objects else config.objects:
                for policy in config.policies:
                    yield TrialSpec(policy.name, task, obj, trial, config.seed + trial)
