"""Speed of the policy server, all sides in one run; the last line is JSON.

    python -m policy_server.bench --json

Sides take turns in short blocks, so that whatever else the machine does hits all of them alike:
- transport with a policy that computes nothing and two 224x224 pictures, against a raw TCP exchange
  of the same bytes and against openpi's client and protocol;
- the shipped bundle's networks against eager transformers and PyTorch (`training.eager`), on the
  same inputs, with one thread or as many as the engine, whichever is faster;
- eight clients against one, through a server process;
- a request that goes on from the chunk under execution against one that does not.
Every wait has a limit; what could not be measured is null in the JSON and said on standard error.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts import bundle, wire
from contracts.bundle import Manifest
from contracts.observation import CameraFrame, Observation, RobotState
from policy_server.bench_peers import SIZES, null_chunk, receive
from policy_server.bench_processes import BenchError, BenchProcess, percentile
from policy_server.bundles import find_bundle
from policy_server.client import PolicyClient
from policy_server.continuation import Continuation
from policy_server.engines import open_engine
from policy_server.engines.engine import Tensor
from policy_server.policy import Policy
from policy_server.preprocess import Preprocessor

READY_S = 60.0
EAGER_READY_S = 100.0
ANSWER_S = 30.0
BLOCKS, BLOCK_REQUESTS, BLOCK_S = 8, 40, 1.0
CLIENTS = 8
CROWD_S, CROWD_ROUNDS = 4.0, 2

Once = Callable[[], object]


def observation(pictures: Mapping[str, int], seed: int = 0) -> Observation:
    """Random square pictures of these sizes by camera name, and a plain state."""
    random = np.random.default_rng(seed)
    frames = {
        name: CameraFrame(random.integers(0, 256, (size, size, 3), dtype=np.uint8), 1.0)
        for name, size in pictures.items()
    }
    pose = np.array([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
    state = RobotState(pose, np.zeros(7), np.zeros(7), 1.0, 1.0)
    return Observation("pick up the cup from the box and place it in the bowl", frames, state, 1.0)


def graph_inputs(
    directory: Path, manifest: Manifest, seen: Observation
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs of the backbone, and those of the head that the backbone does not make."""
    state = bundle.state_vector(seen.state.pose, seen.state.gripper_opening)
    shape = (1, manifest.horizon, bundle.ACTION_DIMENSION)
    return Preprocessor(directory, manifest)(seen), {
        "state": manifest.state.normalise(state)[None].astype(np.float32),
        "noise": np.random.default_rng(0).standard_normal(shape, np.float32),
    }


def in_turns(sides: Mapping[str, Callable[[int], list[float]]]) -> dict[str, list[float]]:
    """Times [ms] of each side, which is asked for a number of runs, block by block."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(BLOCKS):
        for name, run in sides.items():
            times[name] += run(BLOCK_REQUESTS)
    return times


def timed(once: Once) -> Callable[[int], list[float]]:
    """`once` as a side of `in_turns`: at most that many runs, at most BLOCK_S seconds."""

    def run(count: int) -> list[float]:
        times, end = [], time.perf_counter() + BLOCK_S
        while len(times) < count and (not times or time.perf_counter() < end):
            started = time.perf_counter()
            once()
            times.append(1e3 * (time.perf_counter() - started))
        return times

    return run


def transport() -> dict[str, Any]:
    """Round trips with a null policy, against a TCP echo and openpi's protocol."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    asked = observation({"front": 224, "wrist": 224})
    message = wire.observation_to_message(asked)
    request, answer = wire.pack(message), wire.pack(wire.chunk_to_message(null_chunk()))
    head, back = SIZES.pack(len(request), len(answer)), memoryview(bytearray(len(answer)))
    module = "policy_server.bench_peers"
    with (
        BenchProcess(module, "echo") as echo,
        BenchProcess(module, "openpi") as openpi,
        BenchProcess(module, "null") as null,
    ):
        addresses = [
            (words[1], int(words[2]))
            for words in (peer.line("ready", READY_S).split() for peer in (echo, openpi, null))
        ]
        with (
            socket.create_connection(addresses[0], ANSWER_S) as raw,
            PolicyClient("ws://{}:{}".format(*addresses[2])) as client,
        ):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            theirs = WebsocketClientPolicy(*addresses[1])

            def exchange() -> None:
                raw.sendall(head)
                raw.sendall(request)
                if not receive(raw, back):
                    raise BenchError("the echo server closed the connection")

            sides = {
                "tcp_echo": timed(exchange),
                "openpi": timed(lambda: theirs.infer(message)),
                "ours": timed(lambda: client.infer(asked)),
            }
            for run in sides.values():
                run(BLOCK_REQUESTS)
            times = in_turns(sides)
            theirs._ws.close()
    p50 = {name: percentile(values, 0.5) for name, values in times.items()}
    return {
        "overhead_vs_tcp_echo": p50["ours"] / p50["tcp_echo"],
        "overhead_vs_openpi_protocol": p50["ours"] / p50["openpi"],
        "transport_p50_ms": p50,
        "transport_p99_ms": {name: percentile(values, 0.99) for name, values in times.items()},
        "transport_bytes": [len(request), len(answer)],
    }


def networks(directory: Path, policy: Policy, threads: int) -> dict[str, Any]:
    """The bundle's networks in the engine against eager PyTorch, one request at a time."""
    engine = open_engine("onnxruntime", directory, threads)
    seen = observation({camera.name: camera.size for camera in policy.manifest.cameras})
    prompt, head = graph_inputs(directory, policy.manifest, seen)
    continuation = Continuation.none(policy.manifest.horizon)
    unused = {"previous": continuation.previous[None], "weight": continuation.weight[None]}
    given = head | (unused if engine.continues else {})

    def run_engine() -> None:
        hidden = engine.backbone(prompt)
        inputs = given | {"hidden": hidden, "mask": prompt["attention_mask"]}
        engine.head(inputs, policy.manifest.denoising_steps)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npz"
        np.savez(path, **prompt, **head)
        arguments = ("--bundle", str(directory), "--inputs", str(path))
        with BenchProcess("training.eager", *arguments) as eager:
            eager.line("ready", EAGER_READY_S)
            sides = {
                f"eager_{n}": lambda count, n=n: json.loads(
                    eager.ask(f"{count} {BLOCK_S} {n}", ANSWER_S)
                )
                for n in sorted({1, threads})
            }
            times = in_turns({"engine": timed(run_engine)} | sides)
    p50, p99 = (
        {name: percentile(values, share) for name, values in times.items()} for share in (0.5, 0.99)
    )
    return {
        "engine_speedup_vs_eager": min(p50[name] for name in sides) / p50["engine"],
        "p99_over_p50": p99["engine"] / p50["engine"],
        "networks_p50_ms": p50,
        "networks_p99_ms": p99,
    }


def crowd(directory: Path, policy: Policy, threads: int) -> dict[str, Any]:
    """Eight clients at once against one, each asking again as soon as it has its answer."""
    sizes = {camera.name: camera.size for camera in policy.manifest.cameras}
    arguments = ("--bundle", str(directory), "--port", "0", "--threads", str(threads))
    with BenchProcess("policy_server", *arguments, "--requests-per-second", "0") as server:
        url = server.line("policy server ready", READY_S).split()[-1]
        counts: dict[int, int] = {1: 0, CLIENTS: 0}
        times: list[list[float]] = [[] for _ in range(CLIENTS)]
        for _ in range(CROWD_ROUNDS):
            for clients in counts:
                answered = _ask_for_a_while(url, clients, sizes)
                counts[clients] += sum(map(len, answered))
                if clients == CLIENTS:
                    for mine, new in zip(times, answered, strict=True):
                        mine += new
    seconds = CROWD_ROUNDS * CROWD_S
    return {
        "throughput_8_over_1": counts[CLIENTS] / max(1, counts[1]),
        "requests_per_second": {str(n): count / seconds for n, count in counts.items()},
        "slowest_client_p99_ms": max(percentile(mine, 0.99) for mine in times if mine),
    }


def _ask_for_a_while(url: str, clients: int, sizes: Mapping[str, int]) -> list[list[float]]:
    """Times [ms] of the answers that each client got within CROWD_S seconds."""
    times: list[list[float]] = [[] for _ in range(clients)]
    failures: list[Exception] = []
    start = threading.Barrier(clients)

    def ask(mine: list[float], seed: int) -> None:
        try:
            seen, once = observation(sizes, seed), PolicyClient(url, timeout_s=ANSWER_S)
            with once as client:
                client.infer(seen)
                start.wait(ANSWER_S)
                end = time.perf_counter() + CROWD_S
                while time.perf_counter() < end:
                    mine.append(client.infer(seen).round_trip_ms)
        except Exception as error:
            start.abort()
            failures.append(error)

    threads = [
        threading.Thread(target=ask, args=(mine, seed), daemon=True)
        for seed, mine in enumerate(times)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(CROWD_S + 3 * ANSWER_S)
    if failures or any(thread.is_alive() for thread in threads):
        raise BenchError(f"{clients} clients: {failures[0] if failures else 'no end'}")
    return times


def chunking(policy: Policy) -> dict[str, Any]:
    """Extra cost of a request that carries the chunk under execution, as a share."""
    if not policy.metadata()["continues"]:
        raise BenchError("this bundle's head cannot continue a chunk: export it again")
    sizes = {camera.name: camera.size for camera in policy.manifest.cameras}
    seen = observation(sizes)
    previous, _ = policy.infer(seen, seed=0)
    times = in_turns(
        {
            "free": timed(lambda: policy.infer(seen, seed=1)),
            "continued": timed(lambda: policy.infer(seen, seed=1, previous=previous, delay=2)),
        }
    )
    p50 = {name: percentile(values, 0.5) for name, values in times.items()}
    return {"rtc_cost": p50["continued"] / p50["free"] - 1.0, "rtc_p50_ms": p50}


FIGURES = (
    "overhead_vs_tcp_echo",
    "overhead_vs_openpi_protocol",
    "engine_speedup_vs_eager",
    "p99_over_p50",
    "throughput_8_over_1",
    "rtc_cost",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 if every figure was measured, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m policy_server.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", default="shipped")
    parser.add_argument("--threads", type=int, default=2, help="of one inference")
    parser.add_argument("--json", action="store_true", help="only the line of JSON on stdout")
    options = parser.parse_args(arguments)
    directory = find_bundle(options.bundle)
    policy = Policy.load(directory, options.threads)
    policy.warm_up()
    results: dict[str, Any] = dict.fromkeys(FIGURES)
    results |= {"bundle": policy.manifest.name, "threads": options.threads, "device": "cpu"}
    for name, section in (
        ("transport", transport),
        ("networks", lambda: networks(directory, policy, options.threads)),
        ("crowd", lambda: crowd(directory, policy, options.threads)),
        ("chunking", lambda: chunking(policy)),
    ):
        started = time.monotonic()
        try:
            found = section()
        # One side that fails must not hide the others' figures.
        except (BenchError, ImportError, OSError) as error:
            print(f"{name}: not measured: {error}", file=sys.stderr)
            continue
        results |= found
        took = time.monotonic() - started
        print(f"{name}: {took:.0f} s", file=sys.stderr, flush=True)
        if not options.json:
            print(json.dumps(_rounded(found), indent=1))
    print(json.dumps(_rounded(results)))
    return 0 if all(results[name] is not None for name in FIGURES) else 1


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
