"""Builds engines for a bundle, and puts each through the accuracy gate where its GPU is at hand.

    python -m policy_server.build shipped --engine tensorrt
    python -m policy_server.build shipped --engine tensorrt-rtx --compute-capability 8.9

`tensorrt` builds on the GPU that will serve: precisions are tried from the fastest on, and the
first that passes the gate goes into the cache, where the server finds it. `tensorrt-rtx` builds
ahead of time for a compute capability and needs no GPU: so every graph can be parsed and built
anywhere, but such engines have not run, and stay unproven until the gate runs on their GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from contracts import bundle
from contracts.bundle import BACKBONE, HEAD, BundleError, Manifest
from policy_server import verify
from policy_server.bundles import find_bundle
from policy_server.engines.engine import EngineUnavailable

USAGE_ERROR = 2
GRAPHS = (BACKBONE, HEAD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 built, 1 no precision passed the gate, 2 it could not be built."""
    options = _parser().parse_args(arguments)
    try:
        result = _run(options)
    except BundleError as error:
        print(f"build: {error}", file=sys.stderr)
        return USAGE_ERROR
    print(json.dumps({"bundle": options.bundle, "engine": options.engine} | result))
    return 0 if result["engines"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m policy_server.build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", help="name of a shipped bundle, or a directory")
    parser.add_argument("--engine", choices=("tensorrt", "tensorrt-rtx"), required=True)
    parser.add_argument(
        "--compute-capability", metavar="X.Y", help="of the GPU to build ahead for (tensorrt-rtx)"
    )
    parser.add_argument("--precision", help="instead of trying: bfloat16, bfloat16-text or float32")
    return parser


def _run(options: argparse.Namespace) -> dict[str, object]:
    if (options.engine == "tensorrt-rtx") != (options.compute_capability is not None):
        raise EngineUnavailable("--compute-capability goes with tensorrt-rtx, and only with it")
    try:
        from policy_server.engines import precision
    except ImportError as error:
        raise EngineUnavailable(
            f"building needs the package onnx ({error}): install the extra "
            f"[{'server-gpu' if options.engine == 'tensorrt' else 'tensorrt-rtx'}]"
        ) from error
    wanted = precision.PRECISIONS if options.precision is None else (options.precision,)
    if not set(wanted) <= set(precision.PRECISIONS):
        raise EngineUnavailable(
            f"unknown precision {options.precision!r}; known: {', '.join(precision.PRECISIONS)}"
        )
    directory = find_bundle(options.bundle)
    manifest = bundle.read_manifest(directory)
    if options.engine == "tensorrt-rtx":
        return _build_ahead(directory, manifest, options.compute_capability, wanted[0])
    return _build_and_check(directory, manifest, wanted)


def _build_ahead(
    directory: Path, manifest: Manifest, compute_capability: str, precision: str
) -> dict[str, object]:
    from policy_server.engines.engine_cache import EngineKey, Target, graph_files, store
    from policy_server.engines.tensorrt_build import load_product, to_stderr

    trt = load_product("tensorrt-rtx")
    target = Target(f"compute capability {compute_capability}", "", compute_capability)
    engines = _engines(trt, directory, manifest, precision, compute_capability)
    key = EngineKey("tensorrt-rtx", trt.__version__, target, graph_files(directory))
    folder = store(key, engines, {"precision": precision, "gate": None})
    to_stderr(
        f"built ahead of time in {folder}; not run: engines for the deployment GPU are gated on "
        "that GPU"
    )
    sizes = {name: len(content) for name, content in engines.items()}
    built = {"precision": precision, "engines": sizes, "gate": None}
    return built | {"compute_capability": compute_capability, "folder": str(folder)}


def _build_and_check(
    directory: Path, manifest: Manifest, precisions: Sequence[str]
) -> dict[str, object]:
    from policy_server.engines.engine_cache import EngineKey, graph_files, installed_gpu, store
    from policy_server.engines.tensorrt import TensorRtEngine
    from policy_server.engines.tensorrt_build import load_product, to_stderr

    trt = load_product("tensorrt")
    key = EngineKey("tensorrt", trt.__version__, installed_gpu(), graph_files(directory))
    gates: dict[str, object] = {}
    for precision in precisions:
        engines = _engines(trt, directory, manifest, precision, None)
        accuracy = verify.check(directory, TensorRtEngine.from_content(engines), manifest)
        gates[precision] = asdict(accuracy)
        if not accuracy.faults:
            folder = store(key, engines, {"precision": precision, "gate": gates[precision]})
            sizes = {name: len(content) for name, content in engines.items()}
            built = {"precision": precision, "engines": sizes, "gate": gates}
            return built | {"folder": str(folder)}
        to_stderr(f"{precision} fails the gate: {'; '.join(accuracy.faults)}")
    return {"precision": None, "engines": {}, "gate": gates}


def _engines(
    trt: object, directory: Path, manifest: Manifest, precision: str, capability: str | None
) -> dict[str, bytes]:
    from policy_server.engines.tensorrt_build import axis_sizes, build, to_stderr

    sizes, engines = axis_sizes(directory, manifest), {}
    for name in GRAPHS:
        started = time.monotonic()
        engines[name] = build(trt, directory / name, sizes, precision, capability, to_stderr)
        took, size = time.monotonic() - started, len(engines[name]) / 1e6
        to_stderr(f"{name}: {precision} engine of {size:.1f} MB after {took:.1f} s")
    return engines


if __name__ == "__main__":
    sys.exit(main())
