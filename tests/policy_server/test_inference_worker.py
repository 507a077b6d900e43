"""What only a slow or failing policy shows: not ready, full queue, failed warm-up."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from tiny_bundle import make_observation

from policy_server.app import create_app
from policy_server.client import PolicyClient, PolicyRefused, PolicyUnavailable, Reason
from policy_server.policy import Policy
from policy_server.worker import InferenceWorker


class GatedPolicy(Policy):
    """The tiny policy, but each inference waits until `gate` is open."""

    gate: threading.Event

    def infer(self, observation, steps=None, seed=None):
        assert self.gate.wait(10)
        return super().infer(observation, steps, seed)


@pytest.fixture
def gated(bundle_directory: Path) -> Iterator[GatedPolicy]:
    policy = GatedPolicy.load(bundle_directory)
    policy.gate = threading.Event()
    yield policy
    policy.gate.set()


@contextmanager
def serving(policy: Policy, capacity: int = 16) -> Iterator[str]:
    """The application on a free port, in a thread; its address without the scheme."""
    app = create_app(policy, token=None, when_warm=lambda error: None, queue_capacity=capacity)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def status(address: str, path: str) -> tuple[int, object]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_not_ready_until_warm(gated: GatedPolicy) -> None:
    with serving(gated) as address:
        assert status(address, "/readyz") == (503, {"ready": False})
        assert status(address, "/healthz") == (200, {"alive": True})
        with pytest.raises(PolicyUnavailable):
            PolicyClient(f"ws://{address}", timeout_s=0.3).infer(make_observation())
        gated.gate.set()
        with PolicyClient(f"ws://{address}") as client:
            client.infer(make_observation())
        assert status(address, "/readyz") == (200, {"ready": True})


def test_full_queue_is_a_reason_and_the_loop_stays_free(gated: GatedPolicy) -> None:
    outcomes: list[object] = []

    def ask(address: str) -> None:
        with PolicyClient(f"ws://{address}") as client:
            try:
                outcomes.append(client.infer(make_observation()))
            except PolicyRefused as refusal:
                outcomes.append(refusal.reason_code)

    gated.gate.set()
    with serving(gated, capacity=2) as address:
        PolicyClient(f"ws://{address}").metadata()  # returns once the policy is warm
        gated.gate.clear()
        threads = [threading.Thread(target=ask, args=(address,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        while len(outcomes) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert outcomes == [Reason.QUEUE_FULL] * 3
        assert status(address, "/healthz") == (200, {"alive": True})
        gated.gate.set()
        for thread in threads:
            thread.join()
    chunks = [outcome for outcome in outcomes if outcome is not Reason.QUEUE_FULL]
    assert len(chunks) == 2
    assert max(answer.server_timing["queue"] for answer in chunks) > 1.0


def test_client_times_out_and_does_not_mix_answers(gated: GatedPolicy) -> None:
    gated.gate.set()
    with serving(gated) as address, PolicyClient(f"ws://{address}", timeout_s=0.4) as client:
        client.infer(make_observation())
        gated.gate.clear()
        with pytest.raises(PolicyUnavailable, match=r"within 0\.4 s"):
            client.infer(make_observation(seed=1), seed=1)
        gated.gate.set()
        client.timeout_s = 10.0
        answer = client.infer(make_observation(seed=2), seed=2)
        expected, _ = gated.infer(make_observation(seed=2), seed=2)
        assert (answer.chunk.poses == expected.poses).all()


def test_failing_inference_is_an_internal_refusal(bundle_directory: Path) -> None:
    class BrokenPolicy(Policy):
        def infer(self, observation, steps=None, seed=None):
            raise MemoryError("no memory left")

    worker = InferenceWorker(BrokenPolicy.load(bundle_directory))
    with pytest.raises(PolicyRefused, match="no memory left") as refusal:
        asyncio.run(worker.infer(make_observation(), {}))
    assert refusal.value.reason_code is Reason.INTERNAL


def test_failed_warm_up_is_reported(bundle_directory: Path) -> None:
    class BrokenPolicy(Policy):
        def infer(self, observation, steps=None, seed=None):
            raise MemoryError("no memory left")

    errors: list[Exception | None] = []

    async def start() -> None:
        app = create_app(BrokenPolicy.load(bundle_directory), token=None, when_warm=errors.append)
        async with app.router.lifespan_context(app):
            for _ in range(200):
                if errors:
                    return
                await asyncio.sleep(0.01)

    asyncio.run(start())
    assert isinstance(errors[0], MemoryError)


def test_refusal_survives_its_text_form() -> None:
    for reason in Reason:
        back = PolicyRefused.from_text(str(PolicyRefused(reason, "why: because")))
        assert (back.reason_code, back.message) == (reason, "why: because")
    assert (
        PolicyRefused.from_text("Traceback (most recent call last)").reason_code is Reason.INTERNAL
    )
