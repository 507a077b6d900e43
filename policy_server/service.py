"""What stands behind both doors, websocket and HTTP: a message comes in, a reply goes out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts import wire
from policy_server.access import Access, AccessLimits, RateLimit
from policy_server.answer_layout import LastAnswerLayout, ServedChunk
from policy_server.bundle_host import BundleHost, Loader, in_thread
from policy_server.decode import decode
from policy_server.metrics import Gauges, ServerMetrics
from policy_server.policy import Answer, Policy
from policy_server.refusal import PolicyRefused, Reason
from policy_server.request_layout import LastLayout
from policy_server.worker import MAX_BATCH, QUEUE_CAPACITY, InferenceWorker, Job, Outcome

log = logging.getLogger(__name__)
requests_log = logging.getLogger("policy_server.requests")

Reply = bytes | PolicyRefused
SENT = b""
"""The reply that has been sent already."""
STOPPING = PolicyRefused(Reason.SHUTTING_DOWN, "the server was told to stop; connect again")


@dataclass(frozen=True)
class ServiceOptions:
    """How requests are taken in."""

    token: str | None = None
    queue_capacity: int = QUEUE_CAPACITY
    max_batch: int = MAX_BATCH
    limits: AccessLimits = field(default_factory=AccessLimits)
    log_requests: bool = False


def nobody(_: Exception | None) -> None:
    """For `when_warm`, when nobody wants to know."""


class PolicyService:
    """One policy for many clients. All methods belong to the event loop's thread."""

    def __init__(
        self,
        policy: Policy,
        load: Loader,
        options: ServiceOptions,
        when_warm: Callable[[Exception | None], None] = nobody,
        log_lines_dropped: Callable[[], int] = int,
    ) -> None:
        """`when_warm` is told once the first inferences have run, with the error if they failed."""
        self.options = options
        self.access = Access(options.token)
        self.host = BundleHost(policy, load)
        self.metrics = ServerMetrics(self._gauges)
        self.ready = False
        self.draining = False
        self.connections = 0
        self._worker = InferenceWorker(self.host, options.queue_capacity, options.max_batch)
        self._rate = RateLimit(options.limits)
        self._answers = LastAnswerLayout()
        self._when_warm = when_warm
        self._waiting_for_ready: list[Callable[[], None]] = []
        self._log_lines_dropped = log_lines_dropped

    # -- life ----------------------------------------------------------------------------------

    async def warm_up(self) -> None:
        """Run the policy until it is as fast as it gets, then take requests."""
        self._worker.start()
        try:
            await in_thread(self.host.policy.warm_up)
        except Exception as error:
            self._when_warm(error)
            return
        self.ready = True
        for call in self._waiting_for_ready:
            call()
        self._waiting_for_ready.clear()
        self._when_warm(None)

    def call_when_ready(self, call: Callable[[], None]) -> None:
        """Call at once if the policy is warm, else as soon as it is."""
        if self.ready:
            call()
        else:
            self._waiting_for_ready.append(call)

    async def drain(self, bound_s: float) -> None:
        """Take no more requests and answer those that are there, at the latest in `bound_s`."""
        self.draining = True
        deadline = time.monotonic() + bound_s
        while self._worker.unanswered and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        self._worker.refuse_all(STOPPING)
        self._worker.stop()

    def quiet(self) -> bool:
        """Whether, after `drain`, no thread is within an inference or loads a bundle."""
        return self._worker.ended() and not self.host.loading

    # -- requests ------------------------------------------------------------------------------

    def metadata(self) -> bytes:
        """The server's first message on a websocket."""
        return wire.pack(self.host.policy.metadata())

    def submit(
        self,
        data: bytes | memoryview | str,
        client: str,
        reply: Callable[[Reply], None],
        send_now: Callable[[bytes], bool] | None = None,
        last: LastLayout | None = None,
    ) -> Job | None:
        """Take in one request; `reply` is called once, at once if it is refused.

        client: the address that the rate limit counts for. send_now: may be called from the
        worker's thread with the answer, to send it without a detour through the event loop; True if
        it could, and then `reply` is told SENT. last: the layout of this client's requests, with
        which `data` must stay as it is until `reply`. The job is None after a refusal; mark it
        `abandoned` if nobody waits for it any more.
        """
        arrived = time.perf_counter()
        try:
            if isinstance(data, str):
                raise PolicyRefused(Reason.BAD_MESSAGE, "expected a binary message, got text")
            self._admit(client, arrived)
            request, deadline = decode(data, self.host.instructions, last)
        except PolicyRefused as refusal:
            reply(refusal)
            self._note_refusal(refusal, client)
            return None
        expires = None if deadline is None else arrived + deadline

        payload: Reply | None = None

        def computed(answer: Answer) -> None:
            nonlocal payload
            payload = self._encoded(job, answer)
            if send_now is not None and not job.abandoned and send_now(payload):
                payload = SENT

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, PolicyRefused):
                reply(outcome)
                self._note_refusal(outcome, client)
            else:
                reply(self._encoded(job, outcome) if payload is None else payload)
                self._note_answer(job, outcome, client)

        job = Job(request, arrived, expires, computed, done)
        self._worker.submit(job)
        return job

    def _admit(self, client: str, now: float) -> None:
        if self.draining:
            raise STOPPING
        if not self.ready:
            raise PolicyRefused(Reason.NOT_READY, "the policy still warms up; ask again later")
        self._rate.check(client, now)
        self._worker.check_room()

    def _encoded(self, job: Job, answer: Answer) -> bytes:
        timing = {"queue": job.queue_ms, **answer.timings}
        return self._answers.write(ServedChunk(answer.chunk, timing, job.bundle_hash))

    def _note_answer(self, job: Job, answer: Answer, client: str) -> None:
        times = {"queue": job.queue_ms, **answer.timings}
        times["total"] = 1e3 * (time.perf_counter() - job.arrived)
        self.metrics.answered(time.time(), times)
        if self.options.log_requests:
            rounded = {stage: round(value, 3) for stage, value in times.items()}
            self._log_request(client, {"chunk": answer.chunk.chunk_id, "ms": rounded})

    def _note_refusal(self, refusal: PolicyRefused, client: str) -> None:
        self.metrics.refused(refusal.reason_code)
        if self.options.log_requests:
            self._log_request(
                client, {"reason": str(refusal.reason_code), "text": refusal.message[:500]}
            )

    def _log_request(self, client: str, fields: dict[str, object]) -> None:
        requests_log.info("request", extra={"fields": {"client": client, **fields}})

    def _gauges(self) -> Gauges:
        return Gauges(
            ready=self.ready,
            draining=self.draining,
            queue=self._worker.unanswered,
            connections=self.connections,
            swaps=self.host.swaps,
            rollbacks=self.host.rollbacks,
            log_lines_dropped=self._log_lines_dropped(),
            policy=self.host.policy.manifest.name,
            bundle_hash=self.host.policy.bundle_hash,
        )
