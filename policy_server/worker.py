"""One thread that runs the policy, and a bounded queue in front of it."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from policy_server.bundle_host import BundleHost
from policy_server.policy import Answer, Request
from policy_server.refusal import PolicyRefused, Reason

QUEUE_CAPACITY = 16
"""Requests that may wait or run at once: two for each of eight robots."""
MAX_BATCH = 8
"""Requests of one run of the graphs; more would make the first of them wait too long."""
END_S = 0.2

log = logging.getLogger(__name__)

Outcome = Answer | PolicyRefused


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way; times are of `time.perf_counter` [s].

    computed: called in the worker's thread with the answer, as soon as it is there.
    done: called once, in the event loop's thread, with the answer or the refusal.
    queue_ms, bundle_hash: how long it waited, and who answered it.
    abandoned: set when nobody waits any more; it is then not computed.
    """

    request: Request
    arrived: float
    expires: float | None
    computed: Callable[[Answer], None]
    done: Callable[[Outcome], None]
    queue_ms: float = 0.0
    bundle_hash: str = ""
    abandoned: bool = False


class InferenceWorker:
    """Keeps inference off the event loop; each job gets its outcome once, never silence.

    What waits when the thread becomes free is one batch: nobody waits for others to come. All
    methods belong to the event loop's thread.
    """

    def __init__(
        self, host: BundleHost, capacity: int = QUEUE_CAPACITY, max_batch: int = MAX_BATCH
    ) -> None:
        if capacity < 1 or max_batch < 1:
            raise ValueError(f"capacity {capacity} and max_batch {max_batch} must be at least 1")
        self._host = host
        self._capacity = capacity
        self._max_batch = max_batch
        self._jobs: set[Job] = set()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Begin to work, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def unanswered(self) -> int:
        """Jobs that wait or run."""
        return len(self._jobs)

    def check_room(self) -> None:
        """Raises PolicyRefused (QUEUE_FULL) if `submit` would have no room for a job."""
        if len(self._jobs) >= self._capacity:
            raise PolicyRefused(Reason.QUEUE_FULL, f"{len(self._jobs)} requests wait already")

    def submit(self, job: Job) -> None:
        """Put `job` into the queue; `check_room` comes first."""
        self._jobs.add(job)
        self._queue.put(job)

    def refuse_all(self, refusal: PolicyRefused) -> None:
        """Answer every job that waits or runs with `refusal`."""
        for job in list(self._jobs):
            job.abandoned = True
            self._settle(job, refusal)

    def stop(self) -> None:
        """End the thread after the run it is in; jobs still in the queue are not computed."""
        self._queue.put(None)

    def ended(self) -> bool:
        """Whether the thread has ended; it gets END_S to do so."""
        self._thread.join(END_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        assert self._loop is not None
        while batch := self._batch():
            outcomes = [(job, _told(job, outcome)) for job, outcome in self._outcomes(batch)]
            try:
                self._loop.call_soon_threadsafe(self._settle_all, outcomes)
            except RuntimeError:  # the loop has ended: nobody is left to be told
                return

    def _batch(self) -> list[Job]:
        """Waits for a job and takes those that wait with it; none when the thread is to end."""
        batch: list[Job] = []
        # Nobody else takes jobs out: a queue that is not empty stays so.
        while not batch or (len(batch) < self._max_batch and not self._queue.empty()):
            job = self._queue.get()
            if job is None:
                if batch:
                    self._queue.put(None)  # for the next time
                break
            batch.append(job)
        return batch

    def _settle_all(self, outcomes: list[tuple[Job, Outcome]]) -> None:
        for job, outcome in outcomes:
            self._settle(job, outcome)

    def _settle(self, job: Job, outcome: Outcome) -> None:
        if job not in self._jobs:
            return
        self._jobs.remove(job)
        try:
            job.done(outcome)
        except Exception:
            log.exception("an answer could not be delivered")  # and the others of its batch can

    # -- in the worker's thread ----------------------------------------------------------------

    def _outcomes(self, batch: list[Job]) -> Iterator[tuple[Job, Outcome]]:
        now = time.perf_counter()
        wanted = []
        for job in batch:
            job.queue_ms = 1e3 * (now - job.arrived)
            if job.expires is not None and now >= job.expires:
                text = f"it waited {job.queue_ms:.0f} ms, longer than it was worth waiting for"
                yield job, PolicyRefused(Reason.DEADLINE, text)
            elif job.abandoned:
                yield job, PolicyRefused(Reason.SHUTTING_DOWN, "nobody waits for it")
            else:
                wanted.append(job)
        if wanted:
            yield from zip(wanted, self._infer(wanted), strict=True)

    def _infer(self, jobs: list[Job]) -> list[Outcome]:
        policy = self._host.policy
        try:
            answers = policy.infer_batch([job.request for job in jobs])
        except Exception as error:
            log.exception("inference of %d requests failed", len(jobs))
            if self._host.roll_back():
                return self._infer(jobs)
            if len(jobs) > 1:
                # So that the one that cannot be computed does not take the others with it.
                return [outcome for job in jobs for outcome in self._infer([job])]
            text = f"inference failed: {type(error).__name__}: {error}"
            return [PolicyRefused(Reason.INTERNAL, text)]
        self._host.proven()
        for job in jobs:
            job.bundle_hash = policy.bundle_hash
        return list(answers)


def _told(job: Job, outcome: Outcome) -> Outcome:
    """`outcome`, of which the job has been told if it is an answer."""
    if isinstance(outcome, Answer):
        try:
            job.computed(outcome)
        except Exception as error:
            log.exception("an answer could not be sent")
            text = f"the answer could not be sent: {type(error).__name__}: {error}"
            return PolicyRefused(Reason.INTERNAL, text)
    return outcome
