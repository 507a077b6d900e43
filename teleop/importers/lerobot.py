"""LeRobot data sets, v3.0 and v2.1, whose fields are DROID's.

Wanted: `observation.state.cartesian_position` (x, y, z, roll, pitch, yaw), `.gripper_position`
(0 open, 1 closed), `action.cartesian_position` and `action.gripper_position`; used where they are
there: `observation.state.joint_position`, `language_instruction`, `is_episode_successful`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contracts.episode import EpisodeError
from teleop.droid_fields import CAMERA_FIELDS, euler_to_pose
from teleop.importers.imported import ImportedEpisode
from teleop.video import read_video

SOURCE: Final = "lerobot"
VERSIONS: Final = ("v3.0", "v2.1")
STATE: Final = "observation.state."
NEEDED: Final = (
    f"{STATE}cartesian_position",
    f"{STATE}gripper_position",
    "action.cartesian_position",
    "action.gripper_position",
)
PICTURES: Final = "observation.images."
CAMERAS: Final = {theirs: ours for ours, theirs in CAMERA_FIELDS.items()}


def read(root: Path) -> Iterator[ImportedEpisode]:
    """Episodes in order.

    Raises:
        EpisodeError: no LeRobot data set, of another version, or without a field that is needed.
    """
    info = _info(root)
    tasks = _tasks(root, info)
    if info["codebase_version"] == "v3.0":
        yield from _read_v3(root, info, tasks)
    else:
        yield from _read_v21(root, info, tasks)


def count(root: Path) -> int:
    """Number of episodes. Raises EpisodeError: no LeRobot data set that can be read."""
    return int(_info(root)["total_episodes"])


def _info(root: Path) -> dict[str, Any]:
    path = root / "meta/info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EpisodeError(f"{path}: no LeRobot data set: {error}") from error
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise EpisodeError(f"{root}: LeRobot {version}; {' and '.join(VERSIONS)} are read")
    missing = [name for name in NEEDED if name not in info["features"]]
    if missing:
        raise EpisodeError(f"{root}: without {', '.join(missing)}: not DROID's fields")
    return dict(info)


def _tasks(root: Path, info: Mapping[str, Any]) -> dict[int, str]:
    if info["codebase_version"] == "v3.0":
        table = pq.read_table(root / "meta/tasks.parquet")
        (name,) = [n for n in table.column_names if n != "task_index"]
        columns = table.to_pydict()
        return dict(zip(columns["task_index"], columns[name], strict=True))
    lines = (root / "meta/tasks.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["task_index"]: row["task"] for row in map(json.loads, lines)}


def _read_v3(
    root: Path, info: Mapping[str, Any], tasks: Mapping[int, str]
) -> Iterator[ImportedEpisode]:
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    for row in (row for path in files for row in pq.read_table(path).to_pylist()):
        number, fps = row["episode_index"], info["fps"]
        path = root / info["data_path"].format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        table = pq.read_table(path, filters=[("episode_index", "=", number)])
        pictures = {}
        for key in _video_keys(info):
            video = root / info["video_path"].format(
                video_key=key,
                chunk_index=row[f"videos/{key}/chunk_index"],
                file_index=row[f"videos/{key}/file_index"],
            )
            first = round(row[f"videos/{key}/from_timestamp"] * fps)
            pictures[key] = read_video(video, first, table.num_rows)
        yield _episode(table, pictures, fps, tasks, info)


def _read_v21(
    root: Path, info: Mapping[str, Any], tasks: Mapping[int, str]
) -> Iterator[ImportedEpisode]:
    for number in range(info["total_episodes"]):
        place = {"episode_chunk": number // info["chunks_size"], "episode_index": number}
        table = pq.read_table(root / info["data_path"].format(**place))
        pictures = {
            key: read_video(root / info["video_path"].format(video_key=key, **place), 0, len(table))
            for key in _video_keys(info)
        }
        yield _episode(table, pictures, info["fps"], tasks, info)


def _video_keys(info: Mapping[str, Any]) -> list[str]:
    return [name for name, f in info["features"].items() if f["dtype"] == "video"]


def _episode(
    table: pa.Table,
    pictures: Mapping[str, Iterator[NDArray[np.uint8]]],
    fps: float,
    tasks: Mapping[int, str],
    info: Mapping[str, Any],
) -> ImportedEpisode:
    joints = f"{STATE}joint_position"
    known = set(table.column_names)
    described = _first(table, "language_instruction") if "language_instruction" in known else ""
    return ImportedEpisode(
        instruction=described or tasks[int(_first(table, "task_index"))],
        fps=fps,
        poses=euler_to_pose(_column(table, NEEDED[0])),
        opening=1.0 - _column(table, NEEDED[1])[:, 0],
        command_poses=euler_to_pose(_column(table, NEEDED[2])),
        command_gripper=1.0 - _column(table, NEEDED[3])[:, 0],
        pictures={_camera(key): iter(frames) for key, frames in pictures.items()},
        source=SOURCE,
        joints=_column(table, joints) if joints in known else None,
        success=bool(_first(table, "is_episode_successful"))
        if "is_episode_successful" in known
        else True,
        operator=_first(table, "collector_id") if "collector_id" in known else "",
        recorded_on=_first(table, "date") if "date" in known else "",
        extra={"robot": str(info.get("robot_type") or "")},
    )


def _camera(key: str) -> str:
    name = key.removeprefix(PICTURES)
    return CAMERAS.get(name, name)


def _column(table: pa.Table, name: str) -> NDArray[np.float64]:
    values = table.column(name).to_pylist()
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _first(table: pa.Table, name: str) -> Any:
    value = table.column(name)[0].as_py()
    return value[0] if isinstance(value, list) else value
