"""The Foxglove layout shows topics and fields that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ros2_ws/src/roboalign"
LAYOUT = PACKAGE / "config/foxglove_layout.json"
TOPICS = {
    "/arm_node/gripper": "roboalign_msgs/GripperState",
    "/arm_node/status": "roboalign_msgs/ArmStatus",
    "/camera/front/color/image_raw": "sensor_msgs/Image",
    "/camera/wrist/color/image_raw": "sensor_msgs/Image",
    "/camera/front/color/image_raw/compressed": "sensor_msgs/CompressedImage",
    "/camera/wrist/color/image_raw/compressed": "sensor_msgs/CompressedImage",
    "/diagnostics": "diagnostic_msgs/DiagnosticArray",
    "/franka_robot_state_broadcaster/current_pose": "geometry_msgs/PoseStamped",
    "/joint_states": "sensor_msgs/JointState",
    "/policy_node/status": "roboalign_msgs/PolicyStatus",
    "/rosout": "rcl_interfaces/Log",
}
NODES = ("arm_node", "policy_node", "camera")


def layout() -> dict:
    return json.loads(LAYOUT.read_text())


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def message_paths() -> list[tuple[str, str]]:
    texts = [text for text in strings(layout()["configById"]) if text.startswith("/")]
    assert len(texts) > 20
    return [(t.partition(".")[0], t.partition(".")[2]) for t in texts]


def message(kind: str) -> type:
    package, _, name = kind.partition("/")
    return getattr(import_module(f"{package}.msg"), name)


@pytest.mark.parametrize(("topic", "fields"), message_paths())
def test_every_path_leads_to_a_field(topic: str, fields: str) -> None:
    value = message(TOPICS[topic])()
    for step in filter(None, re.split(r"[.\[]", fields)):
        if not step.endswith("]"):
            value = getattr(value, step)


def test_every_panel_is_described_and_every_description_is_shown() -> None:
    document = layout()
    described = set(document["configById"])
    shown = {text for text in strings(document["layout"]) if "!" in text}
    tabs = document["configById"]["Tab!pictures"]
    shown |= {text for text in strings(tabs["tabs"]) if "!" in text}
    assert shown == described


def test_the_nodes_publish_these_topics() -> None:
    source = "\n".join(path.read_text() for path in (PACKAGE / "roboalign").glob("*.py"))
    for topic, kind in TOPICS.items():
        first, _, rest = topic[1:].partition("/")
        if first in NODES and not topic.endswith("compressed"):
            name = rest.partition("/")[2] if first == "camera" else rest
            assert f'"~/{name}"' in source, topic
            assert kind.partition("/")[2] in source
