"""study.json: what `training.lab` writes down of a study, and what the report page is made from.

Rates and intervals are fractions 0..1, differences of rates -1..1. Whatever was not run is absent
or null. Fields that are not listed here are kept, and named by `unknown_fields`, but not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.task import OBJECTS, TASKS

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Row = dict[str, Any]
"""One line of a training curve; every number but `step` is drawn over it."""
ROUNDING = 1e-6


class StudyError(ValueError):
    """A study.json that cannot be shown; the text says which field, what is wrong and what fits."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Counted(_Model):
    """`successes` of `trials`; both null where nothing was run."""

    successes: Count | None = None
    trials: Count | None = None

    @model_validator(mode="after")
    def _check_counts(self) -> Counted:
        if (self.successes is None) != (self.trials is None):
            raise ValueError("successes and trials go together: give both, or neither")
        if (self.successes or 0) > (self.trials or 0):
            raise ValueError(f"{self.successes} successes of {self.trials} trials")
        return self

    @property
    def rate(self) -> float | None:
        return None if not self.trials or self.successes is None else self.successes / self.trials


class Measured(Counted):
    """A rate with its 95 % interval."""

    interval: tuple[Share, Share] | None = None

    @model_validator(mode="after")
    def _check_rate(self) -> Measured:
        _check_interval(self.interval, self.rate)
        return self


class Seed(Counted):
    seed: int


class Knn(_Model):
    """What `python -m evaluation representation` printed for this model (Table 9)."""

    accuracy: Share
    interval: tuple[Share, Share] | None = None
    chance: Share | None = None
    command: str | None = None

    @model_validator(mode="after")
    def _check_accuracy(self) -> Knn:
        _check_interval(self.interval, self.accuracy)
        return self


class Arm(Measured):
    """A backbone, frozen, with heads trained on it and tried; counts are over all seeds."""

    key: str
    label: str
    group: Literal["main", "alternative"]
    what: str = ""
    tasks: dict[str, Counted] = {}
    objects: dict[str, Counted] = {}
    seeds: list[Seed] = []
    readout: dict[str, Number | None] = {}
    skills: dict[str, Number | None] = {}
    knn: Knn | None = None
    command: str | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> Arm:
        _check_names("task", self.tasks, tuple(TASKS))
        _check_names("object", self.objects, OBJECTS)
        parts = {"tasks": self.tasks.values(), "objects": self.objects.values()}
        for name, counted in (parts | {"seeds": self.seeds}).items():
            totals = sum(c.successes or 0 for c in counted), sum(c.trials or 0 for c in counted)
            if counted and totals != (self.successes or 0, self.trials or 0):
                raise ValueError(
                    f"{name} add up to {totals[0]} of {totals[1]} trials, "
                    f"the arm says {self.successes} of {self.trials}"
                )
        return self


class Rung(Measured):
    """One step of the ladder from a policy on the true state to the frozen backbones."""

    key: str
    label: str
    what: str = ""
    held_out: dict[str, Number | None] = {}
    command: str | None = None


class Comparison(_Model):
    """Success of arm `a` less that of arm `b`, on the same starts."""

    a: str
    b: str
    difference: Annotated[float, Field(ge=-1.0, le=1.0)]
    interval: tuple[float, float] | None = None
    p: Share | None = None


class Curves(_Model):
    """Rows of the training logs; `heads` by arm, with step, train, held_out and action_mm."""

    base: list[Row] = []
    sft: list[Row] = []
    grpo: list[Row] = []
    heads: dict[str, list[Row]] = {}


class Response(_Model):
    """What a model said to one prompt before and after reinforcement learning (Figure 7)."""

    instruction: str
    truth: str
    before: str
    after: str
    reward_before: Number | None = None
    reward_after: Number | None = None


class Failure(_Model):
    """A failed trial; `film` is a picture's path from the folder of the report."""

    arm: str
    task: str
    object: str
    reason: str
    film: str | None = None

    @model_validator(mode="after")
    def _check_film(self) -> Failure:
        path = PurePosixPath(self.film or "")
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1]:
            raise ValueError(f"film {self.film!r} must be a path inside the study's folder")
        return self


class Stage(_Model):
    """What one stage took. The name says what it made: `model:sft`, `head:sft:0`, `knn:sft`."""

    name: Annotated[str, Field(pattern=r"\S")]
    seconds: Annotated[float, Field(ge=0.0)]
    peak_gb: Annotated[float, Field(ge=0.0)] | None = None
    command: str | None = None


class Machine(_Model):
    cpu: str = "unknown processor"
    cores: Count | None = None


class Study(_Model):
    """The whole of study.json."""

    size: str
    command: str
    started: datetime | None = None
    finished: datetime | None = None
    commit: str | None = None
    machine: Machine = Machine()
    seeds: list[int] = []
    deviations: list[str] = []
    fast: dict[str, Number | str | None] = {}
    ladder: list[Rung] = []
    arms: list[Arm] = []
    comparisons: list[Comparison] = []
    curves: Curves = Curves()
    responses: list[Response] = []
    failures: list[Failure] = []
    stages: list[Stage] = []

    @model_validator(mode="after")
    def _check_keys(self) -> Study:
        for name, keyed in (("arms", self.arms), ("ladder", self.ladder)):
            keys = [item.key for item in keyed]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                raise ValueError(f"{name}: the key {twice[0]!r} is there twice")
        return self


def read_study(content: Any) -> Study:
    """`content` (of a JSON file) as a checked study.

    Raises:
        StudyError: with one line for each field that does not fit.
    """
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        lines = [f"{_place(e['loc'], content)}: {_message(e)}" for e in error.errors()]
        raise StudyError("\n".join(lines)) from error


def unknown_fields(model: BaseModel, place: str = "") -> Iterator[str]:
    """Places of fields that the page does not show, such as `arms.2.sucesses`: slips, mostly."""
    yield from (f"{place}{name}" for name in model.model_extra or {})
    for name in type(model).model_fields:
        value = getattr(model, name)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(
            value, list
        ) else [(None, value)]  # fmt: skip
        for key, item in items:
            if isinstance(item, BaseModel):
                inner = f"{place}{name}." if key is None else f"{place}{name}.{key}."
                yield from unknown_fields(item, inner)


def _check_interval(interval: tuple[float, float] | None, rate: float | None) -> None:
    if interval is None:
        return
    low, high = interval
    if low > high:
        raise ValueError(f"interval [{low}, {high}]: the lower end comes first")
    if rate is not None and not low - ROUNDING <= rate <= high + ROUNDING:
        raise ValueError(f"interval [{low:.4f}, {high:.4f}] does not hold the rate {rate:.4f}")


def _check_names(what: str, given: dict[str, Counted], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")


def _place(location: tuple[str | int, ...], content: Any) -> str:
    """Where in the file: `arms.2 (sft_rl).interval`, or `study` for the whole."""
    words, at = [], content
    for step in location:
        try:
            at = at[step]
        except (KeyError, IndexError, TypeError):
            at = None
        key = at.get("key", at.get("name")) if isinstance(at, dict) else None
        words.append(f"{step} ({key})" if isinstance(step, int) and key else str(step))
    return ".".join(words) or "study"


def _message(error: Any) -> str:
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return "is missing"
    return text[:1].lower() + text[1:]
