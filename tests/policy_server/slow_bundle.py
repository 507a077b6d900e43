"""The tiny bundle with a head whose time grows with the denoising steps, for tests of waiting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import save_bundle, tiny_manifest

from contracts.bundle import HEAD, write_manifest

WIDTH = 768
INSTRUCTION = "pick up the cup from the box and place it in the bowl"


def save_slow_bundle(directory: Path) -> Path:
    """Write it into `directory`: each step multiplies two large matrices, some milliseconds.

    It also names the only instruction that it knows.
    """
    save_bundle(directory)
    _slow_down(directory / HEAD)
    manifest = tiny_manifest()
    provenance = {**manifest.provenance, "instructions": [INSTRUCTION]}
    write_manifest(directory, replace(manifest, name="slow", provenance=provenance))
    return directory


def _slow_down(path: Path) -> None:
    model = onnx.load(path)
    graph = model.graph
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "square"], ["product"]),
            helper.make_node("Tanh", ["product"], ["after"]),
            helper.make_node("Identity", ["on"], ["on_still"]),
        ],
        "work",
        [
            info("step", TensorProto.INT64, []),
            info("on", TensorProto.BOOL, []),
            info("before", TensorProto.FLOAT, [WIDTH, WIDTH]),
        ],
        [
            info("on_still", TensorProto.BOOL, []),
            info("after", TensorProto.FLOAT, [WIDTH, WIDTH]),
        ],
    )
    matrix = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    graph.initializer.extend(
        [
            numpy_helper.from_array(matrix / WIDTH, "square"),
            numpy_helper.from_array(np.array(True), "always"),
            numpy_helper.from_array(np.array(0.0, np.float32), "nothing"),
        ]
    )
    last = next(node for node in graph.node if "actions" in node.output)
    last.output[0] = "fast_actions"
    graph.node.extend(
        [
            helper.make_node("Loop", ["steps", "always", "square"], ["worked"], body=body),
            helper.make_node("ReduceSum", ["worked"], ["work_sum"], keepdims=0),
            helper.make_node("Mul", ["work_sum", "nothing"], ["work_zero"]),
            helper.make_node("Add", ["fast_actions", "work_zero"], ["actions"]),
        ]
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
