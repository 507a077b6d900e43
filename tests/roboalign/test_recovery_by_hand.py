"""Reflex and user stop on a real arm. Manual: needs an FR3, a person and a free workspace.

Procedure:
1. Empty the workspace, unlock the joints and activate FCI in Desk, take the user stop in your hand.
2. `ROBOALIGN_ARM=172.16.0.2 .venv/bin/python -m pytest -m manual -s THIS_FILE`
   (a simulated arm that reports reflexes over libfranka's protocol will do as well).
3. The test says what to do and waits for it, a minute at most for each step. The arm only holds
   still; it moves as far as you push it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from roboalign.arm_control import ArmControl
from roboalign.arm_driver import ArmDriver
from roboalign.arm_report import Mode, Report
from roboalign.chunk_executor import ChunkExecutor

PERIOD_S = 0.01
PATIENCE_S = 60.0

pytestmark = [
    pytest.mark.manual,
    pytest.mark.skipif("ROBOALIGN_ARM" not in os.environ, reason="set ROBOALIGN_ARM=<address>"),
]


@pytest.fixture
def control() -> Iterator[ArmControl]:
    arm = ArmDriver(os.environ["ROBOALIGN_ARM"])
    arm.connect()
    control = ArmControl(arm, None, ChunkExecutor(), PERIOD_S, time.time)
    control.start()
    yield control
    stopped = control.stop()
    tick_until(control, lambda _: stopped.wait(0.0))


def tick_until(control: ArmControl, condition: Callable[[Report], bool]) -> Report:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        report = control.tick()
        if condition(report):
            return report
        assert time.monotonic() < deadline, f"not in time: {report.mode}: {report.reason}"
        time.sleep(PERIOD_S)


@pytest.mark.parametrize(
    ("do", "undo", "reason"),
    [
        ("push the arm until it stops with a reflex", "let go", "reflex"),
        ("press the user stop", "release the user stop", "user stop"),
        ("pull the network cable out", "put it in again", ""),
    ],
)
def test_the_arm_holds_again_after(control: ArmControl, do: str, undo: str, reason: str) -> None:
    tick_until(control, lambda report: report.mode == Mode.HOLDING)
    print(f"\n>>> {do}")
    report = tick_until(control, lambda report: report.mode == Mode.ERROR)
    assert reason in report.reason
    print(f">>> {undo}")
    recovering = control.recover()
    report = tick_until(control, lambda _: recovering.wait(0.0))
    assert not recovering.error
    assert report.mode == Mode.HOLDING
