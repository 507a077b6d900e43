"""What arm_node publishes of each tick of the control loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from roboalign_msgs.msg import ArmStatus, GripperState, Setpoint, StageTimes
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from roboalign import ros_messages
from roboalign.arm_report import Report
from roboalign.gripper import HandState

STATE_EVERY = 2
STATUS_EVERY = 10
"""Ticks between two publications: the arm's state at 50 Hz, its status at 10 Hz."""
ARRIVALS = 8
"""Chunks whose arrival is kept: one that is replaced is never used."""


@dataclass(frozen=True)
class Arrival:
    """When a chunk's picture was taken, the chunk sent and received [s]."""

    observed: float
    sent: float
    received: float


class ArmPublishers:
    """The node's topics; `publish` is called by one thread, once a tick."""

    def __init__(self, node: Node, robot_type: str) -> None:
        self._joint_names = [f"{robot_type}_joint{i}" for i in range(1, 8)]
        self._base_frame, self._hand_frame = f"{robot_type}_link0", f"{robot_type}_hand"
        self._context = node.context
        stream = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
        pose_topic = "franka_robot_state_broadcaster/current_pose"
        self._joint_states = node.create_publisher(JointState, "joint_states", 10)
        self._pose = node.create_publisher(PoseStamped, pose_topic, 10)
        self._gripper = node.create_publisher(GripperState, "~/gripper", 10)
        self._status = node.create_publisher(ArmStatus, "~/status", 10)
        self._stage_times = node.create_publisher(StageTimes, "~/stage_times", 10)
        self._setpoints = node.create_publisher(Setpoint, "~/setpoints", stream)
        self._arrivals: dict[str, Arrival] = {}
        self._hand_state: HandState | None = None
        self._limits: Counter[str] = Counter()
        self._recent_limits: set[str] = set()
        self._told = ("", 0)

    def note_arrival(self, chunk_id: str, arrival: Arrival) -> None:
        """For the stage times of a chunk that may be used."""
        self._arrivals = dict(list(self._arrivals.items())[-ARRIVALS:])
        self._arrivals[chunk_id] = arrival

    def limit_counts(self) -> str:
        """How often each limit has changed a setpoint, for diagnostics."""
        return ", ".join(f"{name} {count}" for name, count in self._limits.most_common())

    def publish(self, report: Report, hand: HandState | None, count: int) -> None:
        """Tick number `count`."""
        if not self._context.ok():
            return
        self._limits.update(report.limited_by)
        self._recent_limits.update(report.limited_by)
        if report.setpoint is not None:
            self._publish_setpoint(report)
        if report.first_use:
            self._publish_stage_times(report)
        if count % STATE_EVERY == 0:
            self._publish_state(report)
            self._publish_gripper(hand)
        # News at once: whoever watches must neither wait for the next period nor miss a refusal.
        news = (str(report.mode), report.refused_chunks)
        if count % STATUS_EVERY == 0 or news != self._told:
            self._told = news
            self._publish_status(report)

    def _publish_setpoint(self, report: Report) -> None:
        setpoint = report.setpoint
        assert setpoint is not None
        header = Header(stamp=ros_messages.to_stamp(report.stamp), frame_id=self._base_frame)
        self._setpoints.publish(
            Setpoint(
                header=header,
                source=report.source,
                chunk_id=report.last_chunk_id if report.source == "policy" else "",
                joints=setpoint.joints,
                velocity=setpoint.velocity,
                pose=setpoint.pose,
                limited=bool(report.limited_by),
                filter_us=report.filter_us,
            )
        )

    def _publish_state(self, report: Report) -> None:
        if report.state is None:
            return
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

    def _publish_gripper(self, state: HandState | None) -> None:
        if state is None or state is self._hand_state:
            return
        self._hand_state = state
        stamp = ros_messages.to_stamp(state.stamp)
        self._gripper.publish(
            GripperState(
                header=Header(stamp=stamp, frame_id=self._hand_frame),
                width=state.width,
                opening=state.opening,
                is_grasped=state.is_grasped,
                moving=state.moving,
                fault=state.fault,
            )
        )

    def _publish_status(self, report: Report) -> None:
        header = Header(stamp=ros_messages.to_stamp(report.stamp), frame_id=self._base_frame)
        limits, self._recent_limits = sorted(self._recent_limits), set()
        self._status.publish(
            ArmStatus(
                header=header,
                mode=str(report.mode),
                command_source=report.commander,
                reason=report.reason,
                queue_remaining_s=report.queue_remaining,
                control_success_rate=report.state.success_rate if report.state else 0.0,
                limited_setpoints=report.limited_setpoints,
                dropped_waypoints=report.dropped_waypoints,
                last_chunk_id=report.last_chunk_id,
                limited_by=", ".join(limits),
                recovery=report.recovery,
                emergency_stop=report.emergency,
            )
        )

    def _publish_stage_times(self, report: Report) -> None:
        arrival = self._arrivals.pop(report.first_use, None)
        if arrival is None:
            return
        stages = {
            "transport": arrival.received - arrival.sent,
            "queue": report.stamp - arrival.received,
            "picture_to_setpoint": report.stamp - arrival.observed,
        }
        self._stage_times.publish(
            StageTimes(
                header=Header(stamp=ros_messages.to_stamp(report.stamp)),
                chunk_id=report.first_use,
                stages=list(stages),
                milliseconds=[1e3 * seconds for seconds in stages.values()],
            )
        )
