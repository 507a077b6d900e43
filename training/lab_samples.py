"""The lab edition of the data mixture: every category of Appendix A.3 from the simulator's truth.

Frames of `other_world` become questions and answers. Coordinates in answers are hundredths of the
picture's side; states are centimetres and degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from contracts import geometry
from contracts.geometry import Vector
from training import rewards
from training.alternatives import Reasoning, chain_of_thought, points_text, response_text
from training.fast_tokenizer import FastTokenizer
from training.other_world import Entity, Frame, OtherWorldData
from training.samples import ACTION_PROMPT, REASONING_SYSTEM, Sample
from training.vocabulary import ACTION_END, ACTION_START, action_token

CAMERA_WORDS: Final = {"front": "first", "wrist": "second"}
STILL: Final = 0.012
"""Largest displacement [m] an axis over a chunk that counts as no movement in words."""
LETTERS: Final = "ABCD"
GRIPPER_CLOSES: Final = 0.5


@dataclass(frozen=True)
class Moment:
    """A frame with its pictures (cameras, H, W, 3) and the chunk (horizon, 7) that follows."""

    frame: Frame
    pictures: np.ndarray
    chunk: Vector


Builder = Callable[[Moment, np.random.Generator], tuple[str, str]]
"""Question and answer about a moment."""


def hundredths(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(str(round(100 * min(max(v, 0.0), 1.0))) for v in values) + ")"


def visible(entity: Entity, camera: str) -> bool:
    """Whether the entity's point lies inside the camera's picture."""
    return all(0.0 < v < 1.0 for v in entity.points[camera])


def move_words(chunk: Vector) -> str:
    """What a chunk (horizon, 7) does, seen from the robot's base: "left, down, close"."""
    x, y, z = chunk[-1, :3]
    words = []
    for value, positive, negative in (
        (x, "forward", "back"),
        (y, "left", "right"),
        (z, "up", "down"),
    ):
        if abs(value) > STILL:
            words.append(positive if value > 0 else negative)
    closes = chunk[-1, 6] < GRIPPER_CLOSES
    return ", ".join([*(words or ["stay"]), "close" if closes else "open"])


def thought(frame: Frame) -> str:
    """Reasoning before the actions: what is where, and what comes next (Table 1's content)."""
    obj, target = frame.entity("object"), frame.entity("target")
    seen = hundredths(obj.points["front"])
    goal = hundredths(target.points["front"])
    return f"The {obj.name} is at {seen}, the {target.name} at {goal}. {PHASE_WORDS[frame.phase]}"


PHASE_WORDS: Final = {
    "reach": "The gripper is open and goes above it.",
    "descend": "The gripper is above it and goes down.",
    "grasp": "The gripper is around it and closes.",
    "lift": "The gripper holds it and lifts it.",
    "move": "The gripper holds it and carries it over.",
    "lower": "The gripper is above the target and goes down.",
    "release": "The gripper is in the target and opens.",
    "retreat": "It lies there, the gripper goes up.",
    "done": "It lies there, the gripper stays.",
}


def caption(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    names = sorted(entity.name for entity in moment.frame.entities)
    return "What is on the table?", ", ".join(names) + "."


def pointing(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    entity, camera = _seen(moment.frame, rng)
    question = f"Point to the {entity.name} in the {CAMERA_WORDS[camera]} picture."
    return question, hundredths(entity.points[camera])


def box(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    entity, camera = _seen(moment.frame, rng)
    question = f"Box of the {entity.name} in the {CAMERA_WORDS[camera]} picture."
    return question, hundredths(entity.boxes[camera])


def relation(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    one, other = _pair(moment.frame, rng)
    across = bool(rng.integers(2))
    axis, words = (0, ("left of", "right of")) if across else (1, ("behind", "in front of"))
    asked = str(rng.choice(words))
    difference = one.points["front"][axis] - other.points["front"][axis]
    truth = words[0] if difference < 0 else words[1]
    answer = "yes" if truth == asked else "no"
    return f"Is the {one.name} {asked} the {other.name} in the first picture?", answer


def move(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    question = f"Your current task is {moment.frame.instruction}. How does the gripper move next?"
    return question, move_words(moment.chunk)


def state(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    return "What is the robot's state?", state_text(moment.frame)


def state_text(frame: Frame) -> str:
    """Position [cm], turn about the vertical [degrees], gripper opening in hundredths."""
    x, y, z = (round(100 * v) for v in frame.pose[:3])
    matrix = geometry.to_matrix(np.array(frame.pose[3:]))
    yaw = round(float(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))))
    return f"{x} {y} {z} {yaw} {round(100 * frame.opening)}"


def affordance(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    frame = moment.frame
    camera = str(rng.choice(list(CAMERA_WORDS)))
    holding = frame.phase in ("lift", "move", "lower", "release")
    entity = frame.entity("target" if holding else "object")
    if not visible(entity, camera):
        camera = "front"
    question = (
        f"Your current task is {frame.instruction}. Where should the gripper go in the "
        f"{CAMERA_WORDS[camera]} picture?"
    )
    return question, hundredths(entity.points[camera])


def reasoning(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    """A question with four choices, answered after a thought (paper, section 4.1)."""
    one, other = _pair(moment.frame, rng)
    choices = ["left and behind", "left and in front", "right and behind", "right and in front"]
    left = one.points["front"][0] < other.points["front"][0]
    behind = one.points["front"][1] < other.points["front"][1]
    truth = f"{'left' if left else 'right'} and {'behind' if behind else 'in front'}"
    order = [str(choice) for choice in rng.permutation(choices)]
    listed = " ".join(f"{LETTERS[i]} {choice}" for i, choice in enumerate(order))
    question = f"Where is the {one.name} seen from the {other.name}? {listed}"
    here, there = hundredths(one.points["front"]), hundredths(other.points["front"])
    text = f"The {one.name} is at {here}, the {other.name} at {there}: {truth}."
    return question, f"<think>{text}</think><answer>{LETTERS[order.index(truth)]}</answer>"


def move_reasoning(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    """The move in words after a thought: what "RL on language-described moves" is rewarded for."""
    question = f"Your current task is {moment.frame.instruction}. Think, then say the next move."
    return question, response_text(thought(moment.frame), move_words(moment.chunk))


def trajectory(moment: Moment, rng: np.random.Generator) -> tuple[str, str]:
    """The object's way to its goal in the first picture: what "RL on 2D trajectories" predicts."""
    frame = moment.frame
    start, goal = (
        np.array(frame.entity(role).points["front"]) for role in ("object", "target")
    )
    question = f"Your current task is {frame.instruction}. Think, then trace the object's way."
    points = points_text(np.stack([start, (start + goal) / 2, goal]))
    return question, response_text(thought(frame), points)


GENERAL: Final[Mapping[str, Builder]] = {
    "caption": caption, "pointing": pointing, "box": box, "relation": relation,
}  # fmt: skip
"""What a pretrained MLLM can do; at lab size the base model learns it first."""
EMBODIED: Final[Mapping[str, Builder]] = {
    "move": move, "state": state, "affordance": affordance, "reasoning": reasoning,
    "move_reasoning": move_reasoning, "trajectory": trajectory,
}  # fmt: skip
FAST: Final = ("fast", "fast_reasoning")
"""Action tokens at once, and after a thought. The paper's RL prompts for thoughts in FAST answers
that SFT never showed; a model of lab size does not generalise so far, hence the second."""
MIXTURES: Final[Mapping[str, Mapping[str, float]]] = {
    "base": dict.fromkeys(GENERAL, 1.0),
    "language_sft": dict.fromkeys((*GENERAL, *EMBODIED), 1.0),
    "action_sft": {"fast": 1.0},
    "sft": dict.fromkeys((*GENERAL, *EMBODIED), 1.0) | {"fast": 2.0, "fast_reasoning": 4.0},
    "ecot_sft": dict.fromkeys((*GENERAL, *EMBODIED), 1.0) | {"fast_ecot": 6.0},
}
"""Weights of the categories in each data set of the study."""


class LabSamples:
    """A deterministic, indexable data set: sample i depends on seed and i alone."""

    def __init__(
        self,
        data: OtherWorldData,
        weights: Mapping[str, float],
        length: int,
        seed: int,
        fast: FastTokenizer,
        rows: range | None = None,
    ) -> None:
        """`rows` restricts to a part of the frames: held-out questions use the others.

        Raises:
            ValueError: a category that nobody builds.
        """
        known = {*GENERAL, *EMBODIED, *FAST, "fast_ecot"}
        if unknown := sorted(set(weights) - known):
            raise ValueError(f"unknown categories {unknown}; known: {sorted(known)}")
        self._data, self._fast, self._length, self._seed = data, fast, length, seed
        self.rows = rows if rows is not None else range(len(data))
        self._names = list(weights)
        self._shares = np.array(list(weights.values())) / sum(weights.values())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(index)
        rng = np.random.default_rng([self._seed, index])
        category = self._names[int(rng.choice(len(self._names), p=self._shares))]
        row = self.rows[int(rng.integers(len(self.rows)))]
        return self.sample(category, row, rng)

    def sample(self, category: str, row: int, rng: np.random.Generator) -> Sample:
        """The question of a category about frame `row`."""
        data = self._data
        moment = Moment(data.frames[row], data.images[row], data.chunks[row])
        name, pictures = f"{moment.frame.name}:{category}", tuple(np.array(moment.pictures))
        if category in GENERAL or category in EMBODIED:
            question, answer = {**GENERAL, **EMBODIED}[category](moment, rng)
            return Sample(name, category, pictures, question, answer)
        return action_sample(moment, category, self._fast, name, pictures)


def action_sample(
    moment: Moment,
    category: str,
    fast: FastTokenizer,
    name: str,
    pictures: tuple[np.ndarray, ...],
) -> Sample:
    """FAST tokens at once (`fast`), after a thought, or after an embodied chain of thought."""
    question = ACTION_PROMPT.format(instruction=moment.frame.instruction)
    tokens = fast.encode(moment.chunk[None])[0]
    if category == "fast":
        text = "".join(action_token(token) for token in tokens)
        answer = f"{ACTION_START}{text}{ACTION_END}"
        return Sample(name, category, pictures, question, answer, chunk=moment.chunk)
    answer = (
        rewards.response_text(thought(moment.frame), tokens)
        if category == "fast_reasoning"
        else chain_of_thought(embodied_reasoning(moment), tokens)
    )
    return Sample(name, category, pictures, question, answer, REASONING_SYSTEM, moment.chunk)


def embodied_reasoning(moment: Moment) -> Reasoning:
    """The steps of ECoT (Zawalski et al. 2024) from the simulator's truth."""
    frame = moment.frame
    things = [frame.entity("object"), frame.entity("target")]
    return Reasoning(
        task=frame.instruction,
        plan=("reach", "grasp", "lift", "move", "release"),
        subtask=frame.phase,
        move=move_words(moment.chunk),
        gripper=state_text(frame),
        objects={thing.name: hundredths(thing.boxes["front"]) for thing in things},
    )


def load(folder: Path, held_out: float = 0.1) -> tuple[OtherWorldData, range, range]:
    """Data of a folder, frames for training, and held-out ones: whole rollouts, the last."""
    data = OtherWorldData.load(folder)
    split = round(len(data) * (1 - held_out))
    rollout = data.frames[split].name.partition("#")[0]
    while split and data.frames[split - 1].name.startswith(f"{rollout}#"):
        split -= 1
    return data, range(split), range(split, len(data))


def _seen(frame: Frame, rng: np.random.Generator) -> tuple[Entity, str]:
    """An entity and a camera that sees it; the front camera sees them all."""
    camera = str(rng.choice(list(CAMERA_WORDS), p=(0.7, 0.3)))
    seen = [entity for entity in frame.entities if visible(entity, camera)]
    if not seen:
        camera, seen = "front", list(frame.entities)
    return seen[int(rng.integers(len(seen)))], camera


def _pair(frame: Frame, rng: np.random.Generator) -> tuple[Entity, Entity]:
    """Two different containers: never so near that left and right are a matter of opinion."""
    containers = [entity for entity in frame.entities if "object" not in entity.role]
    first, second = rng.choice(len(containers), 2, replace=False)
    return containers[int(first)], containers[int(second)]
