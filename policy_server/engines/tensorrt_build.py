"""Builds TensorRT engines from a bundle's graphs; TensorRT and TensorRT for RTX share the calls.

The first builds on the GPU that will run the engine, the second also ahead of time for a compute
capability, on a machine without any GPU.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from contracts.bundle import BundleError, Manifest
from contracts.observation import MAX_INSTRUCTION_LENGTH
from policy_server.engines.engine import EngineUnavailable
from policy_server.engines.precision import with_precision
from policy_server.preprocess import Preprocessor

PRODUCTS = {
    "tensorrt": ("tensorrt", "server-gpu"),
    "tensorrt-rtx": ("tensorrt_rtx_bindings", "tensorrt-rtx"),
}
"""Module and extra of each product."""
MAX_BATCH = 8

Report = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """Smallest, usual and largest size of an axis."""

    low: int
    usual: int
    high: int


def load_product(name: str) -> ModuleType:
    """The Python module of a product.

    Raises:
        EngineUnavailable: it is not installed; the text names the extra.
    """
    module, extra = PRODUCTS[name]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise EngineUnavailable(
            f"{name} is not installed here ({error}): pip install -e '.[{extra}]' "
            "-c constraints.txt"
        ) from error


def axis_sizes(directory: Path, manifest: Manifest) -> dict[str, Sizes]:
    """Sizes of the graphs' axes `batch` and `length`, from the bundle's own prompt."""
    preprocessor = Preprocessor(directory, manifest)
    shortest = preprocessor.prompt_length("a")
    # A character is at most one token, but for those that byte-level BPE cuts up.
    longest = shortest + MAX_INSTRUCTION_LENGTH
    usual = preprocessor.prompt_length("pick up the cup from the box and place it in the bowl")
    return {"batch": Sizes(1, 1, MAX_BATCH), "length": Sizes(shortest, usual, longest)}


def build(
    trt: ModuleType,
    graph: Path,
    sizes: dict[str, Sizes],
    precision: str,
    compute_capability: str | None,
    report: Report,
) -> bytes:
    """Engine for the graph file `graph`; `report` is told what goes on.

    compute_capability: such as "8.9", to build ahead of time; None for the GPU of this machine.

    Raises:
        BundleError: the product cannot parse or build the graph.
        EngineUnavailable: the product cannot build for that compute capability.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    if compute_capability is not None:
        _aim(trt, config, compute_capability)
    # External weights stay where they are: the parser finds them beside the graph's path.
    model = with_precision(onnx.load(graph, load_external_data=False), precision)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString(), str(graph)):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BundleError(f"{graph}: the graph cannot be parsed: {errors}")
    report(f"{graph.name}: parsed, {network.num_layers} layers")
    config.add_optimization_profile(_profile(builder, network, sizes, graph))
    # Float32 products must not turn into TF32 behind the gate's back.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.progress_monitor = _progress_monitor(trt, graph.name, report)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BundleError(f"{graph}: the engine cannot be built; the lines above say why")
    return bytes(engine)


def _profile(builder: Any, network: Any, sizes: dict[str, Sizes], graph: Path) -> Any:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shapes: list[list[int]] = [[], [], []]
        for axis, size in enumerate(tensor.shape):
            name = tensor.get_dimension_name(axis)
            if size == -1 and name not in sizes:
                raise BundleError(f"{graph}: {tensor.name} has the unknown dynamic axis {name!r}")
            range_ = sizes[name] if size == -1 else Sizes(size, size, size)
            for shape, value in zip(shapes, (range_.low, range_.usual, range_.high), strict=True):
                shape.append(value)
        profile.set_shape(tensor.name, *map(tuple, shapes))
    return profile


def _aim(trt: ModuleType, config: Any, compute_capability: str) -> None:
    name = "SM" + compute_capability.replace(".", "")
    known = [n for n in dir(getattr(trt, "ComputeCapability", None)) if n.startswith("SM")]
    if name not in known:
        listed = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in known) or "none: it needs the GPU itself"
        raise EngineUnavailable(
            f"{trt.__name__} {trt.__version__} cannot build ahead of time for compute capability "
            f"{compute_capability!r}; it can for {listed}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)


def _progress_monitor(trt: ModuleType, what: str, report: Report) -> Any:
    """Tells `report` of each tenth of each outer phase of a build."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.phases: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.phases[phase] = max(1, steps)
                report(f"{what}: {phase}, {steps} steps")

        def step_complete(self, phase: str, step: int) -> bool:
            steps = self.phases.get(phase, 0)
            if steps and (10 * (step + 1)) // steps > (10 * step) // steps:
                report(f"{what}: {phase} {100 * (step + 1) // steps} %")
            return True

        def phase_finish(self, phase: str) -> None:
            self.phases.pop(phase, None)

    return Monitor()


def to_stderr(text: str) -> None:
    """A `Report` for people."""
    print(text, file=sys.stderr, flush=True)
