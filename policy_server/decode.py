"""From a message's bytes to what the policy takes; every way to be wrong has its reason code."""

from __future__ import annotations

from collections.abc import Set

from contracts import wire
from contracts.wire import ActionRequest, WireError
from policy_server.policy import Request
from policy_server.refusal import PolicyRefused, Reason
from policy_server.request_layout import LastLayout

OPTIONS = frozenset({"steps", "seed", "delay"})


def decode(
    data: bytes | memoryview, instructions: Set[str], last: LastLayout | None = None
) -> tuple[Request, float | None]:
    """The request in `data` and its deadline [s], counted from its arrival.

    instructions: the texts that the policy knows; none means that any goes. last: the layout of
    the same client's requests; the pictures of the next one of that layout are views of `data`.

    Raises:
        PolicyRefused: with the reason.
    """
    asked = None if last is None else last.read(memoryview(data))
    if asked is None:
        asked = _parsed(data)
        if last is not None:
            last.of(asked.observation)
    text = asked.observation.instruction
    if instructions and text not in instructions:
        known = f"{min(instructions)!r} is one of the {len(instructions)} that it knows"
        raise PolicyRefused(Reason.UNKNOWN_INSTRUCTION, f"{text!r}; {known}")
    if not asked.options.keys() <= OPTIONS:
        unknown = ", ".join(sorted(str(name) for name in asked.options if name not in OPTIONS))
        known = ", ".join(sorted(OPTIONS))
        raise PolicyRefused(Reason.BAD_OPTION, f"unknown {unknown[:200]}; known: {known}")
    options = dict(asked.options)
    return Request(asked.observation, previous=asked.previous, **options), asked.deadline


def _parsed(data: bytes | memoryview) -> ActionRequest:
    try:
        message = wire.unpack(data)
    except WireError as error:
        raise PolicyRefused(Reason.BAD_MESSAGE, str(error)) from error
    try:
        return wire.request_from_message(message)
    except WireError as error:
        raise PolicyRefused(Reason.BAD_OBSERVATION, str(error)) from error
