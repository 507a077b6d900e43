"""Which policy a name means, and what is needed to know of it before the first trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from contracts.bundle import BundleError
from policy_server.client import LocalPolicy

SCRIPTED: Final = "scripted"
FILM_SIZE: Final = 128
"""Pixels of a picture where no policy asks for a size."""


@dataclass(frozen=True)
class PolicyChoice:
    """A policy of a run; `bundle` is None for the scripted expert.

    image_size: pixels of the square pictures that the policy takes.
    """

    name: str
    bundle: str | None
    bundle_hash: str | None
    image_size: int


def choose_policies(names: Sequence[str]) -> tuple[PolicyChoice, ...]:
    """Policies by `scripted`, a shipped bundle's name or a bundle's directory; bundles are loaded.

    Raises:
        BundleError: a bundle cannot be used, or the same policy is named twice.
    """
    choices: list[PolicyChoice] = []
    for choice in map(_choose, names):
        if any((c.bundle, c.bundle_hash) == (choice.bundle, choice.bundle_hash) for c in choices):
            raise BundleError(f"the policy {choice.name!r} is given twice")
        if choice.name in [c.name for c in choices]:
            choice = replace(choice, name=f"{choice.name}-{(choice.bundle_hash or '')[:8]}")
        choices.append(choice)
    return tuple(choices)


def _choose(name: str) -> PolicyChoice:
    if name == SCRIPTED:
        return PolicyChoice(SCRIPTED, None, None, FILM_SIZE)
    metadata = _bundle_metadata(name)
    size = int(metadata["cameras"][0]["size"])
    return PolicyChoice(Path(name).resolve().name, name, str(metadata["bundle_hash"]), size)


def _bundle_metadata(bundle: str) -> dict[str, Any]:
    policy = LocalPolicy(bundle)
    try:
        return policy.metadata()
    finally:
        policy.close()
