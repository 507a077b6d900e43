"""Engines by name, what they refuse, and the paths of GPU engines that a CPU can run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from tiny_bundle import HORIZON, make_observation, save_bundle

from contracts import bundle
from contracts.bundle import BundleError
from policy_server.engines import ENGINE_VARIABLE, ENGINES, open_engine
from policy_server.engines.cuda import BoundSession, run_padded
from policy_server.engines.engine import EngineUnavailable
from policy_server.engines.engine_cache import (
    CACHE_VARIABLE,
    EngineKey,
    Target,
    graph_files,
    installed_gpu,
    store,
)
from policy_server.engines.onnx_runtime import (
    CPU,
    REMEMBERED_RUNS,
    TRY_THE_OTHER,
    FasterSession,
    OnnxRuntimeEngine,
    cpu_options,
    open_session,
)
from policy_server.policy import Policy
from policy_server.preprocess import Preprocessor, left_padded


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnxruntime-cuda", r"server-gpu"),
        ("tensorrt", r"server-gpu"),
        ("tensorrt-rtx", "ahead of time"),
        ("cuda", "unknown engine 'cuda'; known: onnxruntime"),
    ],
)
def test_an_engine_that_cannot_run_here_says_what_it_needs(
    bundle_directory: Path, name: str, message: str
) -> None:
    if name == "onnxruntime-cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(EngineUnavailable, match=message):
        open_engine(name, bundle_directory)


def test_the_environment_names_the_engine_of_policies_that_name_none(
    bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "nonsense")
    with pytest.raises(EngineUnavailable, match="nonsense"):
        Policy.load(bundle_directory)
    assert Policy.load(bundle_directory, engine=ENGINES[0]).manifest.name == "tiny"
    monkeypatch.setenv(ENGINE_VARIABLE, "")
    assert isinstance(open_engine(None, bundle_directory), OnnxRuntimeEngine)


@pytest.mark.parametrize(
    ("dynamic_steps", "continues"), [(False, False), (True, False), (True, True)]
)
def test_heads_of_every_kind_load_and_say_what_they_can(
    tmp_path: Path, dynamic_steps: bool, continues: bool
) -> None:
    directory = save_bundle(tmp_path, dynamic_steps=dynamic_steps, continues=continues)
    metadata = Policy.load(directory).metadata()
    assert metadata["fixed_steps"] is not dynamic_steps
    assert metadata["continues"] is continues


def test_a_graph_with_other_inputs_is_refused(tmp_path: Path) -> None:
    directory = save_bundle(tmp_path)
    (directory / bundle.HEAD).write_bytes((directory / bundle.BACKBONE).read_bytes())
    with pytest.raises(BundleError, match=r"head\.onnx: the graph's inputs are"):
        open_engine("onnxruntime", directory)


def test_rows_side_by_side_are_those_of_each_alone(bundle_directory: Path) -> None:
    preprocessor = Preprocessor(bundle_directory, bundle.read_manifest(bundle_directory))
    texts = ("go", "pick up the cup", "stop")
    alone = [
        preprocessor(replace(make_observation(seed=seed), instruction=text))
        for seed, text in enumerate(texts)
    ]
    together = left_padded(alone, preprocessor.padding)
    narrow, wide = (OnnxRuntimeEngine(bundle_directory, threads) for threads in (1, 2))
    hidden = wide.backbone(together)
    np.testing.assert_allclose(hidden, narrow.backbone(together), atol=1e-6)
    for place, inputs in enumerate(alone):
        length = inputs["input_ids"].shape[1]
        for engine in (narrow, wide):
            expected = engine.backbone(inputs)[0]
            np.testing.assert_allclose(hidden[place, -length:], expected, atol=1e-5)


def test_the_faster_session_gets_the_requests_and_the_other_is_tried_again() -> None:
    counts = {"slow": 0, "fast": 0}

    class Session:
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def run(self, outputs: list[str], inputs: dict[str, object]) -> list[object]:
            counts[self.name] += 1
            time.sleep(self.seconds)
            return [self.name]

    faster = FasterSession(Session("slow", 0.05), Session("fast", 0.0))
    answers = [faster.run({}) for _ in range(2 * TRY_THE_OTHER + 1)]
    assert answers.count("slow") == counts["slow"]
    assert REMEMBERED_RUNS < counts["slow"] < counts["fast"]


def test_bound_buffers_give_the_same_answers(bundle_directory: Path) -> None:
    """What the CUDA engine does on its device, on the CPU: several shapes, in turns."""
    plain = OnnxRuntimeEngine(bundle_directory, 1)
    session = open_session(bundle_directory / bundle.BACKBONE, cpu_options(1), CPU)
    bound = BoundSession(session, "hidden", "cpu")
    preprocessor = Preprocessor(bundle_directory, bundle.read_manifest(bundle_directory))
    texts = ("go", "pick up the cup", "go")
    for seed, text in enumerate((*texts, *texts)):
        inputs = preprocessor(replace(make_observation(seed=seed), instruction=text))
        expected = plain.backbone(inputs)
        np.testing.assert_array_equal(bound.run(inputs), expected)
        for bucket in (1, 32):
            np.testing.assert_allclose(run_padded(bound, inputs, bucket), expected, atol=1e-6)


def test_a_bound_head_takes_its_steps_as_a_number(bundle_directory: Path) -> None:
    plain = OnnxRuntimeEngine(bundle_directory, 1)
    session = open_session(bundle_directory / bundle.HEAD, cpu_options(1), CPU)
    bound, random = BoundSession(session, "actions", "cpu"), np.random.default_rng(0)
    inputs = {
        "hidden": random.standard_normal((2, 5, 8), np.float32),
        "mask": np.ones((2, 5), np.int64),
        "state": random.standard_normal((2, 11), np.float32),
        "noise": random.standard_normal((2, HORIZON, 7), np.float32),
    }
    for steps in (1, 5):
        answer = bound.run(inputs | {"steps": np.array(steps)})
        np.testing.assert_array_equal(answer, plain.head(inputs, steps))


# --- the cache of built engines ----------------------------------------------------------------

GPU = Target("NVIDIA RTX 4090", "580.95.05", "8.9")


def key(directory: Path, version: str = "11.4", target: Target = GPU) -> EngineKey:
    return EngineKey("tensorrt", version, target, graph_files(directory))


def test_an_engine_is_found_for_its_graph_gpu_driver_and_version_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle_directory: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = store(key(bundle_directory), {bundle.HEAD: b"engine"}, {"precision": "float32"})
    assert key(bundle_directory).directory == folder
    assert (folder / "head.engine").read_bytes() == b"engine"
    other_graph = save_bundle(tmp_path / "other", dynamic_steps=False)
    others = [
        key(bundle_directory, version="11.5"),
        key(bundle_directory, target=replace(GPU, gpu="NVIDIA L40")),
        key(bundle_directory, target=replace(GPU, driver="581.01")),
        key(other_graph),
    ]
    assert not any(other.directory.exists() for other in others)
    assert len({other.directory for other in others}) == len(others)
    again = store(key(bundle_directory), {bundle.HEAD: b"newer"}, {"precision": "bfloat16"})
    assert (again / "head.engine").read_bytes() == b"newer"
    assert [path.name for path in again.parent.iterdir()] == [again.name]


def fake_nvidia_smi(folder: Path, script: str) -> str:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(folder)


def test_the_gpu_is_named_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PATH", fake_nvidia_smi(tmp_path, "echo 'NVIDIA RTX 4090, 580.95.05, 8.9'; echo second")
    )
    assert installed_gpu() == GPU


@pytest.mark.parametrize(
    ("script", "message"),
    [(None, "not installed"), ("echo no devices; exit 6", "no devices"), ("true", "no answer")],
)
def test_a_machine_without_a_gpu_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
) -> None:
    monkeypatch.setenv(
        "PATH", str(tmp_path) if script is None else fake_nvidia_smi(tmp_path, script)
    )
    with pytest.raises(EngineUnavailable, match=message):
        installed_gpu()
