"""The ROS node that carries out ExecuteTask: one goal at a time, policy on, watch, policy off."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from functools import partial

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import QoSProfile, ReliabilityPolicy
from roboalign_msgs.action import ExecuteTask
from roboalign_msgs.msg import ArmStatus, GripperState, PolicyStatus, StageTimes
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String
from std_srvs.srv import Trigger

from roboalign import ros_messages
from roboalign.autostart_node import AutostartNode, run_node
from roboalign.policy_node import INSTRUCTION_TOPIC, LATCHED
from roboalign.task_watch import Outcome, TaskLimits, TaskWatch, resolve_instruction

CHECK_PERIOD_S = 0.05
FEEDBACK_PERIOD_S = 0.5
HOLD_TIMEOUT_S = 1.0


class TaskNode(AutostartNode):
    """A newer goal ends the one under way, as ROS's single-goal example does."""

    def __init__(self) -> None:
        super().__init__("task_node")
        limits = TaskLimits()
        self._cameras = list(self.declare_parameter("cameras", ["front", "wrist"]).value)
        self._limits = TaskLimits(
            policy_silence=self.declare_parameter("policy_lost_s", limits.policy_silence).value,
            camera_silence=self.declare_parameter("camera_lost_s", limits.camera_silence).value,
            arm_silence=self.declare_parameter("arm_lost_s", limits.arm_silence).value,
        )
        self._watch: TaskWatch | None = None
        self._goal: ServerGoalHandle | None = None
        self._goal_lock = threading.Lock()
        self._one_task = threading.Lock()
        self._last_outcome = ""
        self._group = ReentrantCallbackGroup()
        self._instruction = self.create_publisher(String, INSTRUCTION_TOPIC, LATCHED)
        self._hold = self.create_client(Trigger, "arm_node/hold", callback_group=self._group)
        self._subscribe()
        self._server: ActionServer | None = None

    def _subscribe(self) -> None:
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(ArmStatus, "arm_node/status", self._take_arm, qos)
        self.create_subscription(StageTimes, "arm_node/stage_times", self._take_chunk_use, qos)
        self.create_subscription(PolicyStatus, "policy_node/status", self._take_policy, qos)
        self.create_subscription(GripperState, "arm_node/gripper", self._take_gripper, qos)
        for camera in self._cameras:
            topic = f"camera/{camera}/color/camera_info"
            self.create_subscription(CameraInfo, topic, partial(self._take_camera, camera), qos)

    def start(self) -> None:
        self._instruction.publish(String(data=""))
        self._server = ActionServer(
            self,
            ExecuteTask,
            "execute_task",
            execute_callback=self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            handle_accepted_callback=self._accept,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=self._group,
        )

    def stop(self) -> None:
        with self._goal_lock:
            self._goal = None
        with self.until_shutdown():
            self._instruction.publish(String(data=""))
        # Wait for a task under way to see that it is no longer wanted.
        if self._one_task.acquire(timeout=2.0):
            self._one_task.release()
        if self._server is not None:
            self._server.destroy()
        self._server = None

    # -- callbacks -----------------------------------------------------------------------------

    def _take_arm(self, message: ArmStatus) -> None:
        if self._watch is not None:
            self._watch.note_arm(self.seconds_now(), message.mode, message.reason)

    def _take_chunk_use(self, message: StageTimes) -> None:
        if self._watch is not None:
            times = dict(zip(message.stages, message.milliseconds, strict=True))
            used = ros_messages.to_seconds(message.header.stamp)
            self._watch.note_chunk(used, used - 1e-3 * times["picture_to_setpoint"])

    def _take_policy(self, message: PolicyStatus) -> None:
        if self._watch is not None:
            self._watch.policy_reason = message.reason

    def _take_gripper(self, message: GripperState) -> None:
        if self._watch is not None:
            self._watch.note_gripper(message.fault)

    def _take_camera(self, camera: str, _: CameraInfo) -> None:
        if self._watch is not None:
            self._watch.note_camera(camera, self.seconds_now())

    # -- action --------------------------------------------------------------------------------

    def _accept(self, goal: ServerGoalHandle) -> None:
        with self._goal_lock:
            self._goal = goal
        goal.execute()

    def _execute(self, goal: ServerGoalHandle) -> ExecuteTask.Result:
        request, accepted = goal.request, self.seconds_now()
        try:
            text = resolve_instruction(
                request.task, request.object, request.instruction, request.timeout_s
            )
        except ValueError as error:
            # ROS sends no text with a goal's rejection, so it is accepted and ends at once.
            return self._finish(goal, Outcome(ExecuteTask.Result.REJECTED, str(error)), accepted, 0)
        with self._one_task:
            watch = TaskWatch(self.seconds_now(), request.timeout_s, self._cameras, self._limits)
            self._watch = watch
            try:
                self._instruction.publish(String(data=text))
                outcome = self._follow(goal, watch)
            finally:
                self._watch = None
                self._switch_off()
        return self._finish(goal, outcome, accepted, watch.chunks)

    def _follow(self, goal: ServerGoalHandle, watch: TaskWatch) -> Outcome:
        """Until the task is over, for whatever reason."""
        next_feedback = watch.started
        while True:
            now = self.seconds_now()
            if goal.is_cancel_requested:
                return Outcome(ExecuteTask.Result.CANCELED, "the client canceled the task")
            if self._goal is not goal:
                why = "replaced by a newer goal" if self._goal else "the task node stops"
                return Outcome(ExecuteTask.Result.CANCELED, why)
            outcome = watch.outcome(now)
            if outcome is not None:
                return outcome
            if now >= next_feedback:
                next_feedback = now + FEEDBACK_PERIOD_S
                self._send_feedback(goal, watch, now)
            time.sleep(CHECK_PERIOD_S)

    def _send_feedback(self, goal: ServerGoalHandle, watch: TaskWatch, now: float) -> None:
        feedback = ExecuteTask.Feedback(
            elapsed_s=now - watch.started,
            chunks=watch.chunks,
            chunk_age_s=watch.chunk_age(now),
            state=watch.state(),
        )
        with self.until_shutdown():
            goal.publish_feedback(feedback)

    def _switch_off(self) -> None:
        """Policy off first, then drop what the arm still has queued."""
        with self.until_shutdown():
            self._ask_for_hold()

    def _ask_for_hold(self) -> None:
        self._instruction.publish(String(data=""))
        if not self._hold.service_is_ready():
            self.get_logger().warning("the arm node does not answer; it holds when its queue ends")
            return
        answered = threading.Event()
        self._hold.call_async(Trigger.Request()).add_done_callback(lambda _: answered.set())
        if not answered.wait(HOLD_TIMEOUT_S):
            self.get_logger().warning("the arm node did not confirm to hold in time")

    def _finish(
        self, goal: ServerGoalHandle, outcome: Outcome, accepted: float, chunks: int
    ) -> ExecuteTask.Result:
        result = ExecuteTask.Result(
            finished=outcome.reason == ExecuteTask.Result.SUCCEEDED,
            reason=outcome.reason,
            message=outcome.message,
            duration_s=self.seconds_now() - accepted,
            chunks=chunks,
        )
        self._last_outcome = f"{outcome.reason}: {outcome.message}"
        with self.until_shutdown():
            self.get_logger().info(self._last_outcome)
            if goal.is_cancel_requested:
                goal.canceled()
            elif result.finished:
                goal.succeed()
            else:
                goal.abort()
        return result

    def diagnose(self) -> list[DiagnosticStatus]:
        watch = self._watch
        state = watch.state() if watch is not None else "no task"
        values = {"state": state, "last_outcome": self._last_outcome}
        return [ros_messages.diagnostic("task", "", values)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_node(TaskNode, arguments, threads=4)


if __name__ == "__main__":
    sys.exit(main())
