"""THE declaration of the robot's graph: every process, once, as data.

`launch/franka_bringup.launch.py` turns it into launch_ros actions where ROS is installed, and
`supervisor.py` starts it from a PyPI-only environment. Neither knows a process that is not here.
"""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import calibration
from roboalign.execution_mode import LIVE_MODE, ExecutionMode

ParameterValue = bool | int | float | str | list[str]

SIM_ADDRESS = "127.0.0.1"
SIM_HOME_DYNAMICS = 0.4
"""Homing may be quicker where nobody stands beside the arm."""
COLOR_PROFILE = "640x480x30"
SIM_COLOR_PROFILE = "320x240x15"
"""What two cameras can be drawn at on two processor cores, beside everything else."""
SIM_CALIBRATION = Path(calibration.__file__).parent / "defaults" / "simulated.yaml"
"""Where the simulation's cameras truly are."""
NODE_READY = "]: ready"
"""As autostart_node logs it, with the node's name in front."""
FLIGHT_RECORDINGS = "runs/flight_recordings"
"""Below the folder that the graph was started in."""
ROBOT_TYPES = ("fr3",)


class GraphError(ValueError):
    """Launch arguments that contradict each other or cannot work; the text says which and why."""


@dataclass(frozen=True)
class GraphArguments:
    """Launch arguments; the first five are franka_ros2's, with its names.

    robot_ip: address of the arm; in the simulation a loopback address (default 127.0.0.1).
    use_fake_hardware: as `sim`: all hardware is simulated, there is no half-fake set-up.
    cameras: names, each with its serial number where there are several: `front:1234,wrist:5678`.
    color_profile: of every camera; empty for 640x480x30, or less in the simulation.
    calibration: YAML file of this set-up; empty for the simulation's own, or none on a real robot.
    execution_mode: how chunks become one motion, see execution_mode.py.
    policy_url: a running policy server; empty starts one that serves `bundle`.
    waived_checks: of the preflight, separated by commas: real hardware starts although they fail.
    """

    robot_ip: str = ""
    robot_type: str = "fr3"
    namespace: str = ""
    load_gripper: bool = True
    use_fake_hardware: bool = False
    sim: bool = False
    policy_url: str = ""
    cameras: str = "front,wrist"
    color_profile: str = ""
    calibration: str = ""
    execution_mode: str = str(LIVE_MODE)
    bundle: str = "shipped"
    policy_port: int = 8000
    waived_checks: str = ""
    shared_memory: str = "roboalign_world"
    control_port: int = 8765

    def __post_init__(self) -> None:
        if self.robot_type not in ROBOT_TYPES:
            raise GraphError(f"robot_type {self.robot_type!r} is not one of {ROBOT_TYPES}")
        if not self.simulated and not self.robot_ip:
            raise GraphError("give robot_ip:=<address of the arm>, or sim:=true")
        if self.simulated and not _is_loopback(self.robot_ip or SIM_ADDRESS):
            raise GraphError(f"sim:=true with robot_ip:={self.robot_ip}, which is not simulated")
        if self.simulated and not self.load_gripper:
            raise GraphError("the simulated arm always has its gripper: leave load_gripper true")
        if self.execution_mode not in set(ExecutionMode):
            known = ", ".join(ExecutionMode)
            raise GraphError(f"execution_mode {self.execution_mode!r} is not one of {known}")
        for port in (self.policy_port, self.control_port):
            if not 1 <= port <= 65535:
                raise GraphError(f"port {port} is not in 1..65535")
        names = list(self.camera_serials)
        if not names or not all(name.isidentifier() for name in names):
            raise GraphError(f"cameras {self.cameras!r} is not of the form name or name:serial,...")

    @property
    def simulated(self) -> bool:
        return self.sim or self.use_fake_hardware

    @property
    def camera_serials(self) -> Mapping[str, str]:
        """Serial number, or empty, by camera name."""
        pairs = (entry.strip().partition(":") for entry in self.cameras.split(","))
        return {name: serial for name, _, serial in pairs}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> GraphArguments:
        """From launch's `name:=value` texts. Raises GraphError: unknown name or bad value."""
        kinds = {f.name: type(f.default) for f in fields(cls)}
        unknown = sorted(set(texts) - set(kinds))
        if unknown:
            known = ", ".join(kinds)
            raise GraphError(f"unknown launch argument {', '.join(unknown)}; known: {known}")
        return cls(**{name: _parse(name, text, kinds[name]) for name, text in texts.items()})


@dataclass(frozen=True)
class ProcessSpec:
    """One process of the graph.

    module: run as `python -m module`; for a ROS node `executable` is its console script as well.
    parameters, remappings and namespace are a ROS node's; arguments are another program's.
    respawn: start it again when it dies. required: its death ends the whole graph.
    ready_line: text in its output once it works; a death before that ends the graph in any case.
    """

    name: str
    module: str
    ready_line: str
    executable: str = ""
    namespace: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    condition: bool = True
    respawn: bool = False
    required: bool = False
    start_timeout_s: float = 40.0

    def __post_init__(self) -> None:
        if self.respawn and self.required:
            raise GraphError(f"process {self.name}: respawn and required exclude each other")

    @property
    def is_node(self) -> bool:
        return bool(self.executable)


@dataclass(frozen=True)
class Graph:
    """The processes in start order, and the environment that all of them share."""

    processes: tuple[ProcessSpec, ...]
    environment: Mapping[str, str]


def build_graph(arguments: GraphArguments) -> Graph:
    """The graph for these arguments: what is declared below and whose condition holds."""
    declared = (*_programs(arguments), *_nodes(arguments))
    # Jazzy's Fast DDS reads the first name, later ones the second.
    environment = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(_dds_profile()),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(_dds_profile()),
    }
    if arguments.simulated:
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return Graph(tuple(p for p in declared if p.condition), environment)


def _programs(arguments: GraphArguments) -> tuple[ProcessSpec, ...]:
    """What is not a ROS node."""
    return (
        ProcessSpec(
            name="simulation",
            module="simulation.live",
            arguments=(
                *("--hostname", arguments.robot_ip or SIM_ADDRESS),
                *("--shared-memory", arguments.shared_memory),
                *("--control-port", str(arguments.control_port)),
            ),
            condition=arguments.simulated,
            required=True,
            ready_line="simulation ready",
        ),
        ProcessSpec(
            name="policy_server",
            module="policy_server",
            arguments=("--bundle", arguments.bundle, "--port", str(arguments.policy_port)),
            condition=not arguments.policy_url,
            respawn=True,
            ready_line="policy server ready",
            start_timeout_s=60.0,
        ),
    )


def _nodes(arguments: GraphArguments) -> tuple[ProcessSpec, ...]:
    cameras = list(arguments.camera_serials)
    profile = arguments.color_profile
    if not profile:
        profile = SIM_COLOR_PROFILE if arguments.simulated else COLOR_PROFILE
    calibrated = arguments.calibration
    if not calibrated and arguments.simulated and not arguments.color_profile:
        calibrated = str(SIM_CALIBRATION)  # a profile of another shape would need another one
    return (
        ProcessSpec(
            name="arm_node",
            module="roboalign.arm_node",
            executable="arm_node",
            namespace=arguments.namespace,
            parameters={
                "robot_ip": arguments.robot_ip or SIM_ADDRESS,
                "robot_type": arguments.robot_type,
                "load_gripper": arguments.load_gripper,
                "calibration": calibrated,
                **({"home_dynamics": SIM_HOME_DYNAMICS} if arguments.simulated else {}),
            },
            required=True,
            ready_line=NODE_READY,
        ),
        *(
            ProcessSpec(
                name=camera,
                module="roboalign.camera_node",
                executable="camera_node",
                namespace=f"{arguments.namespace}/camera".strip("/"),
                parameters={
                    "source": "simulated" if arguments.simulated else "realsense",
                    "serial_no": serial,
                    "shared_memory": arguments.shared_memory if arguments.simulated else "",
                    "rgb_camera.color_profile": profile,
                    "calibration": calibrated,
                    "robot_type": arguments.robot_type,
                },
                respawn=True,
                ready_line=NODE_READY,
            )
            for camera, serial in arguments.camera_serials.items()
        ),
        ProcessSpec(
            name="policy_node",
            module="roboalign.policy_node",
            executable="policy_node",
            namespace=arguments.namespace,
            parameters={
                "policy_url": arguments.policy_url or f"ws://127.0.0.1:{arguments.policy_port}",
                "cameras": cameras,
                "calibration": calibrated,
                "execution_mode": arguments.execution_mode,
            },
            respawn=True,
            ready_line=NODE_READY,
        ),
        ProcessSpec(
            name="task_node",
            module="roboalign.task_node",
            executable="task_node",
            namespace=arguments.namespace,
            parameters={"cameras": cameras},
            required=True,
            ready_line=NODE_READY,
        ),
        # Both only watch: the simulation has its films and reports, and no core to spare.
        ProcessSpec(
            name="flight_recorder",
            module="roboalign.flight_recorder_node",
            executable="flight_recorder_node",
            namespace=arguments.namespace,
            parameters={"directory": FLIGHT_RECORDINGS},
            condition=not arguments.simulated,
            respawn=True,
            ready_line=NODE_READY,
        ),
        ProcessSpec(
            name="metrics",
            module="roboalign.metrics_node",
            executable="metrics_node",
            namespace=arguments.namespace,
            condition=not arguments.simulated,
            respawn=True,
            ready_line=NODE_READY,
        ),
    )


def node_arguments(spec: ProcessSpec) -> list[str]:
    """Command line of a ROS node after its executable, as launch_ros would write it."""
    words = ["--ros-args", "-r", f"__node:={spec.name}"]
    if spec.namespace:
        words += ["-r", f"__ns:=/{spec.namespace}"]
    for old, new in spec.remappings:
        words += ["-r", f"{old}:={new}"]
    for name, value in spec.parameters.items():
        words += ["-p", f"{name}:={_yaml(value)}"]
    return words


def default_log_directory() -> Path:
    """A new directory for one run's logs, in the system's temporary directory."""
    return Path(tempfile.mkdtemp(prefix="roboalign-"))


def _dds_profile() -> Path:
    """config/fastdds.xml beside this package in the repository, or under an install prefix."""
    here = Path(__file__).resolve()
    in_repository = here.parents[1] / "config" / "fastdds.xml"
    if in_repository.is_file():
        return in_repository
    return here.parents[4] / "share" / "roboalign" / "config" / "fastdds.xml"


def _yaml(value: ParameterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    # Quoted: an unquoted serial number would be read as a number, and `y` as true.
    return f"'{value}'" if isinstance(value, str) else str(value)


def _parse(name: str, text: str, kind: type) -> bool | int | str:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise GraphError(f"{name}:={text}: give true or false")
        return text.lower() == "true"
    if kind is int:
        if not text.isdigit():
            raise GraphError(f"{name}:={text}: give a whole number")
        return int(text)
    return text


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
