"""One thread that owns the policy, and a bounded queue in front of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from contracts.action import ActionChunk
from contracts.observation import Observation
from policy_server.policy import Policy, check_options
from policy_server.refusal import PolicyRefused, Reason

QUEUE_CAPACITY = 16
"""Requests that may wait or run at once: two for each of eight robots."""

log = logging.getLogger(__name__)


class InferenceWorker:
    """Keeps inference off the event loop; each call gets a result or PolicyRefused, never silence.

    All methods belong to the event loop's thread.
    """

    def __init__(self, policy: Policy, capacity: int = QUEUE_CAPACITY) -> None:
        self._policy = policy
        self._capacity = capacity
        self._admitted = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    async def warm_up(self) -> None:
        """Run the policy until it is as fast as it gets."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._policy.warm_up)

    async def infer(
        self, observation: Observation, options: Mapping[Any, Any]
    ) -> tuple[ActionChunk, dict[str, float]]:
        """`Policy.infer` in its turn; the times [ms] gain the one spent in the `queue`.

        Raises:
            PolicyRefused: the queue is full, or what `Policy.infer` raises.
        """
        if self._admitted >= self._capacity:
            raise PolicyRefused(Reason.QUEUE_FULL, f"{self._admitted} requests wait already")
        self._admitted += 1
        asked = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._run, observation, options, asked
            )
        finally:
            self._admitted -= 1

    def _run(
        self, observation: Observation, options: Mapping[Any, Any], asked: float
    ) -> tuple[ActionChunk, dict[str, float]]:
        queue_ms = 1e3 * (time.perf_counter() - asked)
        try:
            chunk, timings = self._policy.infer(observation, **check_options(options))
        except PolicyRefused:
            raise
        except Exception as error:
            log.exception("inference failed")
            text = f"inference failed: {type(error).__name__}: {error}"
            raise PolicyRefused(Reason.INTERNAL, text) from error
        return chunk, {"queue": queue_ms, **timings}
