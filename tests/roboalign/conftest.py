"""Fixtures of the robot runtime's tests: a domain of their own, processes that always end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.roboalign.program import Program

# Before rclpy is imported anywhere: no test may hear another run's nodes.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(20 + os.getpid() % 80)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Program]]:
    """Starts `python WORDS...`; what still runs after the module's tests is killed."""
    programs: list[Program] = []

    def run(*words: str) -> Program:
        log = tmp_path_factory.mktemp("program") / "output.log"
        programs.append(Program(list(words), log))
        return programs[-1]

    yield run
    for program in reversed(programs):
        program.process.kill()
        program.process.wait()
