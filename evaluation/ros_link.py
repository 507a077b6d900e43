"""Evaluation's end of the robot graph's topics, services and action."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from roboalign_msgs.action import ExecuteTask
from roboalign_msgs.msg import StageTimes
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from evaluation.graph_process import GraphFailed
from evaluation.trial_log import WHOLE_WAY

ANSWER_TIMEOUT_S: Final = 30.0
HOME_TIMEOUT_S: Final = 60.0
POLICY_NODE: Final = "policy_node"
STAGE_NODES: Final = (POLICY_NODE, "arm_node")
"""Who reports stage times, in the order in which a chunk passes them."""


class RosLink:
    """A node of our own beside the graph; a context manager. Callbacks run in a thread."""

    def __init__(self, domain_id: int, cameras: tuple[str, ...]) -> None:
        self._context = rclpy.Context()
        # Ctrl-C is for the main thread, which stops the graph first.
        rclpy.init(
            args=[],
            context=self._context,
            domain_id=domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self._node = rclpy.create_node("evaluation", context=self._context)
        self._lock = threading.Lock()
        self._pictures: dict[str, Image] = {}
        self._stage_times: dict[tuple[str, str], list[float]] = {}
        self._subscribe(cameras)
        self._home = self._node.create_client(Trigger, "arm_node/home")
        self._recover = self._node.create_client(Trigger, "arm_node/recover")
        self._tasks = ActionClient(self._node, ExecuteTask, "execute_task")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)

    def __enter__(self) -> RosLink:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        rclpy.try_shutdown(context=self._context)
        self._thread.join(timeout=2.0)

    def pictures(self) -> Mapping[str, NDArray[np.uint8]]:
        """The newest picture (height, width, 3) of each camera that has sent one."""
        with self._lock:
            messages = dict(self._pictures)
        return {
            camera: np.frombuffer(m.data, np.uint8).reshape(m.height, m.width, 3)
            for camera, m in sorted(messages.items())
        }

    def take_stage_times(self) -> Mapping[str, list[float]]:
        """Milliseconds of each stage of every chunk since the last call, in a chunk's order."""
        with self._lock:
            times, self._stage_times = self._stage_times, {}
        in_order = sorted(times.items(), key=lambda item: STAGE_NODES.index(item[0][0]))
        return {
            # Server and arm both have a stage `queue`.
            stage if node == POLICY_NODE or stage == WHOLE_WAY else f"arm_{stage}": values
            for (node, stage), values in in_order
        }

    def home(self) -> None:
        """Open the hand and move the arm home; after an arm error recover first.

        Raises:
            GraphFailed: the arm did not get there.
        """
        answer = self._call(self._home)
        if not answer.success:
            self._call(self._recover)
            answer = self._call(self._home)
        if not answer.success:
            raise GraphFailed(f"the arm did not go home: {answer.message}")

    def start_task(self, task: str, obj: str, timeout_s: float) -> RunningTask:
        """Send the goal; raises GraphFailed if the task node does not accept it."""
        if not self._tasks.wait_for_server(ANSWER_TIMEOUT_S):
            raise GraphFailed("the task node does not offer execute_task")
        goal = ExecuteTask.Goal(task=task, object=obj, timeout_s=timeout_s)
        handle = self._ask(lambda: self._tasks.send_goal_async(goal), "execute_task")
        if not handle.accepted:
            raise GraphFailed(f"the task node refused the task {task!r} with {obj!r}")
        return RunningTask(handle, self._ask, self._in_ros_thread(handle.get_result_async))

    def _subscribe(self, cameras: tuple[str, ...]) -> None:
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        for camera in cameras:
            topic = f"camera/{camera}/color/image_raw"
            self._node.create_subscription(
                Image, topic, partial(self._take_picture, camera), newest
            )
        for node in STAGE_NODES:
            topic = f"{node}/stage_times"
            self._node.create_subscription(
                StageTimes, topic, partial(self._take_stage_times, node), 50
            )

    def _take_picture(self, camera: str, message: Image) -> None:
        with self._lock:
            self._pictures[camera] = message

    def _take_stage_times(self, node: str, message: StageTimes) -> None:
        with self._lock:
            for stage, ms in zip(message.stages, message.milliseconds, strict=True):
                self._stage_times.setdefault((node, stage), []).append(round(ms, 3))

    def _ask(self, request: Callable[[], Future], what: str) -> Any:
        return _result(self._in_ros_thread(request), ANSWER_TIMEOUT_S, what)

    def _in_ros_thread(self, request: Callable[[], Future]) -> Future:
        """The request's own future, asked for by the thread that also takes the answers.

        An action client drops an answer that comes before it has noted the request: no other thread
        may take answers meanwhile.
        """
        asked = self._executor.create_task(request)
        return _result(asked, ANSWER_TIMEOUT_S, "the ROS thread")

    def _call(self, client: Any) -> Trigger.Response:
        name = client.srv_name
        if not client.wait_for_service(ANSWER_TIMEOUT_S):
            raise GraphFailed(f"the service {name} is not there")
        return _result(client.call_async(Trigger.Request()), HOME_TIMEOUT_S, name)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return


class RunningTask:
    """A goal that the task node has accepted."""

    def __init__(
        self,
        handle: ClientGoalHandle,
        ask: Callable[[Callable[[], Future], str], Any],
        over: Future,
    ) -> None:
        """`ask` waits for the answer to a request; `over` is the future of the goal's result."""
        self._handle = handle
        self._ask = ask
        self._over = over

    @property
    def over(self) -> bool:
        return bool(self._over.done())

    def result(self) -> ExecuteTask.Result:
        """How it ended; raises GraphFailed if it does not end."""
        answer = _result(self._over, ANSWER_TIMEOUT_S, "the task's result")
        if answer.status == GoalStatus.STATUS_UNKNOWN:
            raise GraphFailed("the task node lost the task")
        return answer.result

    def cancel(self) -> ExecuteTask.Result:
        """End the task now; the arm holds."""
        if not self.over:
            self._ask(self._handle.cancel_goal_async, "canceling the task")
        return self.result()


def _result(future: Future, timeout_s: float, what: str) -> Any:
    """Wait in this thread for what the ROS thread brings."""
    done = threading.Event()
    ready: Callable[[Future], None] = lambda _: done.set()  # noqa: E731
    future.add_done_callback(ready)
    if not done.wait(timeout_s):
        raise GraphFailed(f"no answer within {timeout_s:g} s: {what}")
    return future.result()
