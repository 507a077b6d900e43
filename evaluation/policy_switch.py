"""Which policy the robot's policy server serves, changed between trials without a word about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from evaluation.plan import PlanError
from evaluation.policies import PolicyChoice

TIMEOUT_S: Final = 120.0
"""A bundle of several gigabytes takes a while to load and to warm up."""


class PolicySwitch:
    """Puts a blinded policy behind the running policy server (its `POST /bundle`)."""

    def __init__(self, url: str, policies: Mapping[str, PolicyChoice]) -> None:
        """`policies` by label; `url` as http://127.0.0.1:8000.

        Raises:
            PlanError: not such an address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PlanError(f"--policy-server must be like http://127.0.0.1:8000, got {url!r}")
        self._url = url.rstrip("/") + "/bundle"
        self._policies = policies
        self._serving: str | None = None

    def serve(self, label: str) -> None:
        """Let the server serve this policy from now on.

        Raises:
            PlanError: it did not; the text names the label only, for the run is blind.
        """
        if label == self._serving:
            return
        choice = self._policies[label]
        bundle = str(choice.bundle)
        where = str(Path(bundle).resolve()) if Path(bundle).is_dir() else bundle
        body = json.dumps({"bundle": where}).encode()
        request = Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:
                served = json.loads(answer.read())["bundle_hash"]
        except HTTPError as error:
            raise PlanError(f"the policy server refused policy {label} ({error.code})") from None
        except (URLError, OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "reason", type(error).__name__)
            raise PlanError(f"no policy server answers at {self._url} ({reason})") from error
        if served != choice.bundle_hash:
            raise PlanError(f"the bundle of policy {label} was changed since the plan was made")
        self._serving = label
