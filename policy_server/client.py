"""The client of the policy server: numpy, msgpack and websockets, nothing else.

`LocalPolicy` answers the same calls in process, for evaluation without sockets; only that one needs
the server's own dependencies, when it is asked for the first chunk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from contracts import wire
from contracts.action import ActionChunk
from contracts.observation import Observation
from contracts.wire import WireError
from policy_server.refusal import PolicyRefused, Reason

if TYPE_CHECKING:
    from policy_server.policy import Policy

__all__ = ["Answer", "LocalPolicy", "PolicyClient", "PolicyRefused", "PolicyUnavailable", "Reason"]

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
CLOSE_TIMEOUT_S = 0.5


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
        self, url: str = "ws://127.0.0.1:8000", token: str | None = None, timeout_s: float = 10.0
    ) -> None:
        """`timeout_s` bounds each call, reconnection included; `token` is the server's."""
        if timeout_s <= 0.0:
            raise ValueError(f"timeout must be positive, got {timeout_s} s")
        try:
            parse_uri(url)
        except InvalidURI as error:
            raise ValueError(str(error)) from error
        self.url = url
        self.timeout_s = timeout_s
        self._headers = {} if token is None else {"Authorization": f"Api-Key {token}"}
        self._connection: ClientConnection | None = None
        self._metadata: dict[str, Any] = {}

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

    def infer(self, observation: Observation, **options: int) -> Answer:
        """Chunk for `observation`; options are `steps` and `seed`.

        A request that is lost with the connection is sent again on the next one.

        Raises:
            PolicyRefused: the server answered with a reason instead of a chunk.
            PolicyUnavailable: no answer within the time limit.
        """
        started = time.perf_counter()
        request = wire.pack(wire.observation_to_message(observation, options))
        if len(request) > wire.MAX_MESSAGE_BYTES:
            text = f"{len(request)} bytes, at most {wire.MAX_MESSAGE_BYTES} are accepted"
            raise PolicyRefused(Reason.BAD_MESSAGE, text)
        chunk, timing = _read_reply(self._exchange(request))
        return Answer(chunk, timing, 1e3 * (time.perf_counter() - started))

    def close(self) -> None:
        """Hang up; the next call connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, request: bytes | None) -> str | bytes:
        """The reply to `request`; without one, only sees to it that there is a connection."""
        deadline = time.monotonic() + self.timeout_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                connection = self._connected(deadline)
                if request is None:
                    return b""
                connection.send(request)
                return connection.recv(timeout=_remaining(deadline))
            except (OSError, WebSocketException) as error:
                self.close()
                if time.monotonic() + pause >= deadline:
                    text = f"no answer from {self.url} within {self.timeout_s} s"
                    raise PolicyUnavailable(f"{text} ({error or type(error).__name__})") from error
            except BaseException:
                # A reply that comes later must not be taken for the next request's.
                self.close()
                raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _connected(self, deadline: float) -> ClientConnection:
        if self._connection is not None:
            return self._connection
        try:
            opening = connect(
                self.url,
                additional_headers=self._headers,
                compression=None,
                max_size=wire.MAX_MESSAGE_BYTES,
                open_timeout=_remaining(deadline),
                close_timeout=CLOSE_TIMEOUT_S,
                proxy=None,
            )
            # websockets wants `with`, but this connection outlives the call; `close` ends it.
            self._connection = opening.__enter__()
        except InvalidStatus as error:
            if error.response.status_code == HTTPStatus.UNAUTHORIZED:
                raise PolicyRefused.from_text(
                    error.response.body.decode(errors="replace")
                ) from error
            raise
        # The server says who it is as soon as it is warm.
        self._metadata = _read_metadata(
            self._connection.recv(timeout=_remaining(deadline)), self.url
        )
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

    def infer(self, observation: Observation, **options: int) -> Answer:
        """Chunk for `observation`; options are `steps` and `seed`.

        Raises:
            BundleError: the bundle cannot be used.
            PolicyRefused: the policy cannot use the observation or an option.
        """
        policy = self._policy
        started = time.perf_counter()
        chunk, timings = policy.infer(observation, **options)
        return Answer(chunk, timings, 1e3 * (time.perf_counter() - started))

    def close(self) -> None:
        """Forget the loaded bundle."""
        self.__dict__.pop("_policy", None)


def _remaining(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _read_metadata(message: str | bytes, url: str) -> dict[str, Any]:
    try:
        metadata = wire.unpack(message) if isinstance(message, bytes) else None
    except WireError as error:
        raise PolicyUnavailable(f"{url} is not a policy server: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("protocol_version") != wire.PROTOCOL_VERSION:
        raise PolicyUnavailable(
            f"{url} does not speak version {wire.PROTOCOL_VERSION} of the protocol"
        )
    return metadata


def _read_reply(reply: str | bytes) -> tuple[ActionChunk, dict[str, float]]:
    if isinstance(reply, str):
        raise PolicyRefused.from_text(reply)
    try:
        message = wire.unpack(reply)
        return wire.chunk_from_message(message), message.get("server_timing", {})
    except WireError as error:
        raise PolicyUnavailable(f"the server's answer is not valid: {error}") from error
