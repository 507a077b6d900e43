"""Soak the policy server: `python tests/system/policy_server_soak.py --seconds 3600`.

Asks a real server at a steady rate from several clients. The last line is JSON: requests, errors,
latencies and how much the resident memory grew after the warm-up. Exit code 1 if there was an error
or the memory grew by more than `--growth`.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "policy_server")]

from server_process import PATIENCE_S, ServerProcess, running_server  # noqa: E402
from tiny_bundle import make_observation  # noqa: E402

from policy_server.client import PolicyClient  # noqa: E402


@dataclass(frozen=True)
class SoakResult:
    """memory_growth: last tenth of the run against the tenth after the warm-up, as a share."""

    requests: int
    errors: int
    first_error: str
    seconds: float
    p50_ms: float
    p99_ms: float
    slowest_ms: float
    memory_mib: float
    memory_growth: float


def soak(server: ServerProcess, seconds: float, rate: float, clients: int) -> SoakResult:
    """Ask `server` `rate` times a second for `seconds`; the first fifth is the warm-up."""
    started = time.monotonic()
    latencies: list[list[float]] = [[] for _ in range(clients)]
    errors: list[str] = []

    def ask(number: int) -> None:
        observations = [make_observation(seed) for seed in range(8)]
        with PolicyClient(server.url, timeout_s=PATIENCE_S) as client:
            due, turn = started + number / rate, 0
            while due < started + seconds:
                time.sleep(max(due - time.monotonic(), 0.0))
                observation = observations[turn % len(observations)]
                try:
                    answer = client.infer(observation)
                    assert answer.chunk.observation_stamp == observation.stamp
                    latencies[number].append(answer.round_trip_ms)
                except Exception as error:
                    errors.append(f"{type(error).__name__}: {error}")
                # What could not be asked in time is not asked twice as fast afterwards.
                due, turn = max(due + clients / rate, time.monotonic()), turn + 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - started, resident_mib(server.pid)))
        time.sleep(min(1.0, seconds / 100))
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - started
    times = np.array([value for client in latencies for value in client] or [0.0])
    before = [mib for moment, mib in memory if 0.2 * elapsed <= moment < 0.3 * elapsed]
    after = [mib for moment, mib in memory if moment >= 0.9 * elapsed]
    growth = float(np.median(after) / np.median(before) - 1.0) if before and after else 0.0
    return SoakResult(
        requests=sum(map(len, latencies)) + len(errors),
        errors=len(errors),
        first_error=errors[0] if errors else "",
        seconds=round(elapsed, 1),
        p50_ms=round(float(np.percentile(times, 50)), 2),
        p99_ms=round(float(np.percentile(times, 99)), 2),
        slowest_ms=round(float(times.max()), 2),
        memory_mib=round(memory[-1][1], 1),
        memory_growth=round(growth, 4),
    )


def resident_mib(pid: int) -> float:
    """Resident memory [MiB] of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no resident memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="shipped")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second, all together")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--growth", type=float, default=0.02, help="most growth of the memory")
    options = parser.parse_args()
    with running_server("--bundle", options.bundle, "--port", "0") as server:
        result = soak(server, options.seconds, options.rate, options.clients)
    print(json.dumps(asdict(result)))
    return 1 if result.errors or result.memory_growth > options.growth else 0


if __name__ == "__main__":
    sys.exit(main())
