"""The plain types: what they refuse, and that the message says why."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.action import MAX_HORIZON, ActionChunk
from contracts.observation import MAX_INSTRUCTION_LENGTH, CameraFrame, Observation, RobotState
from contracts.robot import FR3, RobotSpec
from contracts.task import OBJECTS, TASKS, Task, get_task

POSE = np.array([0.5, 0, 0.3, 1, 0, 0, 0])
FRAME = CameraFrame(np.zeros((4, 6, 3), np.uint8), 1.0)


def robot_state(**changes: object) -> RobotState:
    fields = {
        "pose": POSE,
        "joint_positions": np.zeros(7),
        "joint_velocities": np.zeros(7),
        "gripper_opening": 0.5,
        "stamp": 1.0,
    }
    return RobotState(**fields | changes)


def observation(**changes: object) -> Observation:
    return Observation(
        **{"instruction": "go", "frames": {"front": FRAME}, "state": robot_state(), "stamp": 1.0}
        | changes
    )


def chunk(**changes: object) -> ActionChunk:
    fields = {
        "chunk_id": "c",
        "observation_stamp": 2.0,
        "time_step": 0.1,
        "poses": np.tile(POSE, (3, 1)),
        "gripper": np.array([0.0, 0.5, 1.0]),
    }
    return ActionChunk(**fields | changes)


def test_all_sixteen_instructions_differ_and_name_what_they_are_about() -> None:
    texts = {(task.name, obj): task.instruction(obj) for task in TASKS.values() for obj in OBJECTS}
    assert len(set(texts.values())) == 16
    for (name, obj), text in texts.items():
        assert f"the {obj} from the {TASKS[name].source}" in text
        assert text.endswith(
            f"{'on' if TASKS[name].target == 'plate' else 'in'} the {TASKS[name].target}"
        )


def test_unknown_tasks_and_objects_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown task 'fly'; known tasks: box_to_bowl"):
        get_task("fly")
    with pytest.raises(ValueError, match="unknown object 'cat'; known objects: teddy bear"):
        get_task("box_to_bowl").instruction("cat")
    with pytest.raises(ValueError, match="target 'moon' is not one of"):
        Task("x", "box", "moon")
    with pytest.raises(ValueError, match="both 'box'"):
        Task("x", "box", "box")


def test_robot_limits_hold_their_margin() -> None:
    assert FR3.joints_within_limits(FR3.home_joints)
    near = np.array(FR3.home_joints)
    near[0] = FR3.joint_upper[0] - FR3.joint_margin
    assert FR3.joints_within_limits(near)
    near[0] += 1e-6
    assert not FR3.joints_within_limits(near)
    assert not FR3.joints_within_limits(np.full(7, np.nan))
    with pytest.raises(ValueError, match="read-only"):
        FR3.joint_lower[0] = 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint_lower": FR3.joint_upper}, "lower limit"),
        ({"workspace_lower": FR3.workspace_upper}, "workspace box is empty"),
        ({"home_joints": np.zeros(7)}, "home pose is outside"),
    ],
)
def test_robot_spec_that_contradicts_itself(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobotSpec(**changes)


@pytest.mark.parametrize(
    ("image", "stamp", "message"),
    [
        (np.zeros((4, 6), np.uint8), 1.0, r"uint8 \(4, 6\)"),
        (np.zeros((4, 6, 3), np.float32), 1.0, "float32"),
        (np.zeros((4, 6, 4), np.uint8), 1.0, r"\(4, 6, 4\)"),
        (np.zeros((0, 6, 3), np.uint8), 1.0, "empty picture"),
        (FRAME.image, -1.0, "stamp"),
        (FRAME.image, np.nan, "stamp"),
    ],
)
def test_bad_frames(image: np.ndarray, stamp: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraFrame(image, stamp)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose": np.zeros((2, 7))}, r"pose must be \(7,\)"),
        ({"pose": np.full(7, np.nan)}, "pose: has values that are not finite"),
        ({"joint_positions": np.zeros(6)}, r"joint_positions must be \(7,\)"),
        ({"joint_velocities": np.full(7, np.inf)}, "joint_velocities has values"),
        ({"gripper_opening": 1.2}, "gripper_opening"),
        ({"gripper_opening": np.nan}, "gripper_opening"),
        ({"stamp": np.inf}, "stamp"),
    ],
)
def test_bad_robot_states(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        robot_state(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction": " \n"}, "instruction is empty"),
        ({"instruction": "x" * (MAX_INSTRUCTION_LENGTH + 1)}, "longer than"),
        ({"frames": {}}, "no camera frame"),
        ({"stamp": -1.0}, "stamp"),
    ],
)
def test_bad_observations(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        observation(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poses": POSE}, r"poses must be \(1..256, 7\)"),
        ({"poses": np.zeros((0, 7)), "gripper": np.zeros(0)}, "poses must be"),
        ({"poses": np.tile(POSE, (MAX_HORIZON + 1, 1))}, "poses must be"),
        ({"poses": np.zeros((3, 7))}, "quaternion norms"),
        ({"gripper": np.zeros(2)}, "3 poses but gripper"),
        ({"gripper": np.array([0, np.nan, 1])}, "gripper has values"),
        ({"time_step": 0.0}, "time step"),
        ({"time_step": np.nan}, "time step"),
        ({"observation_stamp": np.nan}, "observation stamp"),
    ],
)
def test_bad_chunks(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chunk(**changes)


def test_chunk_times_begin_one_step_after_the_observation() -> None:
    np.testing.assert_allclose(chunk().times, [2.1, 2.2, 2.3])
    assert chunk().horizon == 3
    np.testing.assert_array_equal(
        chunk(gripper=np.array([-0.5, 0.5, 1.5])).gripper, [0.0, 0.5, 1.0]
    )
