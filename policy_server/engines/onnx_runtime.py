"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contracts.bundle import BACKBONE, HEAD, BundleError
from policy_server.engines.engine import BACKBONE_INPUTS, HEAD_INPUTS, STEPS_INPUT, Tensor

DEFAULT_THREADS = 2
"""More threads than this gain little on lab-size graphs and disturb the arm's 1 kHz loop."""


class OnnxRuntimeEngine:
    """Both graphs in ONNX Runtime sessions; see `engine` for the graphs and the life cycle."""

    def __init__(self, directory: Path, threads: int = DEFAULT_THREADS) -> None:
        """Read both graphs; each operator may use `threads` threads.

        Raises:
            BundleError: a graph cannot be read or has other inputs than `engine` says.
        """
        self._backbone = _open(directory / BACKBONE, threads)
        self._head = _open(directory / HEAD, threads)
        _check_inputs(directory / BACKBONE, self._backbone, BACKBONE_INPUTS)
        self.fixed_steps = STEPS_INPUT not in _input_names(self._head)
        head_inputs = HEAD_INPUTS if self.fixed_steps else HEAD_INPUTS | {STEPS_INPUT}
        _check_inputs(directory / HEAD, self._head, head_inputs)

    def backbone(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        hidden: NDArray[np.float32] = self._backbone.run(["hidden"], dict(inputs))[0]
        return hidden

    def head(self, inputs: Mapping[str, Tensor], steps: int) -> NDArray[np.float32]:
        feed = dict(inputs)
        if not self.fixed_steps:
            feed[STEPS_INPUT] = np.array(steps, np.int64)
        actions: NDArray[np.float32] = self._head.run(["actions"], feed)[0]
        return actions


def _open(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait would take the cores of the two graphs' neighbours: the
    # camera, the arm, and the other graph's own threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's exceptions have no common type.
    except Exception as error:
        raise BundleError(f"{path}: ONNX Runtime cannot read the graph ({error})") from error


def _input_names(session: ort.InferenceSession) -> frozenset[str]:
    return frozenset(item.name for item in session.get_inputs())


def _check_inputs(path: Path, session: ort.InferenceSession, expected: frozenset[str]) -> None:
    names = _input_names(session)
    if names != expected:
        raise BundleError(
            f"{path}: the graph's inputs are {sorted(names)}, expected {sorted(expected)}"
        )
