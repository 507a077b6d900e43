"""Export demonstrations to a LeRobot data set with DROID's field names.

    python -m teleop.export runs/demos --format lerobot-v3 --out runs/lerobot

Only successes are exported, resampled to the cameras' rate. The folder appears when it is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from contracts.episode import EpisodeError
from contracts.geometry import Vector
from teleop import droid_fields, jpeg
from teleop.dataset import DemonstrationDataset, Episode
from teleop.lerobot_writer import FORMATS, EpisodeTable, LeRobotWriter, WriterV3, WriterV21
from teleop.video import CODECS

ROBOT_TYPE: Final = "Franka"
WRITERS: Final[dict[str, Callable[..., LeRobotWriter]]] = dict(
    zip(FORMATS, (WriterV3, WriterV21), strict=True)
)
CODEC: Final = "libx264"
PART: Final = ".part"
INTERRUPTED: Final = 130


class ExportError(Exception):
    """An export that cannot be made; the text says why and what to do."""


def export(
    dataset: DemonstrationDataset, out: Path, kind: str, codec: str, console: Console
) -> dict[str, Any]:
    """Write all episodes of `dataset` to the new folder `out`; returns what was written.

    Raises:
        ExportError: `out` is there, the data set is empty, or its episodes do not fit together.
        EpisodeError: an episode is damaged.
    """
    if out.exists():
        raise ExportError(f"{out}: is there already; choose another --out")
    fps, pictures = common_shape(dataset)
    temporary = out.with_name(out.name + PART)
    if temporary.exists():
        shutil.rmtree(temporary)  # of an export that was cut short
    temporary.mkdir(parents=True)
    features = droid_fields.features(pictures)
    writer = WRITERS[kind](temporary, fps, ROBOT_TYPE, codec, features)
    frames = 0
    episodes = track(
        dataset, "export", total=len(dataset), console=console, disable=not console.is_terminal
    )
    for episode in episodes:
        times = episode.times(1.0 / fps)
        writer.add(episode_table(episode, times, fps))
        frames += len(times)
    writer.finish()
    _sync_tree(temporary)
    os.rename(temporary, out)
    return {"episodes": len(dataset), "frames": frames, "fps": fps, "format": kind}


def common_shape(dataset: DemonstrationDataset) -> tuple[int, dict[str, tuple[int, int]]]:
    """Rate [Hz] and each camera's height and width, which all episodes must share.

    Raises:
        ExportError: they do not, or there is no episode.
    """
    if not len(dataset):
        raise ExportError(f"{dataset.directory}: no successful episode to export")
    shapes = {}
    for episode in dataset:
        sizes = {
            camera: jpeg.decode(episode.pictures(camera).jpeg(0)).shape[:2]
            for camera in episode.cameras
        }
        shapes[(round(episode.header.camera_rate, 3), tuple(sorted(sizes.items())))] = episode.path
    if len(shapes) > 1:
        (_, first), (_, other), *_ = shapes.items()
        raise ExportError(
            f"{first.name} and {other.name} differ in cameras, picture size or rate: "
            f"{list(shapes)}; export them from separate data sets"
        )
    ((rate, pictures),) = shapes
    if rate != round(rate):
        raise ExportError(f"LeRobot wants whole pictures a second, the data have {rate}")
    return round(rate), dict(pictures)


def episode_table(episode: Episode, times: Vector, fps: int) -> EpisodeTable:
    """One episode as LeRobot wants it."""
    pictures = {
        droid_fields.picture_field(camera): _pictures(episode, camera, times)
        for camera in episode.cameras
    }
    columns = droid_fields.steps(episode, times, fps)
    return EpisodeTable(columns, episode.header.instruction, pictures)


def _pictures(episode: Episode, camera: str, times: Vector) -> Iterator[NDArray[np.uint8]]:
    return (episode.image(camera, time) for time in times.tolist())


def _sync_tree(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 refused or failed, 130 Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m teleop.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--codec", choices=tuple(CODECS), default=CODEC, help=f"default {CODEC}")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False, markup=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        dataset = DemonstrationDataset(options.dataset)
        written = export(dataset, options.out, options.format, options.codec, console)
    except (ExportError, EpisodeError, OSError) as error:
        console.print(f"teleop.export: {error}", style="red", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was exported", soft_wrap=True)
        return INTERRUPTED
    if options.json:
        print(json.dumps(written))
    else:
        text = "{episodes} episodes, {frames} frames at {fps} Hz".format(**written)
        console.print(f"{options.out}: {text}", soft_wrap=True)
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
