"""The server's doors: who may come in, from where, and how often."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from policy_server.refusal import PolicyRefused, Reason

REMEMBERED_CLIENTS = 1024


@dataclass(frozen=True)
class AccessLimits:
    """What one client may ask of the server.

    max_connections: websockets open at once, of all clients together.
    requests_per_second: of one address, in the long run; 0 means any number.
    burst: requests that an address may have saved up.
    """

    max_connections: int = 256
    requests_per_second: float = 500.0
    burst: int = 1000

    def __post_init__(self) -> None:
        if self.max_connections < 1 or self.burst < 1:
            raise ValueError("max_connections and burst must be at least 1")
        if not 0.0 <= self.requests_per_second < float("inf"):
            raise ValueError(f"requests_per_second must be 0 or more: {self.requests_per_second}")


class RateLimit:
    """A bucket of tokens for each client address."""

    def __init__(self, limits: AccessLimits) -> None:
        self._rate, self._burst = limits.requests_per_second, limits.burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, client: str, now: float) -> None:
        """Take one token; `now` [s] is of any clock that only grows.

        Raises:
            PolicyRefused: RATE_LIMITED, when there is none.
        """
        if not self._rate:
            return
        tokens, last = self._buckets.get(client, (float(self._burst), now))
        tokens = min(tokens + (now - last) * self._rate, float(self._burst))
        enough = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if enough else tokens, now)
        self._buckets.move_to_end(client)
        if len(self._buckets) > REMEMBERED_CLIENTS:
            self._buckets.popitem(last=False)
        if not enough:
            raise PolicyRefused(
                Reason.RATE_LIMITED, f"{client} asked more than {self._rate:g} times a second"
            )


class Access:
    """Decides over requests by their headers and address; names of headers are in lower case."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    @property
    def has_token(self) -> bool:
        return self._token is not None

    def check(self, headers: Mapping[str, str]) -> None:
        """Let a client in.

        Raises:
            PolicyRefused: UNAUTHORISED without the token; FORBIDDEN for another site's page in a
                browser, which could otherwise reach a server on loopback.
        """
        self._check_origin(headers)
        if self._token is None:
            return
        # compare_digest takes the same time wherever the two differ.
        if not secrets.compare_digest(_sent_token(headers), self._token.encode()):
            raise PolicyRefused(
                Reason.UNAUTHORISED,
                "send the header 'Authorization: Api-Key <token>' with the server's token",
            )

    def check_change(self, headers: Mapping[str, str], client: str) -> None:
        """Let a client change what is served.

        Raises:
            PolicyRefused: as `check`; FORBIDDEN from another computer when there is no token.
        """
        self.check(headers)
        if self._token is None and not is_loopback(client):
            raise PolicyRefused(
                Reason.FORBIDDEN, "without a token the bundle is changed from this computer only"
            )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise PolicyRefused(Reason.FORBIDDEN, f"pages of {origin[:100]} may not ask")
        # A name that a foreign page's owner lets point here has that owner's origin as its host.
        if self._token is None and origin is not None and not is_loopback(_host_name(host)):
            raise PolicyRefused(Reason.FORBIDDEN, f"pages of {origin[:100]} need a token")


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this computer and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _sent_token(headers: Mapping[str, str]) -> bytes:
    """Token of `Api-Key`, or the password of `Basic`, which is what a browser asks its user for."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "api-key":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
