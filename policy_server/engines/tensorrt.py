"""TensorRT on an NVIDIA GPU, with engines that `python -m policy_server.build` made for it.

Not run on a machine without a GPU: what CI holds is that every graph parses and builds.
Device memory is ONNX Runtime's, so that no further CUDA package is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contracts.bundle import BACKBONE, HEAD
from policy_server.engines.cuda import PROVIDER
from policy_server.engines.engine import (
    BACKBONE_INPUTS,
    CONTINUATION_INPUTS,
    STEPS_INPUT,
    EngineUnavailable,
    Tensor,
    check_inputs,
    expected_head_inputs,
)
from policy_server.engines.engine_cache import EngineKey, engine_file, graph_files, installed_gpu
from policy_server.engines.tensorrt_build import load_product

DEFAULT_STREAM = 0


class TensorRtEngine:
    """Both graphs as TensorRT engines; see `engine` for the graphs and the life cycle."""

    def __init__(self, directory: Path) -> None:
        """Load the engines of the bundle in `directory` from the cache.

        Raises:
            EngineUnavailable: TensorRT or a GPU is missing, or no engine was built for this
                bundle, GPU, driver and version.
            BundleError: an engine has other inputs than `engine` says.
        """
        trt = load_product("tensorrt")
        key = EngineKey("tensorrt", trt.__version__, installed_gpu(), graph_files(directory))
        if not key.directory.is_dir():
            raise EngineUnavailable(
                f"no TensorRT {trt.__version__} engine for {key.target.gpu}, driver "
                f"{key.target.driver}: python -m policy_server.build {directory} --engine tensorrt"
            )
        self._open(trt, {name: (key.directory / engine_file(name)).read_bytes()
                         for name in (BACKBONE, HEAD)})  # fmt: skip

    @classmethod
    def from_content(cls, engines: Mapping[str, bytes]) -> TensorRtEngine:
        """Engines by graph name that are not in the cache yet: a build checks them first."""
        engine = cls.__new__(cls)
        engine._open(load_product("tensorrt"), engines)
        return engine

    def _open(self, trt: Any, engines: Mapping[str, bytes]) -> None:
        if PROVIDER not in ort.get_available_providers():
            raise EngineUnavailable("the engine tensorrt needs the extra [server-gpu]")
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._runtime = runtime  # engines need it as long as they live
        self._backbone = _Execution(trt, runtime, engines[BACKBONE], "hidden")
        self._head = _Execution(trt, runtime, engines[HEAD], "actions")
        names = set(self._head.inputs)
        check_inputs(engine_file(BACKBONE), self._backbone.inputs, BACKBONE_INPUTS)
        check_inputs(engine_file(HEAD), names, expected_head_inputs(names))
        self.fixed_steps = STEPS_INPUT not in names
        self.continues = names >= CONTINUATION_INPUTS

    def backbone(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        return self._backbone.run(inputs)

    def head(self, inputs: Mapping[str, Tensor], steps: int) -> NDArray[np.float32]:
        feed = dict(inputs)
        if not self.fixed_steps:
            feed[STEPS_INPUT] = np.array(steps, np.int64)
        return self._head.run(feed)


class _Execution:
    """One engine with its context."""

    def __init__(self, trt: Any, runtime: Any, content: bytes, output: str) -> None:
        self._engine = runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineUnavailable("TensorRT cannot load the engine: build it again on this GPU")
        self._context = self._engine.create_execution_context()
        self._output = output
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        mode = self._engine.get_tensor_mode
        self.inputs = [name for name in names if mode(name) == trt.TensorIOMode.INPUT]

    def run(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """The output, float32 in host memory.

        Raises:
            ValueError: the engine was not built for these shapes.
        """
        held = []
        for name in self.inputs:
            value = np.ascontiguousarray(inputs[name])
            if not self._context.set_input_shape(name, value.shape):
                raise ValueError(f"the engine was not built for {name} of shape {value.shape}")
            held.append(ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
            self._context.set_tensor_address(name, held[-1].data_ptr())
        shape = tuple(self._context.get_tensor_shape(self._output))
        output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
        self._context.set_tensor_address(self._output, output.data_ptr())
        if not self._context.execute_async_v3(DEFAULT_STREAM):
            raise RuntimeError("TensorRT failed to run the engine")
        # The copy to the host waits for the default stream.
        return output.numpy()
