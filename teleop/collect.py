"""Collect demonstrations: so many successes of each task, object by object, start by start.

    python -m teleop.collect --backend fast --device scripted --task all --target 60 \\
        --out runs/demos

Run it again to go on where it stopped; Ctrl-C pauses it. `--undo` sets the last episode aside.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.calibration import Calibration
from contracts.episode import EpisodeError, EpisodeHeader, Outcome
from contracts.task import TASKS, get_task
from simulation.placement import Placement
from teleop import plan
from teleop.collection import Collection, CollectionError
from teleop.devices.device import Device
from teleop.lock import DatasetBusy
from teleop.recorder import (
    EpisodeWriter,
    RecordingFailed,
    calibration_document,
    now_utc,
    software_versions,
)

SEED: Final = 600_000
"""Keeps clear of the placement seeds of evaluation and of training's own demonstrations."""
IMAGE_SIZE: Final = 128
MOST_TRIES: Final = 5
"""Failures in a row at one slot after which something must be wrong."""
INTERRUPTED: Final = 130
ALL: Final = "all"


class Backend(Protocol):
    """Where episodes happen: the fast simulation, or the running graph."""

    name: str
    robot: str
    cameras: tuple[str, ...]
    state_rate: float
    camera_rate: float
    device: Device

    def home(self, placement: Placement) -> Calibration:
        """Bring the arm home and the scene to `placement`; the calibration that holds."""

    def perform(self, writer: EpisodeWriter) -> Outcome:
        """Record one episode to its end and have it labelled."""


def collect(
    collection: Collection, backend: Backend, tasks: Sequence[str], target: int, operator: str
) -> Iterator[Outcome]:
    """Perform what the plan still wants; yields each outcome as it is committed."""
    while (wanted := collection.next_slot(tasks, target)) is not None:
        slot, attempt = wanted
        if attempt >= MOST_TRIES:
            raise CollectionError(
                f"{slot.task}, slot {slot.index} ({slot.object}): {attempt} tries and no success; "
                "look at the episodes, then undo them or choose another --seed"
            )
        collection.check_room()
        yield perform(collection, backend, slot, attempt, operator)


def perform(
    collection: Collection, backend: Backend, slot: plan.Slot, attempt: int, operator: str
) -> Outcome:
    """Home, record, label and commit one episode."""
    start = plan.placement(slot, attempt, collection.seed)
    calibration = backend.home(start)
    header = EpisodeHeader(
        number=collection.next_number(),
        task=slot.task,
        object=slot.object,
        instruction=get_task(slot.task).instruction(slot.object),
        slot=slot.index,
        attempt=attempt,
        backend=backend.name,
        device=backend.device.name,
        operator=operator,
        robot=backend.robot,
        cameras=backend.cameras,
        state_rate=backend.state_rate,
        camera_rate=backend.camera_rate,
        started_at=now_utc(),
        start=plan.start_document(start),
        software=software_versions(),
    )
    with EpisodeWriter(collection.directory, header, calibration_document(calibration)) as writer:
        outcome = backend.perform(writer)
        path = writer.commit(outcome)
    collection.add(path, header, outcome)
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 refused or failed, 130 Ctrl-C or SIGTERM."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False, markup=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        _execute(options, console)
    except (CollectionError, DatasetBusy, EpisodeError, RecordingFailed, ValueError) as error:
        console.print(f"teleop.collect: {error}", style="red", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("paused; run the same command again to go on", soft_wrap=True)
        return INTERRUPTED
    return 0


def _execute(options: argparse.Namespace, console: Console) -> None:
    tasks = tuple(TASKS) if ALL in options.task else tuple(dict.fromkeys(options.task))
    for task in tasks:
        get_task(task)
    plan.check_target(options.target)
    if not 32 <= options.image_size <= 1024:
        raise ValueError(f"--image-size must be 32..1024 pixels, got {options.image_size}")
    with Collection(options.out, options.seed) as collection:
        for recovery in collection.recovered:
            console.print(f"{recovery.part}: {recovery.text}", soft_wrap=True)
        if options.undo:
            undone = collection.undo_last()
            console.print(f"set aside: {undone.path}", soft_wrap=True)
        elif collection.next_slot(tasks, options.target) is not None:
            _collect(options, tasks, collection, console)
        counts = collection.progress(tasks, options.target)
    labels = Counter(c.outcome.label for c in collection.episodes)
    if options.json:
        print(json.dumps({"episodes": len(collection.episodes), **labels, "progress": counts}))
    else:
        _show(counts, console)


def _collect(
    options: argparse.Namespace, tasks: Sequence[str], collection: Collection, console: Console
) -> None:
    backend = _backend(options)
    total = options.target * len(tasks)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("episodes", total=total)
        for outcome in collect(collection, backend, tasks, options.target, options.operator):
            counts = collection.progress(tasks, options.target)
            done = {task: sum(have for have, _ in c.values()) for task, c in counts.items()}
            progress.update(bar, completed=sum(done.values()), description=_now(done, options))
            if outcome.label != "success":
                last = collection.last.header
                text = f"{last.task}, slot {last.slot} ({last.object}): {outcome.label}"
                console.print(f"{text}, {outcome.note}; another start follows", soft_wrap=True)


def _now(done: Mapping[str, int], options: argparse.Namespace) -> str:
    """The task under way and how far it is."""
    task, count = next(
        ((t, n) for t, n in done.items() if n < options.target), list(done.items())[-1]
    )
    return f"{task} {count}/{options.target}"


def _backend(options: argparse.Namespace) -> Backend:
    # MuJoCo takes a second to import and is not there on every machine that undoes or looks.
    from simulation.fast import FastSimulation
    from teleop.devices.scripted import ScriptedDevice
    from teleop.fast_backend import FastBackend

    simulation = FastSimulation(options.image_size)
    device = ScriptedDevice(simulation, options.disturbed, options.seed)
    return FastBackend(simulation, device, options.image_size)


def _show(counts: Mapping[str, Mapping[str, tuple[int, int]]], console: Console) -> None:
    for task, objects in counts.items():
        done, wanted = (sum(pair[i] for pair in objects.values()) for i in (0, 1))
        parts = ", ".join(f"{obj} {have}/{want}" for obj, (have, want) in objects.items())
        console.print(f"{task}: {done} of {wanted} ({parts})", soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m teleop.collect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--backend", choices=("fast",), default="fast", help="default fast")
    add("--device", choices=("scripted",), default="scripted", help="default scripted")
    add("--task", action="append", required=True, help=f"a task or {ALL}; may be repeated")
    add("--target", type=int, default=60, help="successes wanted a task (default 60)")
    add("--out", type=Path, required=True, help="new directory, or one to go on in")
    add("--seed", type=int, default=SEED, help=f"of the plan (default {SEED})")
    add("--operator", default="anonymous", help="alias kept in every episode")
    add("--image-size", type=int, default=IMAGE_SIZE, help="pixels a side (fast backend)")
    add(
        "--disturbed",
        type=float,
        default=0.0,
        help="share of episodes executed with noise, commands staying clean (scripted device)",
    )
    add("--undo", action="store_true", help="set the last episode aside and end")
    add("--json", action="store_true", help="print one JSON line")
    return parser


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
