"""The ROS node that shows the graph's state to Prometheus: `/metrics` on a port of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from rclpy.qos import QoSProfile, ReliabilityPolicy
from roboalign_msgs.msg import ArmStatus, PolicyStatus, StageTimes

from roboalign import ros_messages
from roboalign.autostart_node import AutostartNode, StartError, run_node
from roboalign.robot_metrics import RobotMetrics

PORT = 9101
WHOLE_WAY = "picture_to_setpoint"


class MetricsNode(AutostartNode):
    """Wires status topics to RobotMetrics and serves them; it changes nothing."""

    def __init__(self) -> None:
        super().__init__("metrics")
        self._address = self.declare_parameter("address", "127.0.0.1").value
        self._port = self.declare_parameter("port", PORT).value
        self._metrics = RobotMetrics()
        self._server = None
        quiet = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._note_diagnostics, quiet)
        self.create_subscription(ArmStatus, "arm_node/status", self._note_arm, quiet)
        self.create_subscription(PolicyStatus, "policy_node/status", self._note_policy, quiet)
        self.create_subscription(
            StageTimes, "policy_node/stage_times", self._note_policy_stages, quiet
        )
        self.create_subscription(StageTimes, "arm_node/stage_times", self._note_arm_stages, quiet)

    def start(self) -> None:
        registry = CollectorRegistry()
        registry.register(self._metrics)
        ProcessCollector(registry=registry)
        try:
            self._server, _ = start_http_server(self._port, self._address, registry)
        except OSError as error:
            raise StartError(
                f"metrics: cannot listen on {self._address} port {self._port}: {error}"
            ) from error
        self._port = self._server.server_port
        self.get_logger().info(f"http://{self._address}:{self._port}/metrics")

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def _note_diagnostics(self, message: DiagnosticArray) -> None:
        self._metrics.levels({s.name: int.from_bytes(s.level, "little") for s in message.status})

    def _note_arm(self, status: ArmStatus) -> None:
        note = self._metrics
        note.mode(status.mode)
        note.gauge(
            "robot_queue_seconds", "Waypoints still to be followed", status.queue_remaining_s
        )
        note.gauge(
            "robot_control_success_rate",
            "Share of control commands that arrived in time",
            status.control_success_rate,
        )
        note.counter(
            "robot_limited_setpoints",
            "Setpoints that the safety filter changed",
            status.limited_setpoints,
        )
        note.counter(
            "robot_dropped_waypoints", "Waypoints too old or replaced", status.dropped_waypoints
        )

    def _note_policy(self, status: PolicyStatus) -> None:
        note = self._metrics
        note.gauge("robot_policy_connected", "Whether the policy server answers", status.connected)
        note.gauge(
            "robot_policy_round_trip_milliseconds", "Of the last request", status.round_trip_ms
        )
        note.counter("robot_policy_requests", "Requests to the policy server", status.requests)
        note.counter("robot_policy_failures", "Requests without a chunk", status.failures)

    def _note_policy_stages(self, times: StageTimes) -> None:
        if len(times.stages) == len(times.milliseconds):
            self._metrics.stages(times.stages, times.milliseconds)

    def _note_arm_stages(self, times: StageTimes) -> None:
        # The server has a stage of the name `queue` as well.
        names = [name if name == WHOLE_WAY else f"arm_{name}" for name in times.stages]
        if len(names) == len(times.milliseconds):
            self._metrics.stages(names, times.milliseconds)

    def diagnose(self) -> list[DiagnosticStatus]:
        return [ros_messages.diagnostic("metrics", "", {"port": str(self._port)})]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_node(MetricsNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
