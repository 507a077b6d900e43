"""The arm's driver: every error of the library becomes one of ours."""

from __future__ import annotations

import franky
import pytest

from roboalign.arm_driver import ArmDriver, ArmError


class BrokenRobot:
    """Raises `error` whenever its state is asked for."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def state(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "connected"),
    [
        (franky.NetworkException("UDP receive: Timeout"), False),
        (RuntimeError("Net Exception"), False),
        (franky.ControlException("reflex"), True),
    ],
)
def test_errors_are_the_arms_and_say_if_the_connection_is_gone(
    error: Exception, connected: bool
) -> None:
    driver = ArmDriver("127.0.0.1")
    assert not driver.connected
    driver._robot = BrokenRobot(error)
    assert driver.connected
    with pytest.raises(ArmError, match="cannot read"):
        driver.read()
    assert driver.connected is connected


def test_what_fails_in_the_background_is_told_as_a_problem() -> None:
    driver = ArmDriver("127.0.0.1")
    driver.begin_clear()
    while driver.busy:
        pass
    assert "not connected" in driver.problem
