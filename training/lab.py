"""The whole study at lab size: resumable stages from data to a page of results.

    python -m training.lab --quick --out runs/lab-quick      # 20 minutes on two cores
    python -m training.lab --evening --out runs/lab          # what training/results/ shows
    python -m training.lab --full --out runs/lab-full        # overnight, from nothing

Stages run in processes of their own, two at a time where they do not wait for each other. They are
forked from one that has imported everything, which costs more than many a stage. Ctrl-C or a crash
loses the stages under way; the same command goes on with what is missing. The page is
OUT/report.html, its numbers are OUT/study.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import asdict
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from training import lab_plan, lab_study
from training.lab_plan import Stage
from training.lab_sizes import SIZES, Size

POLL_S = 1.0
STOP_S = 20.0


class StudyError(Exception):
    """The study cannot go on; the text says which stage and where its log is."""


class Runner:
    """Runs stages as their dependencies allow, `workers` at a time."""

    def __init__(self, out: Path, size: Size, workers: int, console: Console) -> None:
        self._out, self._size, self._workers, self._console = out, size, workers, console
        self._stages = {stage.name: stage for stage in lab_plan.stages(size)}
        self._running: dict[str, tuple[ForkServerProcess, float]] = {}
        # Set before the server starts: its children compute on one thread each.
        os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["training.lab_plan"])

    def run(self) -> None:
        """All stages that are not done yet.

        Raises:
            StudyError: a stage failed; the others that ran beside it have been stopped.
        """
        waiting = [s for s in self._stages.values() if not is_done(self._out, s.name)]
        total = sum(stage.minutes for stage in self._stages.values())
        done = total - sum(stage.minutes for stage in waiting)
        with _progress(self._console) as progress:
            bar = progress.add_task("", total=total, completed=done, left="")
            try:
                while waiting or self._running:
                    self._start(waiting)
                    self._collect()
                    left = sum(stage.minutes for stage in waiting) / self._workers
                    progress.update(
                        bar,
                        completed=total - sum(s.minutes for s in waiting),
                        description=", ".join(self._running) or "waiting",
                        left=f"about {left:.0f} min left",
                    )
                    time.sleep(POLL_S)
            finally:
                self._stop()

    def _start(self, waiting: list[Stage]) -> None:
        for stage in list(waiting):
            if len(self._running) >= self._workers:
                return
            if all(is_done(self._out, name) for name in stage.after):
                waiting.remove(stage)
                self._running[stage.name] = (self._launch(stage), time.monotonic())

    def _launch(self, stage: Stage) -> ForkServerProcess:
        log = self._log(stage.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self._processes.Process(
            target=_run_logged, args=(self._out, self._size, stage.name, log), name=stage.name
        )
        process.start()
        self._console.print(f"{stage.name}: started")
        return process

    def _log(self, name: str) -> Path:
        return self._out / "logs" / f"{name.replace(':', '-')}.log"

    def _collect(self) -> None:
        for name, (process, started) in list(self._running.items()):
            if process.exitcode is None:
                continue
            del self._running[name]
            if process.exitcode or not is_done(self._out, name):
                raise StudyError(f"{name}: exit code {process.exitcode}, see {self._log(name)}")
            self._console.print(f"{name}: {time.monotonic() - started:.0f} s")

    def _stop(self) -> None:
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            process.join(STOP_S)
            if process.exitcode is None:
                process.kill()


def _run_logged(out: Path, size: Size, name: str, log: Path) -> None:
    """A stage in a process of its own; what it prints goes to its log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the runner, which ends the stages
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    run_stage(out, size, name)


def stage_command(out: Path, size: Size, name: str) -> list[str]:
    words = [sys.executable, "-m", "training.lab", f"--{size.name}"]
    return [*words, "--out", str(out), "--stage", name]


def done_file(out: Path, name: str) -> Path:
    return out / "stages" / f"{name.replace(':', '-')}.json"


def is_done(out: Path, name: str) -> bool:
    return done_file(out, name).is_file()


def run_stage(out: Path, size: Size, name: str) -> None:
    """One stage in this process; its record is written last and says that it is done."""
    stage = next((s for s in lab_plan.stages(size) if s.name == name), None)
    if stage is None:
        raise StudyError(f"no stage {name!r}")
    started = time.monotonic()
    stage.run(out)
    record = {
        "name": name,
        "seconds": round(time.monotonic() - started, 1),
        "peak_gb": round(peak_gb(), 2),
        "command": " ".join(["python", *stage_command(out, size, name)[1:]]),
    }
    write_json(done_file(out, name), record)


def peak_gb() -> float:
    """Largest resident memory [GB] of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1e6
    return 0.0


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def check_config(out: Path, size: Size) -> None:
    """The size of a study that is under way must not change.

    Raises:
        StudyError: `out` holds a study of another size; the text names what differs.
    """
    path, wanted = out / "size.json", json.loads(json.dumps(asdict(size)))
    if not path.is_file():
        write_json(path, wanted)
        return
    found = json.loads(path.read_text())
    differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if differing:
        raise StudyError(
            f"{out} holds a study with other {', '.join(differing)}: go on with the same size, or "
            "choose another --out"
        )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("study"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}"),
        console=console,
        refresh_per_second=1,
    )


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description="The lab study, from data to a report page.")
    chosen = parser.add_mutually_exclusive_group(required=True)
    for name, size in SIZES.items():
        chosen.add_argument(
            f"--{name}", dest="size", action="store_const", const=name, help=size.what
        )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2, help="stages at a time")
    parser.add_argument("--stage", help="run this stage alone, in this process")
    parser.add_argument("--report", action="store_true", help="only the page of what is there")
    parser.add_argument("--publish", type=Path, help="folder that gets page, numbers and configs")
    arguments = parser.parse_args()
    size, console = SIZES[arguments.size], Console(stderr=True, highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        check_config(arguments.out, size)
        if arguments.stage:
            run_stage(arguments.out, size, arguments.stage)
            return
        if not arguments.report:
            Runner(arguments.out, size, arguments.workers, console).run()
        page = lab_study.write_report(arguments.out, size)
        if arguments.publish:
            lab_study.publish(arguments.out, arguments.publish)
        console.print(f"report: {page}", soft_wrap=True)
    except StudyError as error:
        console.print(f"training.lab: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on with the stages that are missing")
        sys.exit(130)


if __name__ == "__main__":
    main()
