"""Ways to run a bundle's graphs, by name; `engine` says what they all promise."""

from __future__ import annotations

import os
from pathlib import Path

from policy_server.engines.engine import Engine, EngineUnavailable

ENGINES = ("onnxruntime", "onnxruntime-cuda", "tensorrt")
ENGINE_VARIABLE = "ROBOALIGN_ENGINE"
"""Environment variable with the engine of every policy that is loaded without naming one."""
DEFAULT_THREADS = 2
"""More threads than this gain little on lab-size graphs and disturb the arm's 1 kHz loop."""


def open_engine(name: str | None, directory: Path, threads: int = DEFAULT_THREADS) -> Engine:
    """The engine called `name` (by default ENGINE_VARIABLE's, else "onnxruntime") on a bundle.

    threads: CPU threads of one inference; engines on a GPU have no use for them.

    Raises:
        EngineUnavailable: no such engine, or this machine lacks what it needs.
        BundleError: a graph cannot be read or has other inputs than `engine` says.
    """
    name = name or os.environ.get(ENGINE_VARIABLE) or ENGINES[0]
    if name == "onnxruntime":
        from policy_server.engines.onnx_runtime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(directory, threads)
    if name == "onnxruntime-cuda":
        from policy_server.engines.cuda import CudaEngine

        return CudaEngine(directory)
    if name == "tensorrt":
        from policy_server.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(directory)
    if name == "tensorrt-rtx":
        raise EngineUnavailable(
            "tensorrt-rtx engines are built ahead of time (python -m policy_server.build) and not "
            f"served here; engines that serve: {', '.join(ENGINES)}"
        )
    raise EngineUnavailable(f"unknown engine {name!r}; known: {', '.join(ENGINES)}")
