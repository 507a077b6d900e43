"""LeRobot's file layouts, v3.0 and v2.1: one interface, episode by episode.

Layout: huggingface/lerobot, src/lerobot/datasets (utils.py, v30/convert_dataset_v21_to_v30.py).
v3.0 keeps many episodes in a parquet or mp4 file and says in `meta/episodes` where each lies; v2.1
has a file an episode.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from teleop.feature_statistics import PictureCounts, column_statistics
from teleop.video import VideoWriter, video_info

FORMATS: Final = ("lerobot-v3", "lerobot-v2.1")
CHUNK_SIZE: Final = 1000
"""Files, or in v2.1 episodes, in a folder."""
DATA_MB: Final = 100
VIDEO_MB: Final = 200
"""Sizes at which v3.0 begins the next file (LeRobot's defaults)."""
INDEX_FEATURES: Final[dict[str, dict[str, Any]]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
PARQUET_TYPES: Final = {
    "bool": pa.bool_(),
    "string": pa.string(),
    "float32": pa.float32(),
    "int64": pa.int64(),
}


@dataclass
class EpisodeTable:
    """One episode's columns (T, ...) by feature, its task, and pictures (T) by feature."""

    columns: Mapping[str, NDArray[Any]]
    task: str
    pictures: Mapping[str, Iterator[NDArray[np.uint8]]]


class LeRobotWriter(Protocol):
    """Takes episodes in order; the data set is whole after `finish`."""

    def add(self, episode: EpisodeTable) -> None: ...

    def finish(self) -> None: ...


@dataclass
class _Tables:
    """What both layouts keep: counters, tasks, and statistics of everything written."""

    root: Path
    fps: int
    robot: str
    codec: str
    features: dict[str, dict[str, Any]]
    tasks: dict[str, int] = field(default_factory=dict)
    episodes: int = 0
    frames: int = 0

    def __post_init__(self) -> None:
        self.features = INDEX_FEATURES | self.features
        for name in self.video_keys:
            height, width, _ = self.features[name]["shape"]
            self.features[name]["info"] = video_info(self.fps, self.codec, height, width)
        self._numbers: dict[str, list[NDArray[Any]]] = {}
        self._counts = {name: PictureCounts() for name in self.video_keys}

    @property
    def video_keys(self) -> list[str]:
        return [name for name, f in self.features.items() if f["dtype"] == "video"]

    def table(self, episode: EpisodeTable) -> tuple[pa.Table, dict[str, Any]]:
        """The episode as a parquet table, and the statistics of its columns."""
        count = len(next(iter(episode.columns.values())))
        task = self.tasks.setdefault(episode.task, len(self.tasks))
        columns = dict(episode.columns) | {
            "timestamp": (np.arange(count) / self.fps).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, self.episodes),
            "index": self.frames + np.arange(count),
            "task_index": np.full(count, task),
        }
        names = [n for n, f in self.features.items() if f["dtype"] != "video"]
        arrays = [_parquet_column(columns[name], self.features[name]) for name in names]
        statistics = {}
        for name in names:
            if self.features[name]["dtype"] != "string":
                statistics[name] = column_statistics(columns[name])
                self._numbers.setdefault(name, []).append(columns[name])
        self.episodes += 1
        self.frames += count
        return pa.table(dict(zip(names, arrays, strict=True))), statistics

    def write_video(
        self, writer: VideoWriter, name: str, pictures: Iterator[NDArray[np.uint8]]
    ) -> dict[str, Any]:
        """Append an episode's pictures; returns their statistics."""
        counts = PictureCounts()
        for image in pictures:
            writer.add(image)
            counts.add(image)
        self._counts[name].merge(counts)
        return counts.statistics()

    def statistics(self) -> dict[str, Any]:
        """Of all episodes together."""
        numbers = {n: column_statistics(np.concatenate(v)) for n, v in self._numbers.items()}
        return numbers | {n: counts.statistics() for n, counts in self._counts.items()}

    def info(self, version: str, paths: Mapping[str, Any]) -> dict[str, Any]:
        """meta/info.json."""
        return {
            "codebase_version": version,
            "robot_type": self.robot,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK_SIZE,
            "fps": self.fps,
            "splits": {"train": f"0:{self.episodes}"},
            **paths,
            "features": self.features,
        }


class WriterV3:
    """v3.0."""

    def __init__(
        self, root: Path, fps: int, robot: str, codec: str, features: dict[str, dict[str, Any]]
    ) -> None:
        self._all = _Tables(root, fps, robot, codec, features)
        self._rows: list[dict[str, Any]] = []
        self._data: pq.ParquetWriter | None = None
        self._data_file = 0
        self._videos: dict[str, VideoWriter] = {}
        self._video_files = dict.fromkeys(self._all.video_keys, 0)

    def add(self, episode: EpisodeTable) -> None:
        tables, first = self._all, self._all.frames
        table, statistics = tables.table(episode)
        row: dict[str, Any] = {
            "episode_index": tables.episodes - 1,
            "tasks": [episode.task],
            "length": table.num_rows,
            **_place("data", self._write_data(table)),
            "dataset_from_index": first,
            "dataset_to_index": first + table.num_rows,
        }
        for name in tables.video_keys:
            writer = self._video(name)
            start = writer.count
            statistics[name] = tables.write_video(writer, name, episode.pictures[name])
            row |= _place(f"videos/{name}", self._video_files[name])
            row[f"videos/{name}/from_timestamp"] = start / tables.fps
            row[f"videos/{name}/to_timestamp"] = writer.count / tables.fps
        for name, found in statistics.items():
            row |= {f"stats/{name}/{kind}": value for kind, value in found.items()}
        row |= _place("meta/episodes", 0)
        self._rows.append(row)

    def finish(self) -> None:
        tables, root = self._all, self._all.root
        if self._data is not None:
            self._data.close()
        for writer in self._videos.values():
            writer.close()
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self._rows), path)
        _write_tasks(root / "meta/tasks.parquet", tables.tasks)
        _write_json(root / "meta/stats.json", tables.statistics())
        place = "chunk-{chunk_index:03d}/file-{file_index:03d}"
        paths = {
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "data_path": f"data/{place}.parquet",
            "video_path": f"videos/{{video_key}}/{place}.mp4",
        }
        info = tables.info("v3.0", paths)
        for name, feature in info["features"].items():
            if name not in tables.video_keys:
                feature["fps"] = tables.fps
        _write_json(root / "meta/info.json", info)

    def _write_data(self, table: pa.Table) -> int:
        path = self._file("data", self._data_file, ".parquet")
        if self._data is not None and path.stat().st_size > DATA_MB * 2**20:
            self._data.close()
            self._data, self._data_file = None, self._data_file + 1
            path = self._file("data", self._data_file, ".parquet")
        if self._data is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(path, table.schema)
        self._data.write_table(table)
        return self._data_file

    def _video(self, name: str) -> VideoWriter:
        writer = self._videos.get(name)
        if writer is not None and writer.path.stat().st_size > VIDEO_MB * 2**20:
            writer.close()
            self._video_files[name] += 1
            writer = None
        if writer is None:
            path = self._file(f"videos/{name}", self._video_files[name], ".mp4")
            writer = self._videos[name] = VideoWriter(path, self._all.fps, self._all.codec)
        return writer

    def _file(self, folder: str, number: int, suffix: str) -> Path:
        chunk, file = divmod(number, CHUNK_SIZE)
        return self._all.root / folder / f"chunk-{chunk:03d}/file-{file:03d}{suffix}"


class WriterV21:
    """v2.1."""

    def __init__(
        self, root: Path, fps: int, robot: str, codec: str, features: dict[str, dict[str, Any]]
    ) -> None:
        self._all = _Tables(root, fps, robot, codec, features)
        self._episodes: list[dict[str, Any]] = []
        self._statistics: list[dict[str, Any]] = []

    def add(self, episode: EpisodeTable) -> None:
        tables, number = self._all, self._all.episodes
        table, statistics = tables.table(episode)
        folder = f"chunk-{number // CHUNK_SIZE:03d}"
        path = tables.root / "data" / folder / f"episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        for name in tables.video_keys:
            path = tables.root / "videos" / folder / name / f"episode_{number:06d}.mp4"
            with VideoWriter(path, tables.fps, tables.codec) as writer:
                statistics[name] = tables.write_video(writer, name, episode.pictures[name])
        entry = {"episode_index": number, "tasks": [episode.task], "length": table.num_rows}
        self._episodes.append(entry)
        self._statistics.append({"episode_index": number, "stats": statistics})

    def finish(self) -> None:
        tables, meta = self._all, self._all.root / "meta"
        tasks = [{"task_index": index, "task": task} for task, index in tables.tasks.items()]
        _write_lines(meta / "tasks.jsonl", tasks)
        _write_lines(meta / "episodes.jsonl", self._episodes)
        _write_lines(meta / "episodes_stats.jsonl", self._statistics)
        chunk, name = "chunk-{episode_chunk:03d}", "episode_{episode_index:06d}"
        paths = {
            "total_videos": tables.episodes * len(tables.video_keys),
            "total_chunks": -(-tables.episodes // CHUNK_SIZE),
            "data_path": f"data/{chunk}/{name}.parquet",
            "video_path": f"videos/{chunk}/{{video_key}}/{name}.mp4",
        }
        _write_json(meta / "info.json", tables.info("v2.1", paths))


def _parquet_column(values: NDArray[Any], feature: Mapping[str, Any]) -> pa.Array:
    """A column as LeRobot's own schema has it: scalars for shape (1,), else fixed-size lists."""
    kind, (size,) = PARQUET_TYPES[feature["dtype"]], feature["shape"]
    if values.size != len(values) * size:
        raise ValueError(f"a column of shape {values.shape} for a feature of {size}")
    flat = pa.array(values.ravel().tolist() if kind == pa.string() else values.ravel(), kind)
    return flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)


def _place(what: str, number: int) -> dict[str, int]:
    chunk, file = divmod(number, CHUNK_SIZE)
    return {f"{what}/chunk_index": chunk, f"{what}/file_index": file}


def _write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """meta/tasks.parquet: a pandas table whose index is the task's text."""
    index = "__index_level_0__"
    described = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": field_name,
                "pandas_type": pandas_type,
                "numpy_type": numpy_type,
                "metadata": None,
            }
            for name, field_name, pandas_type, numpy_type in (
                ("task_index", "task_index", "int64", "int64"),
                (None, index, "unicode", "object"),
            )
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": list(tasks.values()), index: list(tasks)})
    pq.write_table(table.replace_schema_metadata({b"pandas": json.dumps(described)}), path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
