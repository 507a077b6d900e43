"""`killed_run.py DIRECTORY KILLS`: runs of a made-up backend, killed at random moments.

Every child is a fork, which costs a few milliseconds instead of the imports of a whole Python. It
tells of each trial once it is on disk; whatever it told must be there afterwards.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

from conftest import outcome_of

from evaluation import runner
from evaluation.plan import RunConfig, TrialSpec
from evaluation.policies import PolicyChoice
from evaluation.trial_log import FinishedTrial, TrialLog, TrialRecord

POLICIES = tuple(PolicyChoice(name, name, f"hash of {name}", 128) for name in ("one", "two"))
CONFIG = RunConfig(POLICIES, "fast", trials=2, seed=7, tasks=("box_to_bowl", "box_to_plate"))


def backend(config: RunConfig, specs: Sequence[TrialSpec], tell: object) -> Iterator[FinishedTrial]:
    bundles = {choice.name: choice.bundle for choice in config.policies}
    for spec in specs:
        yield outcome_of(spec, str(bundles[spec.policy])), b"film"


def run(directory: Path) -> dict:
    summary, _ = runner.run(CONFIG, directory, backend, Console(file=io.StringIO()))
    return {name: value for name, value in summary.items() if name != "wall_seconds"}


def run_and_tell(directory: Path, pipe: int) -> None:
    """As `run`, writing each trial's key to `pipe` after it was appended."""
    append = TrialLog.append

    def telling(log: TrialLog, record: TrialRecord) -> None:
        append(log, record)
        os.write(pipe, (json.dumps(record.spec.key) + "\n").encode())

    TrialLog.append = telling  # type: ignore[method-assign]
    run(directory)


def killed(directory: Path, rng: random.Random) -> tuple[list[str], bool]:
    """Keys that a run told before it was killed, and whether it was still under way."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            run_and_tell(directory, write)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        for _ in range(rng.randrange(6)):
            pipe.readline()
        time.sleep(rng.random() * 0.004)
        os.kill(child, signal.SIGKILL)
        # Everything that it wrote before its end is still in the pipe.
        told = [line.decode() for line in pipe.read().splitlines()]
    status = os.waitpid(child, 0)[1]
    return told, os.WIFSIGNALED(status)


def main(root: Path, kills: int) -> dict:
    rng = random.Random(0)
    undisturbed = run(root / "whole")
    done = under_way = number = 0
    lost: list[str] = []
    different: list[str] = []
    while done < kills:
        directory = root / str(number)
        told: set[str] = set()
        number += 1
        for _ in range(min(5, kills - done)):
            new, alive = killed(directory, rng)
            told |= set(new)
            under_way += alive
            done += 1
        log = directory / "trials.jsonl"
        lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
        rows = [json.loads(line) for line in lines]
        kept = {json.dumps([r["policy"], r["task"], r["object"], r["trial"]]) for r in rows}
        lost += sorted(told - kept)
        if run(directory) != undisturbed:
            different.append(str(directory))
    return {"kills": done, "under_way": under_way, "lost": lost, "different": different}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
