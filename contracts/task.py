"""The four tasks and four objects of the evaluation (paper, section 5.3 and Table 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OBJECTS: Final = ("teddy bear", "box", "cup", "sponge")
CONTAINERS: Final = ("box", "bowl", "plate", "basket")


@dataclass(frozen=True)
class Task:
    """Move an object from the `source` container into, or onto, the `target` container."""

    name: str
    source: str
    target: str

    def __post_init__(self) -> None:
        for role, container in (("source", self.source), ("target", self.target)):
            if container not in CONTAINERS:
                raise ValueError(
                    f"task {self.name!r}: {role} {container!r} is not one of {CONTAINERS}"
                )
        if self.source == self.target:
            raise ValueError(f"task {self.name!r}: source and target are both {self.source!r}")

    def instruction(self, obj: str) -> str:
        """Instruction text for one object, as the policy is trained on it.

        Raises:
            ValueError: `obj` is not one of OBJECTS.
        """
        check_object(obj)
        preposition = "on" if self.target == "plate" else "in"
        return (
            f"pick up the {obj} from the {self.source} and place it {preposition} the {self.target}"
        )


TASKS: Final = {
    task.name: task
    for task in (
        Task("box_to_bowl", "box", "bowl"),
        Task("box_to_plate", "box", "plate"),
        Task("basket_to_bowl", "basket", "bowl"),
        Task("plate_to_basket", "plate", "basket"),
    )
}


def check_object(obj: str) -> str:
    """Return `obj`; raise ValueError with the known names if it is unknown."""
    if obj not in OBJECTS:
        raise ValueError(f"unknown object {obj!r}; known objects: {', '.join(OBJECTS)}")
    return obj


def get_task(name: str) -> Task:
    """Task by name; raise ValueError with the known names if it is unknown."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}")
    return TASKS[name]
