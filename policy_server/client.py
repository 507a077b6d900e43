"""The client of the policy server: numpy, msgpack and websockets, nothing else.

`LocalPolicy` answers the same calls in process, for evaluation without sockets; only that one needs
the server's own dependencies, when it is asked for the first chunk.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.uri import parse_uri

from contracts import wire
from contracts.action import ActionChunk
from contracts.observation import Observation
from contracts.wire import ActionRequest, WireError
from policy_server.answer_layout import LastAnswerLayout
from policy_server.connection import BlockingWebSocket
from policy_server.refusal import PolicyRefused, Reason
from policy_server.request_layout import LastLayout, Part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from policy_server.policy import Policy

__all__ = ["Answer", "LocalPolicy", "PolicyClient", "PolicyRefused", "PolicyUnavailable", "Reason"]

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
COME_BACK = frozenset({Reason.SHUTTING_DOWN, Reason.TOO_MANY_CONNECTIONS})
"""Reasons to hang up and connect again, as if the server were not there."""


class PolicyUnavailable(Exception):
    """No answer in time: the server is not there, not ready, or too slow."""


@dataclass(frozen=True)
class Answer:
    """What came back for one observation.

    server_timing: milliseconds of each stage on the server; round_trip_ms: as the caller saw it.
    """

    chunk: ActionChunk
    server_timing: Mapping[str, float]
    round_trip_ms: float


class PolicyClient:
    """Asks a policy server for action chunks, and finds it again when it was away.

    For one thread at a time. Connects when it is first needed.
    """

    def __init__(
        self,
        url: str = "ws://127.0.0.1:8000",
        token: str | None = None,
        timeout_s: float = 10.0,
        certificate: Path | None = None,
    ) -> None:
        """
        url: of the server, with wss where it has a certificate. token: the server's.
        timeout_s: bounds each call, reconnection included.
        certificate: in PEM, of a server (or an authority) that this computer does not know.

        Raises:
            ValueError: a bad URL or time.
            OSError: the certificate cannot be read.
        """
        if timeout_s <= 0.0:
            raise ValueError(f"timeout must be positive, got {timeout_s} s")
        try:
            parse_uri(url)
        except InvalidURI as error:
            raise ValueError(str(error)) from error
        self.url = url
        self.timeout_s = timeout_s
        self._headers = {} if token is None else {"Authorization": f"Api-Key {token}"}
        self._trust = certificate and ssl.create_default_context(cafile=certificate)
        self._connection: BlockingWebSocket | None = None
        self._metadata: dict[str, Any] = {}
        self._encoder = wire.Encoder()
        self._last = LastLayout()
        self._answers = LastAnswerLayout()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def metadata(self) -> dict[str, Any]:
        """What the server says about its policy: cameras with their sizes, horizon, time step, ...

        Raises:
            PolicyUnavailable, PolicyRefused: as `infer`.
        """
        self._exchange(None)
        return self._metadata

    def infer(
        self,
        observation: Observation,
        *,
        previous: ActionChunk | None = None,
        deadline: float | None = None,
        **options: int,
    ) -> Answer:
        """Chunk for `observation`; options are `steps`, `seed` and `delay`.

        previous: the chunk under execution, which the new one goes on from; `delay` is how many
        steps of the new one will be past when it arrives. deadline: seconds that the request may
        wait on the server, by default as long as this call may take.
        A request that is lost with the connection is sent again on the next one.

        Raises:
            PolicyRefused: the server answered with a reason instead of a chunk.
            PolicyUnavailable: no answer within the time limit.
        """
        started = time.perf_counter()
        deadline = min(self.timeout_s, wire.MAX_DEADLINE_S) if deadline is None else deadline
        asked = ActionRequest(observation, options, previous, deadline)
        layout = self._last.of(observation)
        if layout is not None:
            request = layout.write(asked)
        else:
            request = [self._encoder.encode(wire.request_to_message(asked))]
        size = sum(map(len, request))
        if size > wire.MAX_MESSAGE_BYTES:
            text = f"{size} bytes, at most {wire.MAX_MESSAGE_BYTES} are accepted"
            raise PolicyRefused(Reason.BAD_MESSAGE, text)
        reply = self._exchange(request)
        try:
            served = self._answers.read(reply)
        except WireError as error:
            raise PolicyUnavailable(f"the server's answer is not valid: {error}") from error
        known = self._metadata.get("bundle_hash")
        if known is not None and served.bundle_hash not in ("", known):
            # Another bundle serves now: its metadata comes with the next connection.
            self.close()
        return Answer(served.chunk, served.timing, 1e3 * (time.perf_counter() - started))

    def close(self) -> None:
        """Hang up; the next call connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, request: Sequence[Part] | None) -> bytes | memoryview:
        """The reply to `request`; without one, only sees to it that there is a connection."""
        deadline = time.monotonic() + self.timeout_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                connection = self._connected(deadline)
                if request is None:
                    return b""
                connection.send(request, deadline)
                return _binary(connection.receive(deadline))
            except (OSError, WebSocketException, PolicyRefused) as error:
                if isinstance(error, PolicyRefused) and error.reason_code not in COME_BACK:
                    raise
                self.close()
                # Robots that lost one server should not come back to it all at one moment.
                wait = pause * random.uniform(0.5, 1.0)
                if time.monotonic() + wait >= deadline:
                    text = f"no answer from {self.url} within {self.timeout_s} s"
                    raise PolicyUnavailable(f"{text} ({error or type(error).__name__})") from error
            except BaseException:
                # A reply that comes later must not be taken for the next request's.
                self.close()
                raise
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _connected(self, deadline: float) -> BlockingWebSocket:
        if self._connection is None:
            try:
                connection = BlockingWebSocket(
                    self.url, self._headers, deadline, wire.MAX_MESSAGE_BYTES, self._trust
                )
            except InvalidStatus as error:
                raise _refusal(error) from error
            try:
                # The server says who it is as soon as it is warm.
                self._metadata = _read_metadata(connection.receive(deadline), self.url)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


class LocalPolicy:
    """The same calls as PolicyClient, answered in this process; the first one loads the bundle."""

    def __init__(self, bundle: str = "shipped", threads: int = 1) -> None:
        """`bundle` is a shipped bundle's name or a directory; `threads` serve one inference."""
        self.bundle = bundle
        self.threads = threads

    @cached_property
    def _policy(self) -> Policy:
        from policy_server.bundles import find_bundle
        from policy_server.policy import Policy

        policy = Policy.load(find_bundle(self.bundle), self.threads)
        policy.warm_up()
        return policy

    def metadata(self) -> dict[str, Any]:
        """As PolicyClient.metadata.

        Raises:
            BundleError: the bundle cannot be used.
        """
        return self._policy.metadata()

    def infer(
        self, observation: Observation, *, previous: ActionChunk | None = None, **options: int
    ) -> Answer:
        """As PolicyClient.infer; nothing waits here, so there is no deadline.

        Raises:
            BundleError: the bundle cannot be used.
            PolicyRefused: the policy cannot use the observation or an option.
        """
        policy = self._policy
        started = time.perf_counter()
        chunk, timings = policy.infer(observation, previous=previous, **options)
        return Answer(chunk, timings, 1e3 * (time.perf_counter() - started))

    def hidden_states(self, observation: Observation) -> NDArray[np.float32]:
        """Hidden states (L, hidden size) of the backbone's layer k for `observation`'s prompt.

        Raises:
            BundleError: the bundle cannot be used.
            PolicyRefused: the policy cannot use the observation.
        """
        return self._policy.hidden_states(observation)

    def close(self) -> None:
        """Forget the loaded bundle."""
        self.__dict__.pop("_policy", None)


def _binary(reply: str | bytes | memoryview) -> bytes | memoryview:
    if isinstance(reply, str):
        raise PolicyRefused.from_text(reply)
    return reply


def _refusal(error: InvalidStatus) -> PolicyRefused | WebSocketException:
    """The reason that came instead of a websocket, if it was this server that gave one."""
    refusal = PolicyRefused.from_text(error.response.body.decode(errors="replace"))
    return error if refusal.reason_code is Reason.INTERNAL else refusal


def _read_metadata(message: str | bytes | memoryview, url: str) -> dict[str, Any]:
    try:
        metadata = None if isinstance(message, str) else wire.unpack(message)
    except WireError as error:
        raise PolicyUnavailable(f"{url} is not a policy server: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("protocol_version") != wire.PROTOCOL_VERSION:
        raise PolicyUnavailable(
            f"{url} does not speak version {wire.PROTOCOL_VERSION} of the protocol"
        )
    return metadata
