"""The ROS node between the robot's topics and the policy server.

Callbacks only store; one worker thread assembles, asks and publishes, so that a slow server never
blocks the executor.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from roboalign_msgs.msg import ActionChunk, ArmStatus, PolicyStatus, StageTimes
from std_msgs.msg import Header, String

from contracts import action
from contracts.observation import Observation
from policy_server.client import Answer, PolicyClient, PolicyRefused, PolicyUnavailable, Reason
from roboalign import ros_messages
from roboalign.autostart_node import AutostartNode, StartError, run_node
from roboalign.calibration_file import latencies_from_file
from roboalign.execution_mode import LIVE_MODE, ExecutionMode
from roboalign.latency_estimate import LatencyEstimate
from roboalign.observation_assembler import AssemblyLimits, NotReady
from roboalign.policy_inputs import PolicyInputs
from roboalign.request_schedule import ChunkTiming, RequestSchedule

INSTRUCTION_TOPIC = "policy_node/instruction"
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""What the policy shall do; empty: nothing. Kept for a policy node that starts later."""
IDLE_WAIT_S = 0.05
PAUSE_AFTER_FAILURE_S = 0.2
LOST_AFTER_S = 0.5
"""How long an input may be missing before it counts as lost: the arm has waypoints meanwhile."""


@dataclass(frozen=True)
class Link:
    """State of the connection to the server, replaced as a whole."""

    connected: bool = False
    bundle: str = ""
    round_trip_ms: float = 0.0
    inference_ms: float = 0.0
    requests: int = 0
    failures: int = 0
    reason: str = "not connected yet"
    lost_input: str = ""


@dataclass(frozen=True)
class Ask:
    """One request: what is seen, and the chunk that the answer has to go on from, if any."""

    schedule: RequestSchedule
    observation: Observation
    previous: action.ActionChunk | None
    delay: int | None


class PolicyNode(AutostartNode):
    """Streams requests while there is an instruction."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        limits = AssemblyLimits()
        self._url = self.declare_parameter("policy_url", "ws://127.0.0.1:8000").value
        self._token_file = self.declare_parameter("token_file", "").value
        self._timeout_s = self.declare_parameter("request_timeout_s", 2.0).value
        self._cameras = list(self.declare_parameter("cameras", ["front", "wrist"]).value)
        limits = AssemblyLimits(
            frame_age=self.declare_parameter("max_frame_age_s", limits.frame_age).value,
            state_age=self.declare_parameter("max_state_age_s", limits.state_age).value,
            camera_skew=self.declare_parameter("max_camera_skew_s", limits.camera_skew).value,
        )
        self._calibration = self.declare_parameter("calibration", "").value
        self._inputs = PolicyInputs(self, self._cameras, limits)
        self._news = self._inputs.news
        self.add_on_set_parameters_callback(_check_mode)
        self.declare_parameter("execution_mode", str(LIVE_MODE))
        self._instruction = ""
        self._schedule: RequestSchedule | None = None
        self._answer_latency = LatencyEstimate()
        self._lead = 0.0
        self._link = Link()
        self._missing_since: float | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._chunks = self.create_publisher(ActionChunk, "arm_node/action_chunk", 1)
        self._status = self.create_publisher(PolicyStatus, "~/status", 10)
        self._stage_times = self.create_publisher(StageTimes, "~/stage_times", 10)
        recent = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(ArmStatus, "arm_node/status", self._take_arm, recent)
        self.create_subscription(String, INSTRUCTION_TOPIC, self._take_instruction, LATCHED)
        self.create_timer(0.5, self._check_commander)

    def start(self) -> None:
        try:
            token = None
            if self._token_file:
                with open(self._token_file) as file:
                    token = file.read().strip()
            client = PolicyClient(self._url, token, timeout_s=self._timeout_s)
            latencies = latencies_from_file(self._calibration)
        except (OSError, ValueError) as error:
            raise StartError(f"policy node: {error}") from error
        self._inputs.set_state_latency(latencies.robot_observation)
        self._lead = latencies.robot_action
        self._ended.clear()
        self._thread = threading.Thread(
            target=self._work, args=(client,), name="policy", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        with self._news:
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=self._timeout_s + 0.5)
        self._thread = None

    # -- callbacks ------------------------------------------------------------------------------

    def _take_arm(self, message: ArmStatus) -> None:
        followed = message.last_chunk_id if message.mode == ArmStatus.TRACKING else ""
        with self._news:
            if self._schedule is not None:
                stamp = ros_messages.to_seconds(message.header.stamp)
                self._schedule.arm_follows(followed, stamp)

    def _take_instruction(self, message: String) -> None:
        with self._news:
            self._instruction = message.data.strip()
            self._schedule = self._missing_since = None
            self._link = replace(self._link, lost_input="")
            self._news.notify_all()
        text = f"instruction: {self._instruction}" if self._instruction else "off"
        self.get_logger().info(text)

    def _check_commander(self) -> None:
        """Nobody is left who could switch the policy off: switch it off."""
        if self._instruction and self.count_publishers(INSTRUCTION_TOPIC) == 0:
            self.get_logger().warning("the task node is gone: off")
            with self._news:
                self._instruction, self._schedule = "", None
        self._publish_status()

    # -- worker --------------------------------------------------------------------------------

    def _work(self, client: PolicyClient) -> None:
        try:
            while not self._ended.is_set():
                timing = self._connect(client)
                if timing is None:
                    self._ended.wait(PAUSE_AFTER_FAILURE_S)
                    continue
                self._stream(client, timing)
        finally:
            client.close()

    def _connect(self, client: PolicyClient) -> ChunkTiming | None:
        try:
            metadata = client.metadata()
            needed = {camera["name"] for camera in metadata["cameras"]}
            missing = needed - set(self._cameras)
            if missing:
                raise ValueError(f"the policy needs cameras that are not here: {sorted(missing)}")
            timing = ChunkTiming.from_metadata(metadata)
        except (PolicyUnavailable, PolicyRefused, ValueError, KeyError, TypeError) as error:
            self._note_failure(error, connected=False)
            return None
        if not self._link.connected:
            name = str(metadata.get("policy", ""))
            self._link = replace(self._link, connected=True, bundle=name, reason="")
            self.get_logger().info(f"policy server at {self._url} serves {name}")
        return timing

    def _stream(self, client: PolicyClient, timing: ChunkTiming) -> None:
        """Ask until the server is lost or the node ends."""
        with self._news:
            self._schedule = None
        while not self._ended.is_set():
            ask = self._next_ask(timing)
            if ask is None:
                continue
            assembled = self.seconds_now()
            try:
                answer = _answer(client, ask)
            except PolicyUnavailable as error:
                self._note_failure(error, connected=False)
                return
            except PolicyRefused as error:
                self._note_failure(error, connected=True)
                self._ended.wait(PAUSE_AFTER_FAILURE_S)
                continue
            with self._news:
                self._link = replace(
                    self._link,
                    connected=True,
                    requests=self._link.requests + 1,
                    round_trip_ms=answer.round_trip_ms,
                    inference_ms=float(sum(answer.server_timing.values())),
                    reason="",
                )
            if self.context.ok():
                with self.until_shutdown():
                    self._use(answer, ask, assembled)

    def _next_ask(self, timing: ChunkTiming) -> Ask | None:
        """What to ask now; waits a moment and returns None if there is nothing."""
        with self._news:
            if self._instruction:
                now = self.seconds_now()
                schedule = self._schedule or self._new_schedule(timing)
                seen = self._inputs.assemble(now, self._instruction)
                self._note_input(seen, now)
                if isinstance(seen, Observation) and schedule.wants(seen.stamp):
                    schedule.taken(seen.stamp)
                    return Ask(schedule, seen, *schedule.continuation(seen.stamp, now))
            self._news.wait(IDLE_WAIT_S)
        return None

    def _new_schedule(self, timing: ChunkTiming) -> RequestSchedule:
        mode = ExecutionMode(self.get_parameter("execution_mode").value)
        self._schedule = RequestSchedule(timing, mode, self._answer_latency, self._lead)
        if mode == ExecutionMode.REALTIME_CHUNKING and not timing.continues:
            self.get_logger().warning("this bundle cannot go on from a chunk: merely asynchronous")
        return self._schedule

    def _note_input(self, seen: Observation | NotReady, now: float) -> None:
        """Say at once that an input counts as lost, or is here again."""
        lost, reason = "", self._link.reason
        if isinstance(seen, Observation):
            self._missing_since = None
        else:
            self._missing_since = self._missing_since or now
            reason = seen.reason
            if now - self._missing_since > LOST_AFTER_S:
                lost = seen.input
        changed = lost != self._link.lost_input
        self._link = replace(self._link, lost_input=lost, reason=reason)
        if changed and self.context.ok():
            with self.until_shutdown():
                self._publish_status()

    def _use(self, answer: Answer, ask: Ask, assembled: float) -> None:
        """Send the chunk to the arm, if it is still wanted."""
        with self._news:
            schedule = ask.schedule
            if schedule is not self._schedule:
                return
            chunk = schedule.executed(answer.chunk, ask.previous, ask.delay)
            self._publish(answer, chunk, ask, assembled)
            schedule.answered(chunk, self.seconds_now(), 1e-3 * answer.round_trip_ms)

    def _note_failure(self, error: Exception, connected: bool) -> None:
        with self._news:
            if self._schedule is not None:
                self._schedule.failed()
            known = str(error) == self._link.reason
            self._link = replace(
                self._link,
                connected=connected,
                requests=self._link.requests + 1,
                failures=self._link.failures + 1,
                reason=str(error),
            )
        if not known and self.context.ok():
            self.get_logger().warning(str(error))

    def _publish(
        self, answer: Answer, chunk: action.ActionChunk, ask: Ask, assembled: float
    ) -> None:
        started = time.perf_counter()
        message = ros_messages.chunk_to_message(chunk, ask.schedule.mode)
        message.task = ask.observation.instruction
        message.header = Header(stamp=self.get_clock().now().to_msg(), frame_id="base")
        self._chunks.publish(message)
        stages = {
            "picture_to_observation": 1e3 * (assembled - ask.observation.stamp),
            **{name: float(value) for name, value in answer.server_timing.items()},
            "round_trip": answer.round_trip_ms,
            "publish": 1e3 * (time.perf_counter() - started),
        }
        header = Header(stamp=self.get_clock().now().to_msg())
        self._stage_times.publish(
            StageTimes(
                header=header,
                chunk_id=answer.chunk.chunk_id,
                stages=list(stages),
                milliseconds=list(stages.values()),
            )
        )
        self._publish_status()

    def _publish_status(self) -> None:
        link = self._link
        self._status.publish(
            PolicyStatus(
                header=Header(stamp=self.get_clock().now().to_msg()),
                connected=link.connected,
                bundle=link.bundle,
                round_trip_ms=link.round_trip_ms,
                inference_ms=link.inference_ms,
                requests=link.requests,
                failures=link.failures,
                reason=link.reason,
                lost_input=link.lost_input,
            )
        )

    def diagnose(self) -> list[DiagnosticStatus]:
        link = self._link
        values = {
            "url": self._url,
            "bundle": link.bundle,
            "instruction": self._instruction,
            "execution_mode": str(self.get_parameter("execution_mode").value),
            "expected_answer_ms": f"{1e3 * self._answer_latency.seconds:.0f}",
            "requests": str(link.requests),
            "failures": str(link.failures),
        }
        return [ros_messages.diagnostic("policy", link.reason, values)]


def _answer(client: PolicyClient, ask: Ask) -> Answer:
    """The server's answer to `ask`.

    Raises:
        PolicyUnavailable, PolicyRefused: as PolicyClient.infer; also for another request's answer.
    """
    options = {} if ask.delay is None else {"delay": ask.delay}
    answer = client.infer(ask.observation, previous=ask.previous, **options)
    if answer.chunk.observation_stamp != ask.observation.stamp:
        late = ask.observation.stamp - answer.chunk.observation_stamp
        text = f"the answer is to an observation made {late:.3f} s before the one that was sent"
        raise PolicyRefused(Reason.INTERNAL, text)
    return answer


def _check_mode(parameters: Sequence[Parameter]) -> SetParametersResult:
    """The mode may be set at any time, and holds from the next task on."""
    for parameter in parameters:
        if parameter.name == "execution_mode" and parameter.value not in set(ExecutionMode):
            known = ", ".join(ExecutionMode)
            reason = f"execution_mode {parameter.value!r} is not one of {known}"
            return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_node(PolicyNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
