"""The bench's node beside the graph: records what passes, starts tasks, sets the mode.

For one thread, which also takes what comes in: every wait here spins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from roboalign_msgs.action import ExecuteTask
from roboalign_msgs.msg import ActionChunk, Setpoint, StageTimes
from std_srvs.srv import Trigger

from roboalign import ros_messages
from roboalign.bench_metrics import ChunkTrace, SetpointStream
from roboalign.bench_trials import BenchFailed
from roboalign.execution_mode import ExecutionMode

ANSWER_TIMEOUT_S = 30.0
HOME_TIMEOUT_S = 60.0
STAGE_NODES = ("policy_node", "arm_node")


@dataclass
class Recording:
    """What passed while one task ran, in the order of its arrival."""

    setpoints: list[Setpoint] = field(default_factory=list)
    chunks: list[ActionChunk] = field(default_factory=list)
    stage_times: dict[str, list[float]] = field(default_factory=dict)

    def stream(self) -> SetpointStream:
        """The setpoints, in the order in which they were sent."""
        rows = sorted(self.setpoints, key=lambda m: ros_messages.to_seconds(m.header.stamp))
        return SetpointStream(
            np.array([ros_messages.to_seconds(m.header.stamp) for m in rows], dtype=np.float64),
            np.array([m.pose[:3] for m in rows], dtype=np.float64).reshape(-1, 3),
            [m.chunk_id for m in rows],
        )

    def traces(self) -> list[ChunkTrace]:
        """The chunks with the times of their waypoints; those of a synchronous one are not known
        before it arrives, and are left out.
        """
        return [
            ChunkTrace(
                m.chunk_id,
                m.time_step,
                ros_messages.to_seconds(m.observation_stamp)
                + m.time_step * np.arange(1, len(m.poses) + 1),
                np.array([[p.position.x, p.position.y, p.position.z] for p in m.poses]),
            )
            for m in self.chunks
            if m.execution_mode != ExecutionMode.SYNCHRONOUS
        ]


class BenchLink:
    """A context manager; the graph runs in the ROS domain `domain_id`."""

    def __init__(self, domain_id: int) -> None:
        self._context = rclpy.Context()
        # Ctrl-C is for the bench, which ends the graph first.
        rclpy.init(
            args=[],
            context=self._context,
            domain_id=domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self._node = rclpy.create_node("bench", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._recording = Recording()
        self._home = self._node.create_client(Trigger, "arm_node/home")
        self._recover = self._node.create_client(Trigger, "arm_node/recover")
        self._parameters = self._node.create_client(SetParameters, "policy_node/set_parameters")
        self._tasks = ActionClient(self._node, ExecuteTask, "execute_task")
        self._subscribe()

    def __enter__(self) -> BenchLink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        rclpy.try_shutdown(context=self._context)

    def spin(self, seconds: float) -> None:
        """Take what comes in for `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)

    def take_recording(self) -> Recording:
        """What has passed since the last call."""
        recording, self._recording = self._recording, Recording()
        return recording

    def set_mode(self, mode: ExecutionMode) -> None:
        """Mode of the tasks that begin from here on. Raises BenchFailed."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(mode))
        request = SetParameters.Request(parameters=[Parameter(name="execution_mode", value=value)])
        answer = self._call(self._parameters, request, ANSWER_TIMEOUT_S)
        if not answer.results[0].successful:
            raise BenchFailed(f"the policy node refused the mode: {answer.results[0].reason}")

    def home(self) -> None:
        """Open the hand and move the arm home; after an arm error recover first.

        Raises BenchFailed.
        """
        answer = self._call(self._home, Trigger.Request(), HOME_TIMEOUT_S)
        if not answer.success:
            self._call(self._recover, Trigger.Request(), HOME_TIMEOUT_S)
            answer = self._call(self._home, Trigger.Request(), HOME_TIMEOUT_S)
        if not answer.success:
            raise BenchFailed(f"the arm did not go home: {answer.message}")

    def run_task(
        self, task: str, obj: str, timeout_s: float, look: Callable[[float], bool], period_s: float
    ) -> tuple[float, str, str]:
        """Carry the task out until `look`, called every `period_s` with the seconds since the
        start, says that it is done, or until it ends by itself.

        Returns the seconds it took, and the reason and message of an end by itself, else empty.
        Raises BenchFailed.
        """
        if not self._tasks.wait_for_server(ANSWER_TIMEOUT_S):
            raise BenchFailed("the task node does not offer execute_task")
        goal = ExecuteTask.Goal(task=task, object=obj, timeout_s=timeout_s)
        handle = self._wait(self._tasks.send_goal_async(goal), ANSWER_TIMEOUT_S, "execute_task")
        if not handle.accepted:
            raise BenchFailed(f"the task node refused the task {task!r} with {obj!r}")
        started, over = time.monotonic(), handle.get_result_async()
        elapsed = 0.0
        while not over.done():
            self.spin(period_s)
            elapsed = time.monotonic() - started
            if elapsed > timeout_s + ANSWER_TIMEOUT_S:
                raise BenchFailed(f"the task node did not end the task after {elapsed:.0f} s")
            if look(elapsed):
                self._wait(handle.cancel_goal_async(), ANSWER_TIMEOUT_S, "canceling the task")
                self._wait(over, ANSWER_TIMEOUT_S, "the task's result")
                return elapsed, "", ""
        result = over.result().result
        return elapsed, result.reason, result.message

    def _subscribe(self) -> None:
        record = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._node.create_subscription(
            Setpoint, "arm_node/setpoints", lambda m: self._recording.setpoints.append(m), record
        )
        self._node.create_subscription(
            ActionChunk, "arm_node/action_chunk", lambda m: self._recording.chunks.append(m), record
        )
        for node in STAGE_NODES:
            self._node.create_subscription(
                StageTimes, f"{node}/stage_times", partial(self._take_stage_times, node), record
            )

    def _take_stage_times(self, node: str, message: StageTimes) -> None:
        for stage, milliseconds in zip(message.stages, message.milliseconds, strict=True):
            # Server and arm both have a stage `queue`.
            own = (
                f"arm_{stage}" if node == "arm_node" and stage in ("queue", "transport") else stage
            )
            self._recording.stage_times.setdefault(own, []).append(milliseconds)

    def _call(self, client: Any, request: Any, timeout_s: float) -> Any:
        if not client.wait_for_service(ANSWER_TIMEOUT_S):
            raise BenchFailed(f"the service {client.srv_name} is not there")
        return self._wait(client.call_async(request), timeout_s, client.srv_name)

    def _wait(self, future: Future, timeout_s: float, what: str) -> Any:
        self._executor.spin_until_future_complete(future, timeout_s)
        if not future.done():
            raise BenchFailed(f"no answer within {timeout_s:g} s: {what}")
        return future.result()
