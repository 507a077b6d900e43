"""The robot's running graph, as a person who scores needs it: home, look, start, stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.film import INTERVAL_S, Film
from roboalign.graph import GraphArguments, build_graph

if TYPE_CHECKING:
    from evaluation.ros_link import RosLink

FIRST_PICTURE_S: Final = 10.0
POLL_S: Final = 0.05

Pictures = Mapping[str, NDArray[np.uint8]]


class RunningTask(Protocol):
    """A task that the task node has accepted."""

    def cancel(self) -> Any:
        """End the task now; the arm holds."""


class Link(Protocol):
    """The calls of evaluation.ros_link.RosLink that a session needs."""

    def home(self) -> None: ...

    def pictures(self) -> Pictures: ...

    def take_stage_times(self) -> Mapping[str, list[float]]: ...

    def start_task(self, task: str, obj: str, timeout_s: float) -> RunningTask: ...


class OperatorRobot:
    """Starts and ends tasks on the graph, and films them meanwhile; a context manager."""

    def __init__(self, link: Link, time_limit_s: float) -> None:
        self._link = link
        self._time_limit_s = time_limit_s
        self._task: RunningTask | None = None
        self._film = Film()
        self._over = threading.Event()
        self._filming: threading.Thread | None = None

    def __enter__(self) -> OperatorRobot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def home(self) -> None:
        """Open the hand and move the arm home; raises GraphFailed if it does not get there."""
        self._link.home()

    def pictures(self) -> Pictures:
        """The newest picture of each camera; none if no camera sends."""
        deadline = time.monotonic() + FIRST_PICTURE_S
        while not (pictures := self._link.pictures()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return pictures

    def start(self, task: str, obj: str) -> None:
        """Let the policy act; raises GraphFailed if the task node does not accept."""
        self._link.take_stage_times()
        self._task = self._link.start_task(task, obj, self._time_limit_s)
        self._film, self._over = Film(), threading.Event()
        self._filming = threading.Thread(target=self._record, name="film", daemon=True)
        self._filming.start()

    def end(self) -> tuple[bytes | None, Mapping[str, list[float]]]:
        """Stop the policy; the trial's film strip and stage times. Harmless when nothing runs."""
        self._over.set()
        if self._filming is not None:
            self._filming.join()
            self._filming = None
        if self._task is None:
            return None, {}
        task, self._task = self._task, None
        task.cancel()
        return self._film.strip(), self._link.take_stage_times()

    def _record(self) -> None:
        started = time.monotonic()
        while not self._over.wait(INTERVAL_S):
            if pictures := self._link.pictures():
                self._film.add(time.monotonic() - started, pictures)


def connect(domain_id: int, cameras: tuple[str, ...]) -> RosLink:
    """A link to the graph that runs in this ROS domain; a context manager."""
    # What somebody has set stays: a graph on another machine needs a wider discovery range.
    for name, value in build_graph(GraphArguments(sim=True)).environment.items():
        os.environ.setdefault(name, value)
    # Only now: rclpy reads the graph's environment when it is loaded.
    from evaluation.ros_link import RosLink

    return RosLink(domain_id, cameras)
