"""The policy that serves now, and how another takes its place without a pause."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Set
from contextlib import suppress
from typing import Any

from contracts.bundle import BundleError
from policy_server.policy import Policy
from policy_server.refusal import PolicyRefused, Reason

log = logging.getLogger(__name__)

Loader = Callable[[str], Policy]


class BundleHost:
    """Holds the policy that answers; `policy` may change between two uses of it.

    A new bundle is loaded and warmed up beside the old one, then takes its place. Should its very
    first batch fail, which a full GPU can do even after a good warm-up, the old one comes back.
    """

    def __init__(self, policy: Policy, load: Loader) -> None:
        self.policy = policy
        self.swaps = 0
        self.rollbacks = 0
        self._load = load
        self._loading = threading.Lock()
        self._before: Policy | None = None

    @property
    def instructions(self) -> Set[str]:
        """The texts that the bundle says it knows; empty if it names none: then any goes."""
        return frozenset(self.policy.manifest.provenance.get("instructions", ()))

    @property
    def loading(self) -> bool:
        """Whether a bundle is being loaded."""
        return self._loading.locked()

    def swap(self, name: str) -> tuple[Policy, Policy]:
        """Load the bundle called `name`, warm it up and put it in place; (new, old).

        Takes as long as loading takes; call it from a thread of its own.

        Raises:
            PolicyRefused: BUSY while another is being loaded; BAD_BUNDLE if it cannot be loaded or
                its first inferences fail. What served before serves on.
        """
        if not self._loading.acquire(blocking=False):
            raise PolicyRefused(Reason.BUSY, "another bundle is being loaded; ask again later")
        try:
            new = self._load(name)
            new.warm_up()
        except (BundleError, PolicyRefused) as error:
            raise PolicyRefused(Reason.BAD_BUNDLE, str(error)) from error
        except Exception as error:
            log.exception("a new bundle failed while it was loaded")
            text = f"{name}: warm-up failed ({type(error).__name__}: {error})"
            raise PolicyRefused(Reason.BAD_BUNDLE, text) from error
        finally:
            self._loading.release()
        old = self.policy
        self._before, self.policy = old, new
        self.swaps += 1
        log.info("bundle swapped", extra={"fields": {"bundle": new.bundle_hash, "directory": name}})
        return new, old

    def proven(self) -> None:
        """The policy answered a batch: nothing is kept to go back to."""
        self._before = None

    def roll_back(self) -> bool:
        """Return to the policy before, if the one in place has not answered yet."""
        before, self._before = self._before, None
        if before is None:
            return False
        log.error("the new bundle %s failed: back to the old one", self.policy.bundle_hash)
        self.policy = before
        self.rollbacks += 1
        return True


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` in a thread that nobody waits for when the process ends, unlike an executor's."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.cancelled():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except Exception as caught:
            error = caught
        with suppress(RuntimeError):  # the loop has ended, and with it who asked
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=function.__name__, daemon=True).start()
    return await future
