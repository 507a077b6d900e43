"""Which policy is A and which is B: drawn by lot, sealed until scoring ends, and then provable.

Whoever scores sees labels. The key is kept beside the plan in a form that nobody reads by accident,
and the plan holds a commitment to it (a salted hash), so that it cannot be changed afterwards.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

from evaluation.plan import PlanError, RunConfig
from evaluation.policies import PolicyChoice

SEALED_KEY: Final = "key.sealed"
OPEN_KEY: Final = "key.json"
SALT_BYTES: Final = 16
SEALED: Final = "sealed"


@dataclass(frozen=True)
class BlindingKey:
    """Policy name of each label, and the salt without which the commitment could be guessed."""

    labels: Mapping[str, str]
    salt: str

    @classmethod
    def draw(cls, config: RunConfig) -> BlindingKey:
        """Labels by lot, from the system's entropy: nothing in the plan gives them away.

        Raises:
            PlanError: more policies than letters.
        """
        names = [policy.name for policy in config.policies]
        if len(names) > len(ascii_uppercase):
            raise PlanError(f"at most {len(ascii_uppercase)} policies can be compared blind")
        secrets.SystemRandom().shuffle(names)
        labels = dict(zip(ascii_uppercase, names, strict=False))
        return cls(labels, secrets.token_hex(SALT_BYTES))

    @property
    def commitment(self) -> str:
        """SHA-256 (hex) over salt and labels; given in the plan before the first trial."""
        content = json.dumps({"labels": dict(self.labels), "salt": self.salt}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return {"labels": dict(self.labels), "salt": self.salt}

    def blind(self, config: RunConfig) -> RunConfig:
        """The same run with its policies under their labels, in the order of the labels."""
        by_name = {policy.name: policy for policy in config.policies}
        policies = (replace(by_name[name], name=label) for label, name in self.labels.items())
        return replace(config, policies=tuple(policies))


def masked(config: RunConfig) -> RunConfig:
    """A blinded run without what would tell its policies apart, for summaries and pages."""
    policies = (PolicyChoice(p.name, SEALED, SEALED, 0) for p in config.policies)
    return replace(config, policies=tuple(policies))


def save_sealed(key: BlindingKey, directory: Path) -> None:
    """Write the sealed key, for its owner alone."""
    content = base64.b64encode(json.dumps(key.as_json()).encode())
    path = directory / SEALED_KEY
    temporary = path.with_name(path.name + ".part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"Sealed until scoring ends. base64:\n" + content + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_sealed(directory: Path, commitment: str) -> BlindingKey:
    """The key of a plan.

    Raises:
        PlanError: it is missing, damaged, or not the one that the plan commits to.
    """
    path = directory / SEALED_KEY
    try:
        content = json.loads(base64.b64decode(path.read_bytes().splitlines()[1], validate=True))
        key = BlindingKey(dict(content["labels"]), str(content["salt"]))
    except FileNotFoundError as error:
        raise PlanError(
            f"{path} is missing: without it nobody can say which policy is which"
        ) from (error)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise PlanError(f"{path} is damaged; restore it, or choose another --out") from error
    if key.commitment != commitment:
        raise PlanError(f"{path} is not the key that the plan commits to; restore it")
    return key
