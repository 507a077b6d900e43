"""The graph of roboalign/graph.py as launch_ros actions.

`ros2 launch roboalign franka_bringup.launch.py robot_ip:=172.16.0.2`, or `sim:=true`. No order of
start is forced here: a node waits for what it needs, or is started again.
"""

import sys
from dataclasses import fields

# launch compares types with typing's own, and `list[str]` is not equal to it.
from typing import List  # noqa: UP035

from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription
from roboalign.graph import GraphArguments, ProcessSpec, build_graph
from roboalign.graph import ParameterValue as ParameterValueType
from roboalign.preflight import check_graph_before_motion

RESPAWN_PAUSE_S = 1.0


def generate_launch_description() -> LaunchDescription:
    """Arguments first; the graph itself depends on their values."""
    declared = [
        DeclareLaunchArgument(field.name, default_value=_text(field.default))
        for field in fields(GraphArguments)
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start_graph)])


def _start_graph(context: LaunchContext) -> list[Action]:
    texts = {
        field.name: LaunchConfiguration(field.name).perform(context)
        for field in fields(GraphArguments)
    }
    arguments = GraphArguments.from_texts(texts)
    graph = build_graph(arguments)
    check_graph_before_motion(arguments)
    environment = [SetEnvironmentVariable(name, value) for name, value in graph.environment.items()]
    return [*environment, *(_action(spec) for spec in graph.processes)]


def _action(spec: ProcessSpec) -> Action:
    lifetime = {
        "respawn": spec.respawn,
        "respawn_delay": RESPAWN_PAUSE_S,
        "on_exit": [Shutdown(reason=f"{spec.name} ended")] if spec.required else None,
        "output": "both",
    }
    if not spec.is_node:
        return ExecuteProcess(
            cmd=[sys.executable, "-m", spec.module, *spec.arguments], name=spec.name, **lifetime
        )
    return Node(
        package="roboalign",
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace or None,
        parameters=[{name: _typed(value) for name, value in spec.parameters.items()}],
        remappings=list(spec.remappings),
        **lifetime,
    )


def _typed(value: ParameterValueType) -> ParameterValue:
    """With its type: launch_ros would read the text `1234` as a number."""
    kind = List[str] if isinstance(value, list) else type(value)  # noqa: UP006
    return ParameterValue(value, value_type=kind)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
