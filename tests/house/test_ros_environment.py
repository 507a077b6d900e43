"""The interfaces as Python sees them, and the DDS profile as the middleware uses it."""

import os
import subprocess
import sys
from pathlib import Path

from roboalign_msgs.action import ExecuteTask
from roboalign_msgs.msg import ActionChunk, ArmStatus, GripperState, PolicyStatus, StageTimes

# An image of 640x480 has 0.92 MB: the default segment of Fast DDS (0.5 MB) loses nearly all.
SMALLEST_SEGMENT = 32 * 1024 * 1024

OPEN_A_NODE = """
import os, pathlib, rclpy
before = set(pathlib.Path("/dev/shm").glob("fastrtps_*"))
rclpy.init()
node = rclpy.create_node("profile_probe")
new = set(pathlib.Path("/dev/shm").glob("fastrtps_*")) - before
print(max(path.stat().st_size for path in new))
node.destroy_node()
rclpy.shutdown()
"""


def largest_segment(environment: dict[str, str]) -> int:
    result = subprocess.run(
        [sys.executable, "-c", OPEN_A_NODE], env=environment, capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    return int(result.stdout.split()[-1])


def environment(**changes: str) -> dict[str, str]:
    return {
        **os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": "91", **changes
    }  # fmt: skip


def test_every_process_gets_the_dds_profile() -> None:
    bare = environment()
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        bare.pop(variable, None)
    assert largest_segment(bare) >= SMALLEST_SEGMENT


def test_without_the_profile_the_segment_would_be_small() -> None:
    """So that the test above cannot pass by itself."""
    assert largest_segment(environment(FASTRTPS_DEFAULT_PROFILES_FILE="")) < SMALLEST_SEGMENT


def test_python_finds_the_repository_from_anywhere(repository: Path, tmp_path: Path) -> None:
    ask = "import contracts, roboalign; print(contracts.__file__); print(roboalign.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    contracts, roboalign = map(Path, result.stdout.split())
    assert contracts == repository / "contracts/__init__.py"
    assert roboalign == repository / "ros2_ws/src/roboalign/roboalign/__init__.py"


def test_interfaces_have_their_fields() -> None:
    chunk = ActionChunk.get_fields_and_field_types()
    assert chunk["poses"] == "sequence<geometry_msgs/Pose>"
    assert chunk["gripper"] == "sequence<float>"
    assert chunk["observation_stamp"] == "builtin_interfaces/Time"
    arm = ArmStatus.get_fields_and_field_types()
    assert {"mode", "queue_remaining_s", "last_chunk_id"} <= arm.keys()
    assert {"opening", "is_grasped"} <= GripperState.get_fields_and_field_types().keys()
    assert {"connected", "round_trip_ms"} <= PolicyStatus.get_fields_and_field_types().keys()
    assert {"stages", "milliseconds"} <= StageTimes.get_fields_and_field_types().keys()


def test_reasons_and_modes_are_the_agreed_words() -> None:
    result = ExecuteTask.Result
    reasons = [
        result.SUCCEEDED, result.TIMEOUT, result.CANCELED, result.POLICY_LOST, result.ARM_ERROR,
        result.CAMERA_LOST, result.REJECTED,
    ]  # fmt: skip
    assert reasons == [
        "succeeded", "timeout", "canceled", "policy_lost", "arm_error", "camera_lost", "rejected"
    ]  # fmt: skip
    modes = (ArmStatus.IDLE, ArmStatus.TRACKING, ArmStatus.HOLDING, ArmStatus.MOVING)
    assert modes == ("idle", "tracking", "holding", "moving")
    assert ArmStatus.ERROR == "error"


def test_every_interface_file_is_built(repository: Path) -> None:
    package = repository / "ros2_ws/src/roboalign_msgs"
    files = {f"{path.parent.name}/{path.name}" for path in package.glob("*/*.*")}
    built = (package / "CMakeLists.txt").read_text()
    assert {"msg/ActionChunk.msg", "action/ExecuteTask.action"} <= files
    assert not [name for name in files if f'"{name}"' not in built]
