"""Trials on the fast simulation, in one or more processes; outcomes do not depend on how many."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict
from multiprocessing.connection import wait
from typing import Final

from evaluation.film import Film
from evaluation.outcome import keeps_film
from evaluation.plan import RunConfig, TrialSpec
from evaluation.policies import PolicyChoice
from evaluation.rollout import PolicyController, ScriptedController, run_trial
from evaluation.trial_log import FinishedTrial, TrialRecord
from policy_server.client import LocalPolicy
from simulation.fast import FastSimulation
from simulation.placement import sample_placement

ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
"""One thread a worker: several would only wait for each other, and sums could differ."""


class WorkersLost(Exception):
    """Worker processes died again and again; the text says what that usually means."""


class FastBackend:
    """Runs trials one after another in this process; policies and simulations are kept."""

    simulation_type: type[FastSimulation] = FastSimulation

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._choices = {choice.name: choice for choice in config.policies}
        self._controllers: dict[str, ScriptedController | PolicyController] = {}
        self._simulations: dict[int | None, FastSimulation] = {}

    def run(self, spec: TrialSpec) -> FinishedTrial:
        """Run one trial to its end."""
        started = time.perf_counter()
        choice = self._choices[spec.policy]
        controller = self._controller(choice)
        film = Film() if self._config.film != "none" else None
        outcome = run_trial(
            self._simulation(choice),
            controller,
            sample_placement(spec.task, spec.object, spec.seed),
            self._config,
            film,
        )
        asked = controller.inference_ms if isinstance(controller, PolicyController) else ()
        record = TrialRecord(
            **asdict(spec),
            **asdict(outcome),
            wall_s=round(time.perf_counter() - started, 4),
            inference_ms=[round(ms, 3) for ms in asked],
        )
        wanted = film is not None and keeps_film(self._config.film, record)
        return record, film.strip() if film is not None and wanted else None

    def close(self) -> None:
        """Free the renderers."""
        for simulation in self._simulations.values():
            simulation.close()

    def _controller(self, choice: PolicyChoice) -> ScriptedController | PolicyController:
        if choice.name not in self._controllers:
            self._controllers[choice.name] = (
                ScriptedController()
                if choice.bundle is None
                else PolicyController(LocalPolicy(choice.bundle), self._config.policy_latency_s)
            )
        return self._controllers[choice.name]

    def _simulation(self, choice: PolicyChoice) -> FastSimulation:
        drawn = choice.bundle is not None or self._config.film != "none"
        size = choice.image_size if drawn else None
        if size not in self._simulations:
            self._simulations[size] = self.simulation_type(image_size=size)
        return self._simulations[size]


def run_trials(
    config: RunConfig,
    specs: Sequence[TrialSpec],
    workers: int,
    tell: Callable[[str], None],
    backend: type[FastBackend] = FastBackend,
) -> Generator[FinishedTrial]:
    """Run trials in `workers` processes; they come as they finish, in any order.

    A trial whose worker died is run again in a new one, and `tell` says so. `backend` is what runs
    in each process.

    Raises:
        WorkersLost: workers died twice without finishing a trial in between.
    """
    waiting = {spec.key: spec for spec in specs}
    losses = 0
    while waiting:
        before = len(waiting)
        try:
            with closing(_one_pool(config, list(waiting.values()), workers, backend)) as pool:
                for finished in pool:
                    del waiting[finished[0].spec.key]
                    yield finished
        except BrokenProcessPool as error:
            losses = 1 if len(waiting) < before else losses + 1
            if losses >= 2:
                text = "worker processes died twice in a row; out of memory? Try --workers 1"
                raise WorkersLost(text) from error
            tell("a worker process died; its trial is run again")


def _one_pool(
    config: RunConfig, specs: Sequence[TrialSpec], workers: int, backend: type[FastBackend]
) -> Generator[FinishedTrial]:
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(specs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(config, backend),
    )
    finished = False
    try:
        with _environment(dict.fromkeys(ONE_THREAD, "1")):
            futures: list[Future[FinishedTrial]] = [pool.submit(_run_in_worker, s) for s in specs]
        for future in as_completed(futures):
            yield future.result()
        finished = True
    finally:
        if not finished:
            _kill_workers(pool)
        pool.shutdown(wait=True, cancel_futures=True)


def _kill_workers(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: what they have not finished is not kept anyway."""
    for process in list((pool._processes or {}).values()):
        process.kill()


class _environment:
    """Environment variables while the workers start; they inherit them."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_backend: FastBackend | None = None
"""Of a worker process: made once, when it starts."""


def _start_worker(config: RunConfig, backend: type[FastBackend] = FastBackend) -> None:
    global _backend
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _backend = backend(config)


def _die_with_parent() -> None:
    """Without this a worker would wait for work forever after its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(spec: TrialSpec) -> FinishedTrial:
    if _backend is None:
        raise RuntimeError("this worker process was not started with _start_worker")
    return _backend.run(spec)
