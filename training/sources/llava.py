"""LLaVA's conversation records, the base of several layouts: `image`, and `conversations` of turns
`{"from": "human" | "gpt", "value": ...}` with `<image>` where a picture goes (LLaVA repository,
docs/Finetune_Custom_Data.md)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

_PLACEHOLDER = re.compile(r"<(?:image|depth|video)(?: [\d-]+)?>\s*")
_ASKS: Final = ("human", "user")
_ANSWERS: Final = ("gpt", "assistant")


def pairs(conversations: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Questions without their picture placeholders, and answers.

    Raises:
        ValueError: the turns do not alternate, or there are none.
    """
    if not conversations or len(conversations) % 2:
        raise ValueError(f"{len(conversations)} turns are no questions with answers")
    found = []
    for ask, answer in zip(conversations[::2], conversations[1::2], strict=True):
        if ask["from"] not in _ASKS or answer["from"] not in _ANSWERS:
            raise ValueError(f"turns of {ask['from']!r} and {answer['from']!r}")
        found.append((_PLACEHOLDER.sub("", ask["value"]).strip(), answer["value"].strip()))
    return found


def first_pair(record: Mapping[str, Any]) -> tuple[str, str]:
    """The first question: later ones may lean on what was said before."""
    return pairs(record["conversations"])[0]


def any_pair(name: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """One question of a record whose questions stand alone, chosen by the sample's name."""
    found = pairs(record["conversations"])
    return found[zlib.crc32(name.encode()) % len(found)]


def picture_names(record: Mapping[str, Any]) -> list[str]:
    """File names of the record's pictures; `image` is one name or a list of them."""
    image = record["image"]
    return [image] if isinstance(image, str) else list(image)
