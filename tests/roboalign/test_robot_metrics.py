"""The robot's metrics: what Prometheus reads, from values and from a real process."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from prometheus_client import CollectorRegistry, generate_latest
from rclpy.node import Node
from roboalign_msgs.msg import ArmStatus, PolicyStatus, StageTimes

from roboalign import ros_messages
from roboalign.robot_metrics import RobotMetrics
from tests.roboalign.program import Program


def text_of(metrics: RobotMetrics) -> str:
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode()


def test_one_mode_is_on_and_all_are_there() -> None:
    metrics = RobotMetrics()
    metrics.mode("tracking")
    metrics.mode("holding")
    text = text_of(metrics)
    assert 'robot_arm_mode{mode="holding"} 1.0' in text
    assert 'robot_arm_mode{mode="tracking"} 0.0' in text


def test_the_newest_value_of_each_part_is_shown() -> None:
    metrics = RobotMetrics()
    metrics.gauge("robot_queue_seconds", "text", 0.5)
    metrics.gauge("robot_queue_seconds", "text", 0.25)
    metrics.counter("robot_limited_setpoints", "text", 7)
    metrics.levels({"arm": 0, "camera front": 2})
    metrics.levels({"arm": 1})
    text = text_of(metrics)
    assert "robot_queue_seconds 0.25" in text
    assert "robot_limited_setpoints_total 7.0" in text
    assert 'robot_diagnostic_level{part="arm"} 1.0' in text
    assert 'robot_diagnostic_level{part="camera front"} 2.0' in text


def test_stages_are_counted_in_their_buckets() -> None:
    metrics = RobotMetrics()
    metrics.stages(["queue", "picture_to_setpoint"], [5.0, 120.0])
    metrics.stages(["queue"], [5000.0])
    text = text_of(metrics)
    assert 'robot_stage_milliseconds_bucket{le="5.0",stage="queue"} 1.0' in text
    assert 'robot_stage_milliseconds_bucket{le="+Inf",stage="queue"} 2.0' in text
    assert 'robot_stage_milliseconds_bucket{le="100.0",stage="picture_to_setpoint"} 0.0' in text
    assert 'robot_stage_milliseconds_sum{stage="queue"} 5005.0' in text


class Graph(Node):
    """Publishes the status of every part at 20 Hz."""

    def __init__(self) -> None:
        super().__init__("graph")
        self._arm = self.create_publisher(ArmStatus, "arm_node/status", 10)
        self._policy = self.create_publisher(PolicyStatus, "policy_node/status", 10)
        self._stages = self.create_publisher(StageTimes, "arm_node/stage_times", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(0.05, self._publish)

    def _publish(self) -> None:
        self._arm.publish(ArmStatus(mode="tracking", queue_remaining_s=0.75, limited_setpoints=3))
        self._policy.publish(PolicyStatus(connected=True, round_trip_ms=42.0, requests=9))
        stages = ["queue", "picture_to_setpoint"]
        self._stages.publish(StageTimes(stages=stages, milliseconds=[12.0, 80.0]))
        bad = ros_messages.diagnostic("camera front", "no frame", {})
        self._diagnostics.publish(DiagnosticArray(status=[bad]))


@pytest.fixture
def graph() -> Iterator[Graph]:
    rclpy.init()
    node = Graph()
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_the_node_serves_what_the_graph_says(graph: Graph, start: Callable[..., Program]) -> None:
    program = start("-m", "roboalign.metrics_node", "--ros-args", "-p", "port:=0")
    program.wait_for("ready", timeout_s=120.0)
    url = re.search(r"http://127\.0\.0\.1:\d+/metrics", program.output()).group(0)
    wanted = (
        'robot_arm_mode{mode="tracking"} 1.0', "robot_queue_seconds 0.75",
        "robot_limited_setpoints_total 3.0", "robot_policy_connected 1.0",
        "robot_policy_requests_total 9.0", 'robot_diagnostic_level{part="camera front"} 2.0',
        'robot_stage_milliseconds_bucket{le="10.0",stage="arm_queue"} 0.0',
        'robot_stage_milliseconds_bucket{le="75.0",stage="picture_to_setpoint"} 0.0',
    )  # fmt: skip
    deadline, text = time.monotonic() + 60.0, ""
    while not all(line in text for line in wanted):
        assert time.monotonic() < deadline, text
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            rclpy.spin_once(graph, timeout_sec=0.05)
        with urllib.request.urlopen(url, timeout=10.0) as answer:
            text = answer.read().decode()
    assert program.end() == 0
