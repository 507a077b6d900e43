"""The one declaration: its arguments, and that launch and supervisor start the same."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from roboalign import preflight
from roboalign.graph import (
    GraphArguments,
    GraphError,
    ProcessSpec,
    build_graph,
    node_arguments,
)
from roboalign.preflight_findings import Finding, Outcome
from roboalign.supervisor import main

LAUNCH_FILE = Path(__file__).parents[2] / "ros2_ws/src/roboalign/launch/franka_bringup.launch.py"
REAL = {"robot_ip": "172.16.0.2", "cameras": "front:0123,wrist:4567", "namespace": "left"}
SIM = {"sim": "true", "policy_url": "ws://127.0.0.1:9000"}


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ({}, "robot_ip"),
        ({"sim": "yes"}, "true or false"),
        ({"robot": "x"}, "unknown launch argument robot"),
        ({"sim": "true", "robot_ip": "172.16.0.2"}, "not simulated"),
        ({"sim": "true", "load_gripper": "false"}, "gripper"),
        ({"sim": "true", "policy_port": "99999"}, "port"),
        ({"sim": "true", "cameras": "front,,"}, "cameras"),
        ({"robot_ip": "172.16.0.2", "robot_type": "panda"}, "robot_type"),
    ],
)
def test_bad_arguments_say_why(
    texts: dict[str, str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GraphError, match=why):
        GraphArguments.from_texts(texts)
    assert main([f"{name}:={value}" for name, value in texts.items()]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_simulated_graph_has_the_simulator_and_its_own_server() -> None:
    graph = build_graph(GraphArguments(sim=True))
    names = [p.name for p in graph.processes]
    assert names == [
        "simulation",
        "policy_server",
        "arm_node",
        "front",
        "wrist",
        "policy_node",
        "task_node",
    ]
    assert graph.environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert Path(graph.environment["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()
    fake = build_graph(GraphArguments(use_fake_hardware=True))
    assert fake == graph


def test_a_real_robot_has_no_simulator() -> None:
    graph = build_graph(GraphArguments.from_texts(REAL | {"policy_url": "ws://10.0.0.5:8000"}))
    names = [p.name for p in graph.processes]
    assert names == [
        "arm_node",
        "front",
        "wrist",
        "policy_node",
        "task_node",
        "flight_recorder",
        "metrics",
    ]
    wrist = graph.processes[2]
    assert wrist.namespace == "left/camera"
    assert wrist.parameters["serial_no"] == "4567"
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in graph.environment


def test_parameters_keep_their_types_on_the_command_line() -> None:
    values = {"a": "0123", "b": True, "c": ["y", "no"], "d": 0.5}
    words = node_arguments(ProcessSpec("n", "m", "ready", executable="n", parameters=values))
    given = dict(word.split(":=", 1) for word in words if ":=" in word and "__" not in word)
    assert {name: yaml.safe_load(text) for name, text in given.items()} == values


def test_respawn_and_required_exclude_each_other() -> None:
    with pytest.raises(GraphError):
        ProcessSpec("n", "m", "ready", respawn=True, required=True)


class Recorded:
    """Stands for a class of launch: keeps how it was made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


class FakeConfiguration(Recorded):
    """A launch argument's value, from the dictionary that stands for the context."""

    def perform(self, context: dict[str, str]) -> str:
        return context[self.args[0]]


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The launch file, on stubs with the names it uses of launch and launch_ros (jazzy)."""
    stubs = {
        "launch": ["LaunchContext", "LaunchDescription"],
        "launch.action": ["Action"],
        "launch.actions": [
            "DeclareLaunchArgument",
            "ExecuteProcess",
            "OpaqueFunction",
            "SetEnvironmentVariable",
            "Shutdown",
        ],
        "launch.substitutions": [],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
        "launch_ros.parameter_descriptions": ["ParameterValue"],
    }
    for module_name, names in stubs.items():
        module = types.ModuleType(module_name)
        for name in names:
            setattr(module, name, type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, module_name, module)
    sys.modules["launch.substitutions"].LaunchConfiguration = FakeConfiguration
    spec = importlib.util.spec_from_file_location("franka_bringup", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launched(launch_file: types.ModuleType, texts: dict[str, str]) -> list[Recorded]:
    """The actions that the launch file makes for these arguments."""
    *declared, opaque = launch_file.generate_launch_description().args[0]
    values = {a.args[0]: a.kwargs["default_value"] for a in declared} | texts
    return opaque.kwargs["function"](values)


@pytest.mark.parametrize("texts", [REAL, SIM, {"sim": "true", "bundle": "b"}])
def test_launch_and_supervisor_start_the_same(
    launch_file: types.ModuleType, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[preflight.PreflightConfig] = []
    monkeypatch.setattr(preflight, "check_before_motion", checked.append)
    graph = build_graph(GraphArguments.from_texts(texts))
    actions = launched(launch_file, texts)
    assert [config.robot_ip for config in checked] == [REAL["robot_ip"]] * (texts is REAL)
    settings = [a for a in actions if type(a).__name__ == "SetEnvironmentVariable"]
    assert {a.args[0]: a.args[1] for a in settings} == graph.environment
    started = [a for a in actions if type(a).__name__ in ("Node", "ExecuteProcess")]
    assert [a.kwargs["name"] for a in started] == [p.name for p in graph.processes]
    for action, process in zip(started, graph.processes, strict=True):
        assert action.kwargs["respawn"] == process.respawn
        assert bool(action.kwargs["on_exit"]) == process.required
        if type(action).__name__ == "ExecuteProcess":
            assert action.kwargs["cmd"][1:] == ["-m", process.module, *process.arguments]
            continue
        assert action.kwargs["executable"] == process.executable
        assert process.module == f"roboalign.{process.executable}"
        assert action.kwargs["namespace"] == (process.namespace or None)
        [parameters] = action.kwargs["parameters"]
        assert {k: v.args[0] for k, v in parameters.items()} == process.parameters


def test_real_hardware_does_not_start_before_the_preflight_passes(
    launch_file: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocking = Finding("disk", True, Outcome.FAILED, "full", "make room")
    monkeypatch.setattr(preflight, "run_checks", lambda config: [blocking])
    with pytest.raises(preflight.PreflightError, match="make room"):
        launched(launch_file, REAL)
    with pytest.raises(ValueError, match="no check kernel"):
        launched(launch_file, REAL | {"waived_checks": "kernel"})


def test_every_executable_is_a_console_script() -> None:
    setup = (LAUNCH_FILE.parents[1] / "setup.py").read_text()
    for process in build_graph(GraphArguments(sim=True)).processes:
        assert not process.is_node or f'"{process.executable}"' in setup
