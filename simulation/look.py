"""Light and colours drawn from a seed: other rooms, other copies of the things."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from simulation import world
from simulation.objects import VISUAL_GROUP

BRIGHTNESS = 0.3
"""Largest relative change of each light, up or down."""
TINT = 0.08
"""Largest relative change of a light's colour channel."""
COLOUR = 0.12
"""Largest change of a body's colour channels (0..1), the same for all its parts."""
TABLE_COLOUR = 0.15
TABLE = "table"


@dataclass(frozen=True)
class Look:
    """Factors (3,) on the head light and on each light (lights, 3); colour shifts (bodies, 3)."""

    head_light: np.ndarray
    lights: np.ndarray
    bodies: np.ndarray
    table: np.ndarray


def sample_look(model: mujoco.MjModel, seed: int) -> Look:
    """The look that belongs to `seed`: same seed, same look."""
    rng = np.random.default_rng([seed, 7])
    brightness = 1 + rng.uniform(-BRIGHTNESS, BRIGHTNESS, (model.nlight + 1, 1))
    factors = brightness * (1 + rng.uniform(-TINT, TINT, (model.nlight + 1, 3)))
    return Look(
        head_light=factors[0],
        lights=factors[1:],
        bodies=rng.uniform(-COLOUR, COLOUR, (model.nbody, 3)),
        table=rng.uniform(-TABLE_COLOUR, TABLE_COLOUR, 3),
    )


class Painter:
    """Changes a model's light and colours, and back; the robot keeps its own colours."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._head_light = model.vis.headlight.diffuse.copy()
        self._lights = model.light_diffuse.copy()
        self._colours = model.geom_rgba[:, :3].copy()
        names = [model.body(i).name for i in range(model.nbody)]
        movable = np.array(
            [bool(n) and n != "world" and not n.startswith(world.ROBOT) for n in names]
        )
        drawn = model.geom_group == int(VISUAL_GROUP)
        self._painted = drawn & movable[model.geom_bodyid]
        self._table = model.geom(TABLE).id

    def apply(self, look: Look | None) -> None:
        """Show `look`; None shows the world as it was built."""
        model, colours = self._model, self._colours.copy()
        head_light, lights = self._head_light, self._lights
        if look is not None:
            colours[self._painted] += look.bodies[model.geom_bodyid[self._painted]]
            colours[self._table] += look.table
            head_light, lights = head_light * look.head_light, lights * look.lights
        model.geom_rgba[:, :3] = np.clip(colours, 0.0, 1.0)
        model.vis.headlight.diffuse[:] = head_light
        model.light_diffuse[:] = lights
