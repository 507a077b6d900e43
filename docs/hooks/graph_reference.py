"""Reference of the robot's graph: what each process is started with, from its one declaration."""

from __future__ import annotations

from pathlib import Path

from roboalign.graph import Graph, GraphArguments, build_graph


def page(repository: Path) -> str:
    """Markdown: the processes on the robot and in the simulation."""
    lines = [
        "# Graph",
        "",
        "`roboalign/graph.py` declares every process once; the launch file and the supervisor "
        "start the same ones.",
        "",
        "## On the robot",
        "",
        "`ros2 launch roboalign franka_bringup.launch.py robot_ip:=172.16.0.2 "
        "cameras:=front:1234,wrist:5678 policy_url:=ws://gpu:8000`",
        "",
        *_table(
            build_graph(
                GraphArguments(
                    robot_ip="172.16.0.2",
                    cameras="front:1234,wrist:5678",
                    policy_url="ws://gpu:8000",
                )
            )
        ),
        "",
        "## In the simulation",
        "",
        "`python -m roboalign.supervisor sim:=true`",
        "",
        *_table(build_graph(GraphArguments(sim=True))),
        "",
        "A required process ends the graph when it dies; the others are started again.",
    ]
    # Files of the repository, wherever it lies.
    return "\n".join([*lines, ""]).replace(f"{repository}/", "")


def _table(graph: Graph) -> list[str]:
    rows = ["| process | started as | with | when it dies |", "| --- | --- | --- | --- |"]
    for spec in graph.processes:
        words = [f"`{name}={value}`" for name, value in spec.parameters.items()]
        words += [f"`{' '.join(spec.arguments)}`"] if spec.arguments else []
        ends = "the graph ends" if spec.required else "started again" if spec.respawn else ""
        rows.append(f"| {spec.name} | `{spec.module}` | {' '.join(words)} | {ends} |")
    return rows
