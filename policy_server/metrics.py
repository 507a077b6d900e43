"""What the server counts and times, for Prometheus and for the status page.

Recording is a few additions in plain Python; Prometheus' own objects are made when it asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

STAGES = ("queue", "preprocess", "backbone", "head", "encode", "total")
"""Where a request's time on the server goes; `total` is from its last byte to its answer."""
BUCKETS_MS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0, 1e3)
REMEMBERED = 1200
"""Answers on the status page: a minute at 20 requests a second."""
OK = "OK"


class Latency:
    """Histogram of times [ms]."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_MS) + 1)
        self.sum = 0.0

    def add(self, milliseconds: float) -> None:
        self.counts[bisect_left(BUCKETS_MS, milliseconds)] += 1
        self.sum += milliseconds


@dataclass(frozen=True)
class Gauges:
    """The server's state at one moment."""

    ready: bool
    draining: bool
    queue: int
    connections: int
    swaps: int
    rollbacks: int
    log_lines_dropped: int
    policy: str
    bundle_hash: str


class ServerMetrics(Collector):
    """Counts by outcome, times by stage, and the state that `gauges` tells."""

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self.gauges = gauges
        self.outcomes: Counter[str] = Counter()
        self.stages = {stage: Latency() for stage in STAGES}
        self.recent: deque[tuple[float, Mapping[str, float]]] = deque(maxlen=REMEMBERED)
        """Moment [s] and times [ms] by stage of the last answers."""
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def answered(self, moment: float, times: Mapping[str, float]) -> None:
        """A chunk went out; `times` [ms] by stage."""
        self.outcomes[OK] += 1
        self.recent.append((moment, times))
        for stage, latency in self.stages.items():
            latency.add(times.get(stage, 0.0))

    def refused(self, reason: str) -> None:
        """A reason code went out."""
        self.outcomes[reason] += 1

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        state = self.gauges()
        requests = CounterMetricFamily(
            "policy_requests", "Requests by outcome: OK or a reason code", labels=["outcome"]
        )
        for outcome, count in self.outcomes.items():
            requests.add_metric([outcome], count)
        yield requests
        times = HistogramMetricFamily(
            "policy_stage_milliseconds", "Time of each stage of a request", labels=["stage"]
        )
        for stage, latency in self.stages.items():
            times.add_metric([stage], _cumulative(latency.counts), latency.sum)
        yield times
        yield InfoMetricFamily(
            "policy_bundle", "What serves", {"name": state.policy, "hash": state.bundle_hash}
        )
        for name, text, value in (
            ("ready", "Whether the policy is warm", state.ready),
            ("draining", "Whether the server was told to stop", state.draining),
            ("queue_length", "Requests that wait or run", state.queue),
            ("connections", "Open websockets", state.connections),
        ):
            yield GaugeMetricFamily(f"policy_{name}", text, float(value))
        for name, text, value in (
            ("bundle_swaps", "Bundles that took over", state.swaps),
            ("bundle_rollbacks", "Bundles that failed at once and were replaced", state.rollbacks),
            ("log_lines_dropped", "Log lines that could not be written", state.log_lines_dropped),
        ):
            yield CounterMetricFamily(f"policy_{name}", text, float(value))


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip([*map(str, BUCKETS_MS), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
