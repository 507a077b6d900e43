"""Random light and colours: reproducible, visible, and gone again."""

import numpy as np
import pytest

from simulation.fast import FastSimulation
from simulation.placement import sample_placement


@pytest.fixture(scope="module")
def simulation():
    simulation = FastSimulation(64)
    yield simulation
    simulation.close()


def picture(simulation: FastSimulation, seed: int, random_look: bool) -> np.ndarray:
    simulation.reset(sample_placement("box_to_bowl", "cup", seed), random_look=random_look)
    return np.stack(list(simulation.images().values())).astype(int)


def test_a_look_comes_from_the_seed_and_goes_with_the_next_reset(simulation) -> None:
    plain = picture(simulation, 3, random_look=False)
    other = picture(simulation, 3, random_look=True)
    assert np.abs(other - plain).mean() > 3
    assert np.array_equal(picture(simulation, 3, random_look=True), other)
    assert np.array_equal(picture(simulation, 3, random_look=False), plain)


def test_looks_differ_and_leave_the_robot_white(simulation) -> None:
    means = [picture(simulation, seed, random_look=True)[0].mean((0, 1)) for seed in range(6)]
    assert np.std(means, axis=0).max() > 5
    links = [
        i
        for i in range(simulation.model.ngeom)
        if simulation.model.body(simulation.model.geom_bodyid[i]).name == "robot0_fr3_link3"
    ]
    assert np.allclose(simulation.model.geom_rgba[links, :3], (0.92, 0.92, 0.94), atol=1e-3)
