"""The ROS node that owns the arm and the hand: chunks in, state and status out."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.qos import QoSProfile, ReliabilityPolicy
from roboalign_msgs.msg import ActionChunk, PolicyStatus, TeleopCommand
from roboalign_msgs.srv import SelectCommandSource
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Empty, String
from std_srvs.srv import Trigger

from roboalign import ros_messages
from roboalign.arm_control import HOME_DYNAMICS, ArmControl
from roboalign.arm_driver import ArmDriver, ArmError
from roboalign.arm_publishers import ArmPublishers, Arrival
from roboalign.arm_report import Mode, Procedure, Report
from roboalign.autostart_node import AutostartNode, StartError, run_node
from roboalign.calibration_file import latencies_from_file
from roboalign.chunk_executor import ChunkExecutor, ChunkRefused
from roboalign.gripper import GripperDriver, GripperError
from roboalign.policy_node import INSTRUCTION_TOPIC, LATCHED
from roboalign.supervision import CAMERA, POLICY, Deadlines, SourceRefused

CONTROL_PERIOD_S = 0.01
CONTROL_NICENESS = -5
INPUT = "observation"
"""Name under which the policy node complains of what it cannot see."""


class ArmNode(AutostartNode):
    """Topics, services and parameters around ArmControl; see ros2_ws/README.md for the list."""

    def __init__(self) -> None:
        super().__init__("arm_node")
        self._robot_ip = self.declare_parameter("robot_ip", "").value
        self._load_gripper = self.declare_parameter("load_gripper", True).value
        self._connect_timeout_s = self.declare_parameter("connect_timeout_s", 20.0).value
        self._home_dynamics = self.declare_parameter("home_dynamics", HOME_DYNAMICS).value
        self._max_chunk_age_s = self.declare_parameter("max_chunk_age_s", 2.5).value
        self._calibration = self.declare_parameter("calibration", "").value
        self._cameras = list(self.declare_parameter("cameras", ["front", "wrist"]).value)
        robot_type = self.declare_parameter("robot_type", "fr3").value
        deadlines = Deadlines()
        self._deadlines = Deadlines(
            camera=self.declare_parameter("camera_deadline_s", deadlines.camera).value,
            policy=self.declare_parameter("policy_deadline_s", deadlines.policy).value,
            operator=self.declare_parameter("operator_deadline_s", deadlines.operator).value,
            stop_after=self.declare_parameter("stop_after_hold_s", deadlines.stop_after).value,
        )
        self._outputs = ArmPublishers(self, robot_type)
        self._control: ArmControl | None = None
        self._hand: GripperDriver | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._report: Report | None = None
        self._instruction = ""
        self._late_ticks = 0
        self._create_inputs()
        self._create_services()

    def _create_inputs(self) -> None:
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        commands = MutuallyExclusiveCallbackGroup()
        watching = MutuallyExclusiveCallbackGroup()
        for kind, topic, take in (
            (ActionChunk, "~/action_chunk", self._receive),
            (TeleopCommand, "~/teleop_command", self._take_teleop),
        ):
            self.create_subscription(kind, topic, take, newest, callback_group=commands)
        for camera in self._cameras:
            topic, take = f"camera/{camera}/color/camera_info", partial(self._take_camera, camera)
            self.create_subscription(CameraInfo, topic, take, newest, callback_group=watching)
        status, instruction = self._take_policy, self._take_instruction
        self.create_subscription(
            PolicyStatus, "policy_node/status", status, newest, callback_group=watching
        )
        self.create_subscription(
            String, INSTRUCTION_TOPIC, instruction, LATCHED, callback_group=watching
        )
        self.create_subscription(
            Empty,
            "~/emergency_stop",
            lambda _: self._press_emergency_stop("asked for on the topic"),
            10,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )

    def _create_services(self) -> None:
        # Reentrant: `hold` must get through while `home` waits for the motion.
        waiting = ReentrantCallbackGroup()
        for name, serve in (
            ("~/home", self._serve_home),
            ("~/hold", self._serve_hold),
            ("~/recover", self._serve_recover),
            ("~/emergency_stop", self._serve_emergency_stop),
            ("~/reset_emergency_stop", self._serve_reset),
            # franka_ros2 has an action of this name; a Trigger service does for us.
            ("action_server/error_recovery", self._serve_recover),
        ):
            self.create_service(Trigger, name, serve, callback_group=waiting)
        self.create_service(
            SelectCommandSource, "~/select_source", self._serve_select, callback_group=waiting
        )

    # -- life cycle ----------------------------------------------------------------------------

    def start(self) -> None:
        if not self._robot_ip:
            raise StartError("the parameter robot_ip is empty: give the arm's address")
        try:
            latencies = latencies_from_file(self._calibration)
        except ValueError as error:
            raise StartError(str(error)) from error
        arm = ArmDriver(self._robot_ip)
        self._retry(arm.connect)
        if self._load_gripper:
            self._hand = GripperDriver(self._robot_ip, self.seconds_now)
            self._retry(self._hand.start)
        try:
            self._control = ArmControl(
                arm,
                self._hand,
                ChunkExecutor(self._max_chunk_age_s, latencies),
                CONTROL_PERIOD_S,
                self.seconds_now,
                deadlines=self._deadlines,
                home_dynamics=self._home_dynamics,
            )
        except (ArmError, ValueError) as error:
            raise StartError(str(error)) from error
        self._control.start()
        self._ended.clear()
        self._thread = threading.Thread(target=self._loop, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._control is not None and self._thread is not None:
            stopped = self._control.stop()
            if not stopped.wait(3.0) or stopped.error:
                # Unlike get_logger(), this still works once the signal has ended the context.
                print(f"arm: did not stop cleanly: {stopped.error or 'timeout'}", file=sys.stderr)
            self._ended.set()
            self._thread.join(timeout=2.0)
        if self._hand is not None:
            self._hand.stop()
        self._control = self._thread = self._hand = None

    def _retry(self, connect: Callable[[], None]) -> None:
        """Call `connect` until it works: the arm or its simulator may still be booting."""
        deadline = time.monotonic() + self._connect_timeout_s
        while True:
            try:
                return connect()
            except (ArmError, GripperError) as error:
                if time.monotonic() > deadline or not self.context.ok():
                    raise StartError(str(error)) from error
            time.sleep(0.2)

    # -- control loop --------------------------------------------------------------------------

    def _loop(self) -> None:
        try:
            self._tick_until_ended()
        finally:
            # A loop that broke must not leave a node behind that looks alive.
            if not self._ended.is_set():
                self.context.try_shutdown()

    def _tick_until_ended(self) -> None:
        # Setpoints come before pictures. Without the privilege it is an ordinary thread.
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), CONTROL_NICENESS)
        due = time.monotonic()
        count = 0
        while not self._ended.is_set() and self._control is not None:
            self._report = self._control.tick()
            with self.until_shutdown():
                hand = self._hand.state if self._hand is not None else None
                self._outputs.publish(self._report, hand, count)
            count += 1
            due += CONTROL_PERIOD_S
            pause = due - time.monotonic()
            if pause > 0.0:
                time.sleep(pause)
            else:
                self._late_ticks += 1
                due = time.monotonic()

    # -- topics and services -------------------------------------------------------------------

    def _receive(self, message: ActionChunk) -> None:
        control = self._control
        if control is None:
            return
        try:
            chunk = ros_messages.chunk_from_message(message)
            mode = ros_messages.mode_from_message(message)
            if message.task and message.task != self._instruction:
                raise ValueError(
                    f"chunk {chunk.chunk_id!r} answers {message.task!r}, not {self._instruction!r}"
                )
        except ValueError as error:
            control.commands.refuse(str(error))
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        sent = ros_messages.to_seconds(message.header.stamp)
        arrival = Arrival(chunk.observation_stamp, sent, self.seconds_now())
        self._outputs.note_arrival(chunk.chunk_id, arrival)
        try:
            control.commands.offer(chunk, mode)
        except ChunkRefused as refusal:
            self.get_logger().warning(str(refusal), throttle_duration_sec=1.0)

    def _take_teleop(self, message: TeleopCommand) -> None:
        if self._control is None:
            return
        pose, stamp = ros_messages.to_vector(message.pose), message.header.stamp
        try:
            self._control.commands.teleoperate(
                pose, message.gripper, message.engaged, ros_messages.to_seconds(stamp)
            )
        except ChunkRefused as refusal:
            self._control.commands.refuse(str(refusal))
            self.get_logger().warning(str(refusal), throttle_duration_sec=1.0)

    def _take_camera(self, camera: str, message: CameraInfo) -> None:
        if self._control is not None:
            age = self.seconds_now() - ros_messages.to_seconds(message.header.stamp)
            self._control.commands.beat(CAMERA + camera, age)

    def _take_policy(self, message: PolicyStatus) -> None:
        if self._control is not None:
            self._control.commands.beat(POLICY)
            lost = message.lost_input if message.connected else ""
            self._control.commands.complain(INPUT, f"the policy cannot see {lost}" if lost else "")

    def _take_instruction(self, message: String) -> None:
        self._instruction = message.data.strip()

    def _press_emergency_stop(self, reason: str) -> None:
        if self._control is not None:
            self._control.commands.emergency_stop(reason)
        self.get_logger().error(f"emergency stop {reason}")

    def _serve_emergency_stop(
        self, _: Trigger.Request, answer: Trigger.Response
    ) -> Trigger.Response:
        self._press_emergency_stop("asked for by the service")
        answer.success, answer.message = True, "stopped until ~/reset_emergency_stop"
        return answer

    def _serve_reset(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        if self._control is not None:
            self._control.commands.reset_emergency_stop()
        answer.success, answer.message = True, "reset; now recover, then go on"
        return answer

    def _serve_select(
        self, request: SelectCommandSource.Request, answer: SelectCommandSource.Response
    ) -> SelectCommandSource.Response:
        if self._control is None:
            answer.success, answer.message = False, "the node is not active"
            return answer
        try:
            self._control.commands.select(request.source)
            answer.success = True
            answer.message = f"{request.source or 'nobody'} commands the arm"
        except SourceRefused as refusal:
            answer.success, answer.message = False, str(refusal)
        return answer

    def _serve_home(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._await(lambda control: control.home(), answer)

    def _serve_recover(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._await(lambda control: control.recover(), answer)

    def _serve_hold(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        if self._control is not None:
            self._control.commands.hold()
        answer.success = self._control is not None
        answer.message = "holding" if answer.success else "the node is not active"
        return answer

    def _await(
        self, ask: Callable[[ArmControl], Procedure], answer: Trigger.Response
    ) -> Trigger.Response:
        if self._control is None:
            answer.success, answer.message = False, "the node is not active"
            return answer
        procedure = ask(self._control)
        ended = procedure.wait(procedure.timeout_s + 1.0)
        answer.success = ended and not procedure.error
        answer.message = procedure.error or ("done" if ended else "did not end in time")
        return answer

    def diagnose(self) -> list[DiagnosticStatus]:
        report = self._report
        if report is None:
            return [ros_messages.diagnostic("arm", "no control tick yet", {})]
        values = {
            "mode": str(report.mode),
            "reason": report.reason,
            "refused_chunks": str(report.refused_chunks),
            "dropped_waypoints": str(report.dropped_waypoints),
            "limited_setpoints": str(report.limited_setpoints),
            "limits": self._outputs.limit_counts(),
            "filter_us": f"{report.filter_us:.0f}",
            "command_source": report.commander,
            "recovery": report.recovery,
            "late_ticks": str(self._late_ticks),
        }
        error = report.reason if report.mode == Mode.ERROR else ""
        statuses = [ros_messages.diagnostic("arm", error, values)]
        if self._hand is not None:
            hand = self._hand.state
            fault = hand.fault if hand is not None else ""
            statuses.append(ros_messages.diagnostic("gripper", self._hand.error, {"fault": fault}))
        return statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_node(ArmNode, arguments, threads=4)


if __name__ == "__main__":
    sys.exit(main())
