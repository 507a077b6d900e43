"""What only a slow or failing policy shows: queue, batches, deadlines, drain, failed warm-up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import PATIENCE_S, fetch
from serving import GatedPolicy, serving
from tiny_bundle import make_observation

from contracts import wire
from policy_server.client import Answer, PolicyClient, PolicyRefused, PolicyUnavailable, Reason
from policy_server.policy import Policy

Outcome = Answer | Reason | None


@pytest.fixture
def gated(bundle_directory: Path) -> Iterator[GatedPolicy]:
    policy = GatedPolicy.load(bundle_directory)
    yield policy
    policy.gate.set()


def status(http: str, path: str) -> tuple[int, object]:
    code, body = fetch(http + path)
    return code, json.loads(body)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Asker:
    """A client in a thread, with one question."""

    def __init__(self, url: str, seed: int = 0, **options: float) -> None:
        self.outcome: Outcome = None
        self._thread = threading.Thread(target=self._ask, args=(url, seed, options))
        self._thread.start()

    def _ask(self, url: str, seed: int, options: dict[str, float]) -> None:
        with PolicyClient(url, timeout_s=PATIENCE_S) as client:
            try:
                self.outcome = client.infer(make_observation(seed), seed=seed, **options)
            except PolicyRefused as refusal:
                self.outcome = refusal.reason_code
            except PolicyUnavailable:
                self.outcome = None

    def answer(self) -> Outcome:
        self._thread.join()
        return self.outcome


def warm(url: str, policy: GatedPolicy) -> None:
    """Let the policy warm up, then close its gate."""
    policy.gate.set()
    with PolicyClient(url, timeout_s=PATIENCE_S) as client:
        client.metadata()  # returns once the policy is warm
    policy.gate.clear()
    policy.batches.clear()


def test_not_ready_until_warm(gated: GatedPolicy) -> None:
    with serving(gated) as server:
        until(lambda: gated.batches != [])
        assert status(server.http, "/readyz") == (503, {"ready": False})
        assert status(server.http, "/healthz") == (200, {"alive": True})
        headers = {"Content-Type": "application/msgpack"}
        code, body = fetch(server.http + "/infer", b"\x80", headers)
        assert (code, json.loads(body)["reason_code"]) == (503, "NOT_READY")
        with pytest.raises(PolicyUnavailable):
            PolicyClient(server.url, timeout_s=0.3).infer(make_observation())
        gated.gate.set()
        with PolicyClient(server.url, timeout_s=PATIENCE_S) as client:
            client.infer(make_observation())
        assert status(server.http, "/readyz") == (200, {"ready": True})


def test_full_queue_is_a_reason_and_the_loop_stays_free(gated: GatedPolicy) -> None:
    with serving(gated, queue_capacity=2) as server:
        warm(server.url, gated)
        askers = [Asker(server.url) for _ in range(5)]
        until(lambda: sum(asker.outcome is Reason.QUEUE_FULL for asker in askers) == 3)
        assert status(server.http, "/healthz") == (200, {"alive": True})
        gated.gate.set()
        answers = [asker.answer() for asker in askers]
        chunks = [answer for answer in answers if isinstance(answer, Answer)]
    assert len(chunks) == 2


def test_what_waits_is_one_batch_and_each_gets_its_own_answer(gated: GatedPolicy) -> None:
    with serving(gated, max_batch=3) as server:
        warm(server.url, gated)
        first = Asker(server.url, seed=0)
        until(lambda: gated.batches == [1])
        askers = [first, *(Asker(server.url, seed=seed) for seed in range(1, 6))]
        until(lambda: server.service.metrics.gauges().queue == 6)
        gated.gate.set()
        answers = [asker.answer() for asker in askers]
    assert gated.batches == [1, 3, 2]
    for seed, answer in enumerate(answers):
        assert isinstance(answer, Answer)
        expected, _ = gated.infer(make_observation(seed), seed=seed)
        assert abs(answer.chunk.poses - expected.poses).max() < 1e-5
        assert answer.chunk.observation_stamp == make_observation(seed).stamp


def test_a_request_past_its_deadline_is_not_computed(gated: GatedPolicy) -> None:
    with serving(gated) as server:
        warm(server.url, gated)
        first = Asker(server.url)
        until(lambda: gated.batches == [1])
        late, patient = Asker(server.url, deadline=0.05), Asker(server.url, deadline=60.0)
        until(lambda: server.service.metrics.gauges().queue == 3)
        time.sleep(0.06)
        gated.gate.set()
        assert late.answer() is Reason.DEADLINE
        assert isinstance(first.answer(), Answer)
        assert isinstance(patient.answer(), Answer)
    assert gated.batches == [1, 1]


def test_nobody_computes_for_a_client_that_hung_up(gated: GatedPolicy) -> None:
    with serving(gated) as server:
        warm(server.url, gated)
        first = Asker(server.url)
        until(lambda: gated.batches == [1])
        with pytest.raises(PolicyUnavailable), PolicyClient(server.url, timeout_s=0.3) as client:
            client.metadata()
            client.infer(make_observation(), deadline=60.0)
        until(lambda: server.service.connections == 1)
        gated.gate.set()
        assert isinstance(first.answer(), Answer)
        until(lambda: server.service.metrics.gauges().queue == 0)
    assert gated.batches == [1]


def test_client_times_out_and_does_not_mix_answers(gated: GatedPolicy) -> None:
    with serving(gated) as server, PolicyClient(server.url, timeout_s=PATIENCE_S) as client:
        warm(server.url, gated)
        gated.gate.set()
        client.infer(make_observation())
        gated.gate.clear()
        client.timeout_s = 0.4
        with pytest.raises(PolicyUnavailable, match=r"within 0\.4 s"):
            client.infer(make_observation(seed=1), seed=1)
        gated.gate.set()
        client.timeout_s = PATIENCE_S
        answer = client.infer(make_observation(seed=2), seed=2)
        expected, _ = gated.infer(make_observation(seed=2), seed=2)
        assert (answer.chunk.poses == expected.poses).all()


class PoisonedPolicy(GatedPolicy):
    """Cannot compute what has seed 13."""

    def infer_batch(self, requests):
        outcomes = super().infer_batch(requests)
        if any(request.seed == 13 for request in requests):
            raise MemoryError("no memory left")
        return outcomes


def test_one_request_that_fails_does_not_take_its_batch_with_it(bundle_directory: Path) -> None:
    policy = PoisonedPolicy.load(bundle_directory)
    with serving(policy) as server:
        warm(server.url, policy)
        first = Asker(server.url)
        until(lambda: policy.batches == [1])
        bad, good = Asker(server.url, seed=13), Asker(server.url, seed=2)
        until(lambda: server.service.metrics.gauges().queue == 3)
        policy.gate.set()
        assert isinstance(first.answer(), Answer)
        assert bad.answer() is Reason.INTERNAL
        assert isinstance(good.answer(), Answer)
    assert policy.batches == [1, 2, 1, 1]


def test_the_end_answers_what_waits_and_refuses_what_comes(gated: GatedPolicy) -> None:
    with serving(gated, drain_s=PATIENCE_S) as server:
        warm(server.url, gated)
        running = Asker(server.url)
        until(lambda: gated.batches == [1])
        waiting = Asker(server.url)
        with PolicyClient(server.url, timeout_s=PATIENCE_S) as late:
            late.metadata()
            until(lambda: server.service.metrics.gauges().queue == 2)
            server.begin_to_stop()
            late.timeout_s = 0.5
            with pytest.raises(PolicyUnavailable, match="SHUTTING_DOWN"):
                late.infer(make_observation())
        assert status(server.http, "/readyz") == (503, {"ready": False})
        gated.gate.set()
        assert isinstance(running.answer(), Answer)
        assert isinstance(waiting.answer(), Answer)


def test_the_end_is_bounded_and_still_leaves_nobody_without_a_reason(gated: GatedPolicy) -> None:
    with serving(gated, drain_s=0.1) as server:
        warm(server.url, gated)
        headers = {"Content-Type": "application/msgpack"}
        body = wire.pack(wire.observation_to_message(make_observation()))
        replies: list[tuple[int, bytes]] = []
        thread = threading.Thread(
            target=lambda: replies.append(fetch(server.http + "/infer", body, headers))
        )
        thread.start()
        until(lambda: gated.batches == [1])
        server.begin_to_stop()
        thread.join()
        assert replies[0][0] == 503
        assert json.loads(replies[0][1])["reason_code"] == "SHUTTING_DOWN"


def test_failed_warm_up_is_reported(bundle_directory: Path) -> None:
    class BrokenPolicy(Policy):
        def infer_batch(self, requests):
            raise MemoryError("no memory left")

    errors: list[Exception | None] = []
    with serving(BrokenPolicy.load(bundle_directory), when_warm=errors.append) as server:
        until(lambda: errors != [])
        assert not server.service.ready
    assert isinstance(errors[0], MemoryError)


def test_refusal_survives_its_text_form() -> None:
    for reason in Reason:
        back = PolicyRefused.from_text(str(PolicyRefused(reason, "why: because")))
        assert (back.reason_code, back.message) == (reason, "why: because")
    assert (
        PolicyRefused.from_text("Traceback (most recent call last)").reason_code is Reason.INTERNAL
    )
