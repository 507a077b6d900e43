"""ONNX Runtime on a CUDA device: inputs and outputs bound to its memory, the backbone captured.

A CUDA graph replays the backbone's kernels in one launch, for fixed shapes only; so prompts are
padded to a multiple of LENGTH_BUCKET, and each shape is captured when it first comes. The head is
bound but not captured: ONNX Runtime cannot capture its loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contracts.bundle import BACKBONE, HEAD
from policy_server.engines.engine import STEPS_INPUT, EngineUnavailable, Tensor
from policy_server.engines.onnx_runtime import QUIET, check_graphs, open_session

LENGTH_BUCKET = 32
PROVIDER = "CUDAExecutionProvider"


class CudaEngine:
    """Both graphs on CUDA device 0; see `engine` for the graphs and the life cycle."""

    def __init__(self, directory: Path) -> None:
        """Read both graphs.

        Raises:
            EngineUnavailable: no onnxruntime-gpu, or no CUDA device that it can use.
            BundleError: a graph cannot be read or has other inputs than `engine` says.
        """
        if PROVIDER not in ort.get_available_providers():
            raise EngineUnavailable(
                "the engine onnxruntime-cuda needs onnxruntime-gpu: install the extra [server-gpu] "
                "instead of [server]"
            )
        options = ort.SessionOptions()
        options.log_severity_level = QUIET
        captured = [(PROVIDER, {"enable_cuda_graph": "1", "use_tf32": "0"})]
        backbone = open_session(directory / BACKBONE, options, captured)
        head = open_session(directory / HEAD, options, [(PROVIDER, {"use_tf32": "0"})])
        # Without a device ONNX Runtime falls back to the CPU and only logs it.
        if PROVIDER not in backbone.get_providers():
            raise EngineUnavailable("the engine onnxruntime-cuda finds no CUDA device or driver")
        self.fixed_steps, self.continues = check_graphs(directory, backbone, head)
        self._backbone = BoundSession(backbone, "hidden", "cuda", captured=True)
        self._head = BoundSession(head, "actions", "cuda")

    def backbone(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        return run_padded(self._backbone, inputs, LENGTH_BUCKET)

    def head(self, inputs: Mapping[str, Tensor], steps: int) -> NDArray[np.float32]:
        feed = dict(inputs)
        if not self.fixed_steps:
            feed[STEPS_INPUT] = np.array(steps, np.int64)
        return self._head.run(feed)


@dataclass(frozen=True)
class _Bound:
    """Buffers of one set of input shapes, bound to a session."""

    binding: ort.IOBinding
    inputs: dict[str, ort.OrtValue]
    output: ort.OrtValue
    options: ort.RunOptions


class BoundSession:
    """A session whose inputs and one output keep their places in a device's memory."""

    def __init__(
        self, session: ort.InferenceSession, output: str, device: str, captured: bool = False
    ) -> None:
        self._session, self._output, self._device = session, output, device
        self._captured = captured
        self._axes = {item.name: item.shape for item in session.get_inputs()}
        self._output_axes = {o.name: o.shape for o in session.get_outputs()}[output]
        self._bound: dict[tuple[tuple[int, ...], ...], _Bound] = {}

    def run(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """The output for inputs in host memory, float32, copied to host memory."""
        shapes = tuple(inputs[name].shape for name in self._axes)
        if shapes not in self._bound:
            self._bound[shapes] = self._bind(inputs)
        bound = self._bound[shapes]
        for name, value in bound.inputs.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        self._session.run_with_iobinding(bound.binding, bound.options)
        return bound.output.numpy()

    def _bind(self, inputs: Mapping[str, Tensor]) -> _Bound:
        sizes: dict[object, int] = {}
        for name, axes in self._axes.items():
            sizes |= dict(zip(axes, inputs[name].shape, strict=True))
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in self._output_axes]
        values = {
            name: ort.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(inputs[name]), self._device, 0
            )
            for name in self._axes
        }
        output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self._output, output)
        options = ort.RunOptions()
        if self._captured:
            options.add_run_config_entry("gpu_graph_id", str(len(self._bound) + 1))
        return _Bound(binding, values, output, options)


def run_padded(
    session: BoundSession, inputs: Mapping[str, Tensor], bucket: int
) -> NDArray[np.float32]:
    """Hidden states of prompts that are padded on the left to a multiple of `bucket` for the run.

    The tokens added are masked, so that none of the others sees them.
    """
    missing = -inputs["input_ids"].shape[1] % bucket
    feed = dict(inputs)
    for name in ("input_ids", "attention_mask", "position_ids"):
        width = [(0, 0)] * (inputs[name].ndim - 1) + [(missing, 0)]
        # The first token stands in for the padding: no prompt begins with a picture's.
        feed[name] = np.pad(inputs[name], width, mode="edge" if name == "input_ids" else "constant")
    return session.run(feed)[:, missing:]
