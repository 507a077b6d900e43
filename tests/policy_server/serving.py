"""The whole server in this process, around a policy of the test's own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from policy_server.access import AccessLimits
from policy_server.policy import Answer, Policy, Request
from policy_server.refusal import PolicyRefused
from policy_server.server import PolicyServer
from policy_server.service import PolicyService, ServiceOptions, nobody

Outcomes = list[Answer | PolicyRefused]


class GatedPolicy(Policy):
    """The tiny policy, but each batch waits until `gate` is open; `batches` counts requests."""

    gate: threading.Event
    batches: list[int]

    @classmethod
    def load(cls, *arguments: Any, **options: Any) -> GatedPolicy:
        policy = super().load(*arguments, **options)
        policy.gate, policy.batches = threading.Event(), []
        return policy

    def infer_batch(self, requests: Sequence[Request]) -> Outcomes:
        self.batches.append(len(requests))
        assert self.gate.wait(60)
        return super().infer_batch(requests)


class ServedPolicy:
    """A server in a thread; `address` is without the scheme."""

    def __init__(
        self,
        policy: Policy,
        load: Callable[[str], Policy],
        drain_s: float,
        when_warm: Callable[[Exception | None], None],
        options: ServiceOptions,
    ) -> None:
        self.service = PolicyService(policy, load, options, when_warm)
        self.server = PolicyServer(self.service, drain_s=drain_s)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url, self.http = f"ws://{self.address}", f"http://{self.address}"
        self._thread = threading.Thread(target=self.server.run, args=([self._listener],))

    def __enter__(self) -> ServedPolicy:
        self._thread.start()
        return self

    def begin_to_stop(self) -> None:
        """As a signal would."""
        self.service.draining = True
        self.server.should_exit = True

    def __exit__(self, *_: object) -> None:
        self.begin_to_stop()
        self._thread.join()
        self._listener.close()


@contextmanager
def serving(
    policy: Policy,
    load: Callable[[str], Policy] | None = None,
    drain_s: float = 1.0,
    when_warm: Callable[[Exception | None], None] = nobody,
    **options: Any,
) -> Iterator[ServedPolicy]:
    """Serve `policy`; `options` are of ServiceOptions."""
    options.setdefault("limits", AccessLimits(requests_per_second=0))
    load = load or (lambda name: policy)
    with ServedPolicy(policy, load, drain_s, when_warm, ServiceOptions(**options)) as server:
        yield server
