"""Import other demonstrations as a data set of ours, for pretraining.

    python -m teleop.import_data SOURCE --format lerobot --out runs/imported

SOURCE: a LeRobot data set with DROID's fields (v3.0 or v2.1), or a folder of RLDS TFRecord files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.progress import Progress

from contracts import episode as layout
from contracts.episode import EpisodeError
from teleop.importers import lerobot, rlds
from teleop.importers.imported import ImportedEpisode, write_imported
from teleop.recorder import RecordingFailed

FORMATS: Final = ("lerobot", *rlds.SOURCES)
PART: Final = ".part"
INTERRUPTED: Final = 130


def import_data(episodes: Iterator[ImportedEpisode], out: Path) -> Iterator[Path]:
    """Write episodes to the new data set `out`, which appears when it is whole.

    Yields each committed file.

    Raises:
        EpisodeError: `out` is there, or an episode is damaged.
        RecordingFailed: the disk is full.
    """
    if out.exists():
        raise EpisodeError(f"{out}: is there already; choose another --out")
    temporary = out.with_name(out.name + PART)
    if temporary.exists():
        shutil.rmtree(temporary)  # of an import that was cut short
    (temporary / layout.EPISODES).mkdir(parents=True)
    settings = {"schema_version": layout.SCHEMA_VERSION, "seed": None}
    (temporary / layout.DATASET_FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")
    for number, episode in enumerate(episodes):
        yield write_imported(temporary, number, episode)
    os.rename(temporary, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 refused or failed, 130 Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m teleop.import_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False, markup=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        count = _run(options, console)
    except (EpisodeError, RecordingFailed, OSError) as error:
        console.print(f"teleop.import_data: {error}", style="red", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was imported", soft_wrap=True)
        return INTERRUPTED
    if options.json:
        print(json.dumps({"episodes": count}))
    else:
        console.print(f"{options.out}: {count} episodes", soft_wrap=True)
    return 0


def _run(options: argparse.Namespace, console: Console) -> int:
    if options.format == lerobot.SOURCE:
        total: int | None = lerobot.count(options.source)
        episodes = lerobot.read(options.source)
    else:
        total, episodes = None, rlds.read(options.source, options.format)
    count = 0
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("import", total=total)
        for _ in import_data(episodes, options.out):
            count += 1
            progress.update(bar, advance=1)
    return count


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
