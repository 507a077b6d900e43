"""Figures of recording and reading demonstrations.

    python -m teleop.bench --json --dataset runs/demos --lerobot-python ~/lerobot/bin/python

`kills` and `episodes_lost`: the recorder is killed at random moments. `read_speedup_vs_lerobot`: an
observation with both pictures and the chunk of the next 16 steps, at random; the time of the real
LeRobot reader on an export of the same episodes, over ours. Without --lerobot-python it is null.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from rich.console import Console
from rich.progress import track

from contracts.episode import EpisodeError
from teleop import lerobot_reader
from teleop.dataset import DemonstrationDataset, Episode
from teleop.export import CODEC, ExportError, common_shape, export
from teleop.kill_trials import kill_trials
from teleop.lerobot_writer import FORMATS
from teleop.recorder import RecordingFailed

HORIZON: Final = 16
INTERRUPTED: Final = 130


class BenchFailed(Exception):
    """A figure that cannot be taken; the text says why."""


def measure_kills(count: int, seed: int, console: Console) -> dict[str, int]:
    """Kill the recorder `count` times."""
    with tempfile.TemporaryDirectory(prefix="teleop-kills-") as folder:
        trials = track(
            kill_trials(Path(folder), count, seed),
            "kills",
            total=count,
            console=console,
            disable=not console.is_terminal,
        )
        done = list(trials)
    return {
        "kills": len(done),
        "episodes_lost": sum(t.lost for t in done),
        "episodes_committed": sum(t.committed for t in done),
        "parts_left": sum(t.left for t in done),
        "messages_recovered": sum(t.recovered for t in done),
    }


def measure_reading(
    dataset: DemonstrationDataset, items: int, seed: int, python: str, console: Console
) -> dict[str, Any]:
    """Read the same random frames with both readers, ours before and after theirs.

    Raises:
        BenchFailed: the real reader cannot be run, or it read other numbers.
        ExportError: the data set cannot be exported.
    """
    with tempfile.TemporaryDirectory(prefix="teleop-reading-") as folder:
        root = Path(folder) / "lerobot"
        written = export(dataset, root, FORMATS[0], CODEC, console)
        indices = np.random.default_rng(seed).integers(0, written["frames"], items).tolist()
        places = _places(dataset)
        first = read_ours(dataset, [places[i] for i in indices])
        theirs = read_theirs(root, indices, python)
        second = read_ours(dataset, [places[i] for i in indices])
    _compare(dataset, places, indices, theirs)
    ours = (first + second) / 2
    return {
        "read_speedup_vs_lerobot": round(theirs["seconds_per_item"] / ours, 2),
        "read_ms": round(1000 * ours, 3),
        "lerobot_read_ms": round(1000 * theirs["seconds_per_item"], 3),
        "lerobot": f"{theirs['version']}, {theirs['backend']}, {CODEC}",
        "items": items,
    }


def read_ours(dataset: DemonstrationDataset, places: Sequence[tuple[int, float]]) -> float:
    """Seconds an item: state, both pictures as LeRobot gives them, and the chunk."""
    fps, _ = common_shape(dataset)
    for index, time_s in places[: lerobot_reader.SHOWN]:
        _read_item(dataset[index], time_s, fps)
    started = time.perf_counter()
    for index, time_s in places:
        _read_item(dataset[index], time_s, fps)
    return (time.perf_counter() - started) / max(len(places), 1)


def read_theirs(root: Path, indices: Sequence[int], python: str) -> dict[str, Any]:
    """What the real reader said.

    Raises:
        BenchFailed: it could not be run.
    """
    command = [python, lerobot_reader.__file__, str(root), "--horizon", str(HORIZON)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root.parent / "hf")}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(list(indices)),
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (OSError, ValueError, IndexError) as error:
        raise BenchFailed(f"{python}: LeRobot's reader did not run: {error}") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        raise BenchFailed(f"{python}: LeRobot's reader failed: {''.join(last)}") from error


def _read_item(episode: Episode, time_s: float, fps: float) -> dict[str, Any]:
    """An item as LeRobot's: pictures float32 (3, height, width) in 0..1."""
    chunk = episode.chunk(time_s, HORIZON, 1.0 / fps)
    item: dict[str, Any] = {"state": episode.states_at([time_s])[0], "chunk": chunk}
    for camera in episode.cameras:
        image = episode.image(camera, time_s)
        item[camera] = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / np.float32(255)
    return item


def _places(dataset: DemonstrationDataset) -> list[tuple[int, float]]:
    """Episode and time of every exported frame."""
    fps, _ = common_shape(dataset)
    episodes, times = dataset.moments(1.0 / fps)
    return list(zip(episodes.tolist(), times.tolist(), strict=True))


def _compare(
    dataset: DemonstrationDataset,
    places: Sequence[tuple[int, float]],
    indices: Sequence[int],
    theirs: dict[str, Any],
) -> None:
    """Both readers must have read the same steps. Raises BenchFailed: they did not."""
    if theirs["frames"] != len(places):
        raise BenchFailed(f"LeRobot counts {theirs['frames']} frames, we {len(places)}")
    for index, item in zip(indices, theirs["items"], strict=False):
        episode, time_s = places[index]
        pose = dataset[episode].states_at([time_s])["pose"][0]
        if not np.allclose(item["observation.state.cartesian_position"][:3], pose[:3], atol=1e-5):
            raise BenchFailed(f"frame {index}: LeRobot read another pose than we")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 130 Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m teleop.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", type=Path, help="data set to read; without one, nothing is read")
    add("--lerobot-python", metavar="PYTHON", help="Python of an environment with LeRobot")
    add("--kills", type=int, default=100, help="default 100")
    add("--items", type=int, default=500, help="random reads (default 500)")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False, markup=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        figures = _measure(options, console)
    except (BenchFailed, EpisodeError, ExportError, RecordingFailed, OSError) as error:
        console.print(f"teleop.bench: {error}", style="red", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted", soft_wrap=True)
        return INTERRUPTED
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            console.print(f"{name}: {value}", soft_wrap=True)
    return 0


def _measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    figures: dict[str, Any] = {"read_speedup_vs_lerobot": None}
    if options.dataset is not None:
        dataset = DemonstrationDataset(options.dataset)
        if options.lerobot_python:
            figures |= measure_reading(
                dataset, options.items, options.seed, options.lerobot_python, console
            )
        else:
            places = _places(dataset)
            rng = np.random.default_rng(options.seed)
            picked = [places[i] for i in rng.integers(0, len(places), options.items)]
            figures["read_ms"] = round(1000 * read_ours(dataset, picked), 3)
    return figures | measure_kills(options.kills, options.seed, console)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
