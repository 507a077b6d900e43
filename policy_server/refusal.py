"""Why a request got no action chunk: one type on both ends of the wire."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Reason codes, a closed list; `MEANINGS` says what each means and what to do."""

    BAD_MESSAGE = "BAD_MESSAGE"
    BAD_OBSERVATION = "BAD_OBSERVATION"
    UNKNOWN_INSTRUCTION = "UNKNOWN_INSTRUCTION"
    MISSING_CAMERA = "MISSING_CAMERA"
    BAD_OPTION = "BAD_OPTION"
    DEADLINE = "DEADLINE"
    QUEUE_FULL = "QUEUE_FULL"
    RATE_LIMITED = "RATE_LIMITED"
    TOO_MANY_CONNECTIONS = "TOO_MANY_CONNECTIONS"
    NOT_READY = "NOT_READY"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    UNAUTHORISED = "UNAUTHORISED"
    FORBIDDEN = "FORBIDDEN"
    BAD_BUNDLE = "BAD_BUNDLE"
    BUSY = "BUSY"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True)
class Meaning:
    """One row of the table of reason codes.

    http_status: of the typed HTTP routes. passing: the same request may well succeed a moment
    later or on a new connection; otherwise the request itself, or the server, must change.
    """

    http_status: int
    text: str
    passing: bool = False


MEANINGS: dict[Reason, Meaning] = {
    Reason.BAD_MESSAGE: Meaning(
        400, "not one valid msgpack message, or larger than the wire allows"
    ),
    Reason.BAD_OBSERVATION: Meaning(
        422, "a field is missing, has a wrong shape or type, or holds values that make no sense"
    ),
    Reason.UNKNOWN_INSTRUCTION: Meaning(
        422, "the bundle names the instructions it knows, and this is none of them"
    ),
    Reason.MISSING_CAMERA: Meaning(422, "the policy needs a camera that the observation lacks"),
    Reason.BAD_OPTION: Meaning(422, "an option that the policy does not know, or out of its range"),
    Reason.DEADLINE: Meaning(504, "the request's own deadline passed before its turn came"),
    Reason.QUEUE_FULL: Meaning(503, "too many requests wait already", passing=True),
    Reason.RATE_LIMITED: Meaning(429, "this client asks too often", passing=True),
    Reason.TOO_MANY_CONNECTIONS: Meaning(503, "too many clients are connected", passing=True),
    Reason.NOT_READY: Meaning(503, "the policy still warms up", passing=True),
    Reason.SHUTTING_DOWN: Meaning(503, "the server was told to stop", passing=True),
    Reason.UNAUTHORISED: Meaning(401, "the token is missing or wrong"),
    Reason.FORBIDDEN: Meaning(403, "not from there: another origin, or not this computer"),
    Reason.BAD_BUNDLE: Meaning(422, "the bundle cannot be used; the one before goes on serving"),
    Reason.BUSY: Meaning(409, "another bundle is being loaded", passing=True),
    Reason.INTERNAL: Meaning(500, "the server or the network failed; its log has the rest"),
}


class PolicyRefused(Exception):
    """The policy answers this request with a reason, not with a chunk."""

    def __init__(self, reason_code: Reason, message: str) -> None:
        super().__init__(f"{reason_code}: {message}")
        self.reason_code = reason_code
        self.message = message

    @classmethod
    def from_text(cls, text: str) -> PolicyRefused:
        """Inverse of `str`; text that is not `CODE: message` becomes INTERNAL."""
        code, separator, message = text.partition(": ")
        if separator and code in Reason.__members__:
            return cls(Reason(code), message)
        return cls(Reason.INTERNAL, text)
