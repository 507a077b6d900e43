"""A life-cycle node that starts itself, and the main program of every node here.

Where a life-cycle manager is at hand, `autostart:=false` leaves the transitions to it.
"""

from __future__ import annotations

import signal
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import (
    ExternalShutdownException,
    MultiThreadedExecutor,
    SingleThreadedExecutor,
)
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

RCLError = rclpy_implementation.RCLError
SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


class StartError(RuntimeError):
    """The node cannot start; the text is one sentence that says why and what to do."""


class AutostartNode(LifecycleNode):
    """Calls `start` on activation, `stop` on the way down, and publishes /diagnostics at 1 Hz."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._autostart = self.declare_parameter("autostart", True).value
        self._started = False
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 5)
        self.create_timer(1.0, self._publish_diagnostics)

    @abstractmethod
    def start(self) -> None:
        """Open the hardware and begin to work. Raises StartError."""

    @abstractmethod
    def stop(self) -> None:
        """Undo `start`; also called after a `start` that failed half-way."""

    @abstractmethod
    def diagnose(self) -> list[DiagnosticStatus]:
        """How the node is."""

    def seconds_now(self) -> float:
        """ROS time [s], the one clock of the graph."""
        return float(self.get_clock().now().nanoseconds) * 1e-9

    @contextmanager
    def until_shutdown(self) -> Iterator[None]:
        """For threads that publish: a signal may end the context in the middle of it."""
        try:
            yield
        except RCLError:
            if self.context.ok():
                raise

    def autostart(self) -> bool:
        """Configure and activate if wanted; False if the node cannot start."""
        if not self._autostart:
            return True
        return bool(self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.start()
        except StartError as error:
            self.get_logger().error(str(error))
            self.stop()
            return FAILURE
        self._started = True
        if not self.context.ok():
            return FAILURE
        self.get_logger().info("ready")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop_once()
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop_once()
        return SUCCESS

    def stop_once(self) -> None:
        if self._started:
            self._started = False
            self.stop()

    def _publish_diagnostics(self) -> None:
        if self._started:
            message = DiagnosticArray(status=self.diagnose())
            message.header.stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(message)


def run_node(
    make_node: Callable[[], AutostartNode], arguments: Sequence[str] | None, threads: int = 1
) -> int:
    """Run until SIGINT or SIGTERM; the exit code is 0 then, and 1 if the node could not start.

    `threads` is for nodes whose callbacks wait for each other.
    """
    # rclpy's own handler ends the context, and spinning with it, then calls these. They do nothing,
    # so that a second Ctrl-C cannot break into `stop` while it brings the arm to rest.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    rclpy.init(args=list(sys.argv if arguments is None else arguments))
    node: AutostartNode | None = None
    try:
        node = make_node()
        executor = MultiThreadedExecutor(threads) if threads > 1 else SingleThreadedExecutor()
        executor.add_node(node)
        if not node.autostart():
            return 1 if node.context.ok() else 0
        executor.spin()
    except ExternalShutdownException:
        return 0
    except RCLError:
        # The signal may end the context in the middle of any call to it.
        if node is not None and node.context.ok():
            raise
        return 0
    finally:
        if node is not None:
            node.stop_once()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
