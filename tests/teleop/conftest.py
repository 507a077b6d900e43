"""Small demonstrations without a simulation: a hand that goes along a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_episodes import make_dataset


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of four made episodes, two tasks; read only."""
    return make_dataset(tmp_path_factory.mktemp("made") / "demos", episodes=4)
