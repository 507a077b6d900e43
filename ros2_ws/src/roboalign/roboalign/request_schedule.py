"""When the policy is asked again. Pure."""

from __future__ import annotations


class RequestSchedule:
    """Each observation is taken a period after the one before, on the observations' own clock.

    The period is the time that one chunk's executed waypoints last, so that chunks join on one
    grid of waypoints whatever the latency is.
    """

    def __init__(self, execute_steps: int, time_step: float) -> None:
        """`time_step` [s] lies between waypoints, of which `execute_steps` are executed a chunk."""
        if execute_steps < 1 or not time_step > 0.0:
            raise ValueError(
                f"execute_steps {execute_steps} and time_step {time_step} must be positive"
            )
        self.period = execute_steps * time_step
        # Cameras jitter by some ms; waiting for the frame after would cost a whole frame.
        self._tolerance = 0.25 * time_step
        self._previous: float | None = None

    def wants(self, stamp: float) -> bool:
        """Whether an observation of `stamp` [s] is due. A clock that went back starts anew."""
        if self._previous is None or stamp < self._previous:
            return True
        return stamp >= self._previous + self.period - self._tolerance

    def taken(self, stamp: float) -> None:
        """An observation of `stamp` [s] is being sent."""
        self._previous = stamp
