"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contracts.bundle import BACKBONE, HEAD, BundleError
from policy_server.engines import DEFAULT_THREADS
from policy_server.engines.engine import (
    BACKBONE_INPUTS,
    CONTINUATION_INPUTS,
    STEPS_INPUT,
    Tensor,
    check_inputs,
    expected_head_inputs,
)

CPU = [("CPUExecutionProvider", {})]
QUIET = 3
"""ONNX Runtime's log level for errors only."""


class OnnxRuntimeEngine:
    """Both graphs in ONNX Runtime sessions; see `engine` for the graphs and the life cycle."""

    def __init__(self, directory: Path, threads: int = DEFAULT_THREADS) -> None:
        """Read both graphs; each operator may use `threads` threads.

        Raises:
            BundleError: a graph cannot be read or has other inputs than `engine` says.
        """
        options = cpu_options(threads)
        self._backbone = open_session(directory / BACKBONE, options, CPU)
        self._head = open_session(directory / HEAD, options, CPU)
        self.fixed_steps, self.continues = check_graphs(directory, self._backbone, self._head)

    def backbone(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        hidden: NDArray[np.float32] = self._backbone.run(["hidden"], dict(inputs))[0]
        return hidden

    def head(self, inputs: Mapping[str, Tensor], steps: int) -> NDArray[np.float32]:
        feed = dict(inputs)
        if not self.fixed_steps:
            feed[STEPS_INPUT] = np.array(steps, np.int64)
        actions: NDArray[np.float32] = self._head.run(["actions"], feed)[0]
        return actions


def cpu_options(threads: int) -> ort.SessionOptions:
    """Options of a session that shares its machine with a robot."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    # Threads that spin while they wait would take the cores of the two graphs' neighbours: the
    # camera, the arm, and the other graph's own threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(
    path: Path, options: ort.SessionOptions, providers: list[tuple[str, dict[str, str]]]
) -> ort.InferenceSession:
    """Session on the graph at `path`.

    Raises:
        BundleError: ONNX Runtime cannot read it.
    """
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    # ONNX Runtime's exceptions have no common type.
    except Exception as error:
        raise BundleError(f"{path}: ONNX Runtime cannot read the graph ({error})") from error


def check_graphs(
    directory: Path, backbone: ort.InferenceSession, head: ort.InferenceSession
) -> tuple[bool, bool]:
    """Whether the head's steps are fixed, and whether it continues chunks.

    Raises:
        BundleError: a graph has other inputs than `engine` says.
    """
    check_inputs(directory / BACKBONE, [i.name for i in backbone.get_inputs()], BACKBONE_INPUTS)
    names = {item.name for item in head.get_inputs()}
    check_inputs(directory / HEAD, names, expected_head_inputs(names))
    return STEPS_INPUT not in names, names >= CONTINUATION_INPUTS
