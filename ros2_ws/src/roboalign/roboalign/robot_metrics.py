"""What the robot's graph says of itself, for Prometheus. Pure: values in, metric families out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MODES = ("idle", "tracking", "holding", "moving", "error")
BUCKETS_MS = (5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0)


class RobotMetrics(Collector):
    """The newest word of each part, and histograms of the stages. From several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._mode = ""
        self._gauges: dict[str, tuple[str, float]] = {}
        self._counters: dict[str, tuple[str, float]] = {}
        self._levels: dict[str, int] = {}
        self._stages: dict[str, tuple[list[int], float]] = {}

    def gauge(self, name: str, text: str, value: float) -> None:
        with self._lock:
            self._gauges[name] = (text, value)

    def counter(self, name: str, text: str, value: float) -> None:
        """`value` since the start of the part that counts."""
        with self._lock:
            self._counters[name] = (text, value)

    def mode(self, mode: str) -> None:
        """ArmStatus.mode."""
        with self._lock:
            self._mode = mode

    def levels(self, levels: Mapping[str, int]) -> None:
        """DiagnosticStatus.level by name: 0 fine, 1 warning, 2 error, 3 stale."""
        with self._lock:
            self._levels.update(levels)

    def stages(self, names: Sequence[str], milliseconds: Sequence[float]) -> None:
        """One StageTimes."""
        with self._lock:
            for name, time in zip(names, milliseconds, strict=True):
                counts, total = self._stages.get(name, ([0] * (len(BUCKETS_MS) + 1), 0.0))
                counts[bisect_left(BUCKETS_MS, time)] += 1
                self._stages[name] = (counts, total + time)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            families = [*self._families()]
        yield from families

    def _families(self) -> Iterator[Metric]:
        if self._mode:
            modes = GaugeMetricFamily("robot_arm_mode", "1 for the arm's mode", labels=["mode"])
            for mode in MODES:
                modes.add_metric([mode], float(mode == self._mode))
            yield modes
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value)
        for name, (text, value) in self._counters.items():
            yield CounterMetricFamily(name, text, value)
        levels = GaugeMetricFamily(
            "robot_diagnostic_level", "0 fine, 1 warning, 2 error, 3 stale", labels=["part"]
        )
        for part, level in self._levels.items():
            levels.add_metric([part], float(level))
        yield levels
        times = HistogramMetricFamily(
            "robot_stage_milliseconds", "Way of a chunk, stage by stage", labels=["stage"]
        )
        for stage, (counts, total) in self._stages.items():
            times.add_metric([stage], _cumulative(counts), total)
        yield times


def _cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip([*map(str, BUCKETS_MS), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
