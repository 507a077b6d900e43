"""Engines built ahead of time: every shipped graph parses and builds without a GPU."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from server_process import ROOT
from tiny_bundle import save_bundle

from contracts.bundle import BACKBONE, HEAD, MANIFEST
from policy_server import build
from policy_server.engines import precision
from policy_server.engines.engine_cache import CACHE_VARIABLE

SHIPPED = sorted(path.parent for path in (ROOT / "policy_server" / "bundles").glob(f"*/{MANIFEST}"))
RTX = ("--engine", "tensorrt-rtx", "--compute-capability", "8.9")
needs_tensorrt_rtx = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="TensorRT for RTX has wheels for Linux on x86_64 alone",
)


@needs_tensorrt_rtx
@pytest.mark.slow
@pytest.mark.parametrize("directory", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_graph_is_parsed_and_built(directory: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "policy_server.build", directory.name, *RTX],
        cwd=ROOT,
        env={CACHE_VARIABLE: str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["engines"]) == {BACKBONE, HEAD}
    assert result["gate"] is None
    assert "gated on that GPU" in done.stderr
    assert f"{HEAD}: parsed" in done.stderr  # progress is shown
    for name in ("backbone.engine", "head.engine"):
        assert (Path(result["folder"]) / name).stat().st_size > 100_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "tensorrt-rtx"), "--compute-capability"),
        (("--engine", "tensorrt", "--compute-capability", "8.9"), "--compute-capability"),
        (("--engine", "tensorrt"), r"tensorrt is not installed here .*\[server-gpu\]"),
        ((*RTX, "--precision", "int3"), "unknown precision 'int3'"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(
    bundle_directory: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert build.main([str(bundle_directory), *arguments]) == build.USAGE_ERROR
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_a_missing_package_names_its_extra(
    bundle_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    assert build.main([str(bundle_directory), *RTX]) == build.USAGE_ERROR
    assert "[tensorrt-rtx]" in capsys.readouterr().err


@needs_tensorrt_rtx
def test_an_unknown_compute_capability_lists_the_known(
    bundle_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*RTX[:3], "3.5")
    assert build.main([str(bundle_directory), *arguments]) == build.USAGE_ERROR
    assert "8.9" in capsys.readouterr().err


# --- the precision in the graph ----------------------------------------------------------------


def low_products(model: onnx.ModelProto) -> set[str]:
    """Names of the products that read bfloat16."""
    casts = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.BFLOAT16
    }
    return {
        node.name
        for node in model.graph.node
        if node.op_type in precision.PRODUCTS and set(node.input) <= casts
    }


def towers() -> onnx.ModelProto:
    """A vision product, one of both towers, and one of two activations."""
    tensor, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    node = onnx.helper.make_node
    nodes = [
        node("MatMul", ["pixel_values", "weight"], ["seen"], name="vision"),
        node("MatMul", ["text", "weight"], ["read"], name="text"),
        node("MatMul", ["seen", "read"], ["scores"], name="attention"),
        node("MatMul", ["scores", "weight"], ["hidden"], name="joined"),
    ]
    shape = [2, 2]
    weight = onnx.helper.make_tensor("weight", floats, shape, [1.0, 2.0, 3.0, 4.0])
    inputs = [tensor(name, floats, shape) for name in ("pixel_values", "text")]
    graph = onnx.helper.make_graph(
        nodes, "towers", inputs, [tensor("hidden", floats, shape)], [weight]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("name", "low"),
    [
        ("float32", set()),
        ("bfloat16-text", {"text", "joined"}),
        ("bfloat16", {"vision", "text", "joined"}),
    ],
)
def test_precision_is_that_of_the_products_with_weights(name: str, low: set[str]) -> None:
    model = precision.with_precision(towers(), name)
    assert low_products(model) == low
    onnx.checker.check_model(model, full_check=True)


def test_products_in_a_loop_are_found(tmp_path: Path) -> None:
    """The denoising loop's body reads its weights from the graph around it."""
    directory = save_bundle(tmp_path)
    inner = onnx.load(directory / HEAD).graph
    body = towers().graph
    loop = onnx.helper.make_node("Loop", ["count", "go"], ["out"], body=body)
    weight = body.initializer.pop()
    inner.node.append(loop)
    inner.initializer.append(weight)
    model = precision.with_precision(onnx.helper.make_model(inner), "bfloat16")
    rewritten = next(n for n in model.graph.node if n.op_type == "Loop").attribute[0].g
    casts = [node for node in rewritten.node if node.op_type == "Cast"]
    assert len(casts) == 3 * 3  # three products with weights: two operands and a result each
