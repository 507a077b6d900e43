"""One live simulation for the tests that only talk to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import simulation  # noqa: F401  chooses MuJoCo's renderer, which must precede MuJoCo's import
from simulation.live_process import LiveProcess


@pytest.fixture(scope="module")
def live() -> Iterator[LiveProcess]:
    with LiveProcess() as process:
        yield process
