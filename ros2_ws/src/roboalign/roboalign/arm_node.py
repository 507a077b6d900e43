"""The ROS node that owns the arm and the hand: chunks in, state and status out."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.qos import QoSProfile, ReliabilityPolicy
from roboalign_msgs.msg import ActionChunk, ArmStatus, GripperState, StageTimes
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from roboalign import ros_messages
from roboalign.arm_control import PROCEDURE_TIMEOUT_S, ArmControl, Mode, Procedure, Report
from roboalign.arm_driver import HOME_DYNAMICS, ArmDriver, ArmError
from roboalign.autostart_node import AutostartNode, StartError, run_node
from roboalign.chunk_executor import ChunkExecutor, ChunkRefused
from roboalign.gripper import GripperDriver, GripperError, HandState

CONTROL_PERIOD_S = 0.01
CONTROL_NICENESS = -5
STATE_EVERY = 2
STATUS_EVERY = 10
"""Ticks between two publications: the arm's state at 50 Hz, its status at 10 Hz."""


class ArmNode(AutostartNode):
    """Topics, services and parameters around ArmControl; see ros2_ws/README.md for the list."""

    def __init__(self) -> None:
        super().__init__("arm_node")
        self._robot_ip = self.declare_parameter("robot_ip", "").value
        self._load_gripper = self.declare_parameter("load_gripper", True).value
        self._connect_timeout_s = self.declare_parameter("connect_timeout_s", 20.0).value
        self._home_dynamics = self.declare_parameter("home_dynamics", HOME_DYNAMICS).value
        self._max_chunk_age_s = self.declare_parameter("max_chunk_age_s", 2.5).value
        robot_type = self.declare_parameter("robot_type", "fr3").value
        self._joint_names = [f"{robot_type}_joint{i}" for i in range(1, 8)]
        self._base_frame, self._hand_frame = f"{robot_type}_link0", f"{robot_type}_hand"
        self._control: ArmControl | None = None
        self._hand: GripperDriver | None = None
        self._hand_state: HandState | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._report: Report | None = None
        self._arrivals: dict[str, tuple[float, float, float]] = {}
        self._late_ticks = 0
        self._create_interfaces()

    def _create_interfaces(self) -> None:
        state_qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        pose_topic = "franka_robot_state_broadcaster/current_pose"
        self._joint_states = self.create_publisher(JointState, "joint_states", 10)
        self._pose = self.create_publisher(PoseStamped, pose_topic, 10)
        self._gripper = self.create_publisher(GripperState, "~/gripper", 10)
        self._status = self.create_publisher(ArmStatus, "~/status", 10)
        self._stage_times = self.create_publisher(StageTimes, "~/stage_times", 10)
        chunks = MutuallyExclusiveCallbackGroup()
        self.create_subscription(
            ActionChunk, "~/action_chunk", self._receive, state_qos, callback_group=chunks
        )
        # Reentrant: `hold` must get through while `home` waits for the motion.
        waiting = ReentrantCallbackGroup()
        for name, serve in (
            ("~/home", self._serve_home),
            ("~/hold", self._serve_hold),
            ("~/recover", self._serve_recover),
            # franka_ros2 has an action of this name; a Trigger service does for us.
            ("action_server/error_recovery", self._serve_recover),
        ):
            self.create_service(Trigger, name, serve, callback_group=waiting)

    # -- life cycle ----------------------------------------------------------------------------

    def start(self) -> None:
        if not self._robot_ip:
            raise StartError("the parameter robot_ip is empty: give the arm's address")
        arm = ArmDriver(self._robot_ip, home_dynamics=self._home_dynamics)
        self._retry(arm.connect)
        if self._load_gripper:
            self._hand = GripperDriver(self._robot_ip, self.seconds_now)
            self._retry(self._hand.start)
        executor = ChunkExecutor(self._max_chunk_age_s)
        try:
            self._control = ArmControl(
                arm, self._hand, executor, CONTROL_PERIOD_S, self.seconds_now
            )
        except ArmError as error:
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
                self._publish(self._report, count)
            count += 1
            due += CONTROL_PERIOD_S
            pause = due - time.monotonic()
            if pause > 0.0:
                time.sleep(pause)
            else:
                self._late_ticks += 1
                due = time.monotonic()

    def _publish(self, report: Report, count: int) -> None:
        if not self.context.ok():
            return
        if report.first_use:
            self._publish_stage_times(report)
        if count % STATE_EVERY == 0:
            self._publish_state(report)
        if count % STATUS_EVERY == 0:
            self._publish_status(report)

    def _publish_state(self, report: Report) -> None:
        if report.state is not None:
            header = Header(stamp=ros_messages.to_stamp(report.stamp), frame_id=self._base_frame)
            self._joint_states.publish(
                JointState(
                    header=header,
                    name=self._joint_names,
                    position=report.state.joint_positions.tolist(),
                    velocity=report.state.joint_velocities.tolist(),
                )
            )
            pose = ros_messages.to_pose(report.state.pose)
            self._pose.publish(PoseStamped(header=header, pose=pose))
        self._publish_gripper()

    def _publish_gripper(self) -> None:
        state = self._hand.state if self._hand is not None else None
        if state is not None and state is not self._hand_state:
            self._hand_state = state
            stamp = ros_messages.to_stamp(state.stamp)
            self._gripper.publish(
                GripperState(
                    header=Header(stamp=stamp, frame_id=self._hand_frame),
                    width=state.width,
                    opening=state.opening,
                    is_grasped=state.is_grasped,
                    moving=state.moving,
                )
            )

    def _publish_status(self, report: Report) -> None:
        header = Header(stamp=ros_messages.to_stamp(report.stamp), frame_id=self._base_frame)
        self._status.publish(
            ArmStatus(
                header=header,
                mode=str(report.mode),
                command_source="policy" if report.mode == Mode.TRACKING else "",
                reason=report.reason,
                queue_remaining_s=report.queue_remaining,
                control_success_rate=report.state.success_rate if report.state else 0.0,
                limited_setpoints=report.limited_setpoints,
                dropped_waypoints=report.dropped_waypoints,
                last_chunk_id=report.last_chunk_id,
            )
        )

    def _publish_stage_times(self, report: Report) -> None:
        observed, sent, received = self._arrivals.pop(report.first_use, (0.0, 0.0, 0.0))
        if received == 0.0:
            return
        stages = {
            "transport": received - sent,
            "queue": report.stamp - received,
            "picture_to_setpoint": report.stamp - observed,
        }
        self._stage_times.publish(
            StageTimes(
                header=Header(stamp=ros_messages.to_stamp(report.stamp)),
                chunk_id=report.first_use,
                stages=list(stages),
                milliseconds=[1e3 * seconds for seconds in stages.values()],
            )
        )

    # -- topics and services -------------------------------------------------------------------

    def _receive(self, message: ActionChunk) -> None:
        control = self._control
        if control is None:
            return
        try:
            chunk = ros_messages.chunk_from_message(message)
        except ValueError as error:
            control.refuse(str(error))
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        sent = ros_messages.to_seconds(message.header.stamp)
        # Only the newest arrivals matter: a chunk that is replaced is never used.
        self._arrivals = dict(list(self._arrivals.items())[-8:])
        self._arrivals[chunk.chunk_id] = (chunk.observation_stamp, sent, self.seconds_now())
        try:
            control.offer(chunk)
        except ChunkRefused as refusal:
            self.get_logger().warning(str(refusal), throttle_duration_sec=1.0)

    def _serve_home(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._await(lambda control: control.home(), answer)

    def _serve_recover(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._await(lambda control: control.recover(), answer)

    def _serve_hold(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        if self._control is not None:
            self._control.hold()
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
        ended = procedure.wait(PROCEDURE_TIMEOUT_S + 1.0)
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
            "late_ticks": str(self._late_ticks),
        }
        error = report.reason if report.mode == Mode.ERROR else ""
        statuses = [ros_messages.diagnostic("arm", error, values)]
        if self._hand is not None:
            statuses.append(ros_messages.diagnostic("gripper", self._hand.error, {}))
        return statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_node(ArmNode, arguments, threads=4)


if __name__ == "__main__":
    sys.exit(main())
