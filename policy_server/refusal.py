"""Why a request got no action chunk: one type on both ends of the wire."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reason codes; a text frame of the server is `CODE: message`."""

    BAD_MESSAGE = "BAD_MESSAGE"
    """Not a binary frame with valid msgpack, or larger than the wire allows."""
    BAD_OBSERVATION = "BAD_OBSERVATION"
    """A field is missing, has a wrong shape or type, or holds values that make no sense."""
    MISSING_CAMERA = "MISSING_CAMERA"
    """The policy needs a camera that the observation does not have."""
    BAD_OPTION = "BAD_OPTION"
    """An option that the policy does not know, or a value out of its range."""
    QUEUE_FULL = "QUEUE_FULL"
    """Too many requests wait already; ask again later."""
    UNAUTHORISED = "UNAUTHORISED"
    """The token is missing or wrong."""
    INTERNAL = "INTERNAL"
    """The server or the network failed; the server's log has the rest."""


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
