"""Questions about a robot's movement, its state and its next states (paper, Appendix A.3)."""

from __future__ import annotations

from typing import Final

import numpy as np

from contracts.geometry import Vector
from training.samples import Sample
from training.sources import pictures
from training.sources.episodes import Episode, chosen_step, require_finite
from training.sources.records import Reason, RejectedSample

FUTURE: Final = 10
"""States that the third question asks for."""
STILL: Final = 0.01
"""Displacement [m] along an axis below which words do not mention it."""
SHARE: Final = 0.4
"""An axis is mentioned from this share of the largest displacement on."""
GRIPPER_CHANGE: Final = 0.3
"""Change of the opening that counts as opening or closing."""
DIRECTIONS: Final = (("forward", "backward"), ("left", "right"), ("up", "down"))
"""Words for + and - along x, y and z of the base frame."""
MOVE_QUESTION: Final = "In which direction, seen from the robot's base, does the gripper move next?"
STATE_QUESTION: Final = (
    "What is the robot's current state? Answer with x, y, z in metres, roll, pitch, yaw in radians "
    "and the gripper opening from 0 to 1."
)
FUTURE_QUESTION: Final = (
    f"What are the robot's next {FUTURE} states? Answer with a list of states, each x, y, z in "
    "metres, roll, pitch, yaw in radians and the gripper opening from 0 to 1."
)
KINDS: Final = 3
SAMPLES_PER_EPISODE: Final = 2 * KINDS


def move_words(displacement: Vector, opening_change: float) -> str:
    """A movement (3,) [m] in the base frame and a change of the opening, in words:
    "move right and down, close the gripper"; "stay" if nothing happens."""
    sizes = np.abs(displacement)
    least = max(STILL, SHARE * float(sizes.max()))
    axes = [int(axis) for axis in np.argsort(-sizes, kind="stable") if sizes[axis] >= least]
    words = " and ".join(DIRECTIONS[axis][int(displacement[axis] < 0)] for axis in axes)
    parts = [f"move {words}"] if words else []
    if abs(opening_change) >= GRIPPER_CHANGE:
        parts.append("open the gripper" if opening_change > 0 else "close the gripper")
    return ", ".join(parts) or "stay"


def state_text(state: Vector) -> str:
    """State (7,) with three decimals, `[0.301, -0.012, ...]`."""
    # Adding zero turns -0.0 into 0.0.
    return f"[{', '.join(f'{round(value, 3) + 0.0:.3f}' for value in state.tolist())}]"


def question(name: str, category: str, episode: Episode, part: int, lookahead: int) -> Sample:
    """Sample `part` of an episode: its kind goes round the three, its step follows its name.

    `lookahead` is the number of steps over which a movement is described.

    Raises:
        RejectedSample: the episode is too short, or holds values that are not finite.
    """
    needed = max(FUTURE, lookahead)
    usable = len(episode.states) - needed
    if usable < 1:
        detail = f"{len(episode.states)} steps, more than {needed} needed"
        raise RejectedSample(name, Reason.TOO_SHORT, detail)
    step = chosen_step(name, usable)
    window = episode.states[step : step + needed + 1]
    require_finite(name, window, "the state")
    asked, answer = _asked_and_answer(part % KINDS, window, lookahead)
    if episode.instruction:
        asked = f'The robot\'s task is "{episode.instruction}". {asked}'
    picture = pictures.decode(name, episode.frames[step])
    return Sample(name, category, (picture,), asked, answer)


def _asked_and_answer(kind: int, window: Vector, lookahead: int) -> tuple[str, str]:
    """`window` (1 + needed, 7) begins with the present state."""
    if kind == 0:
        change = window[lookahead] - window[0]
        return MOVE_QUESTION, move_words(change[:3], float(change[6]))
    if kind == 1:
        return STATE_QUESTION, state_text(window[0])
    states = ", ".join(state_text(state) for state in window[1 : FUTURE + 1])
    return FUTURE_QUESTION, f"[{states}]"
