"""ONNX Runtime on the CPU."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
    row,
)

CPU = [("CPUExecutionProvider", {})]
QUIET = 3
"""ONNX Runtime's log level for errors only."""
REMEMBERED_RUNS, TRY_THE_OTHER = 7, 120
"""Of each of two sessions; and after how many runs the slower one gets one, should it be faster."""


class OnnxRuntimeEngine:
    """Both graphs in ONNX Runtime sessions; see `engine` for the graphs and the life cycle.

    Several requests run side by side, each on one thread: their matrices are large enough as they
    are, and threads that share an operator wait for each other at its end. A request alone has all
    threads if that is faster, which depends on what else the machine does (`FasterSession`); for
    that, the backbone's weights are there twice. The head's operators are too small to be shared.
    """

    def __init__(self, directory: Path, threads: int = DEFAULT_THREADS) -> None:
        """Read both graphs; `threads` run at once.

        Raises:
            BundleError: a graph cannot be read or has other inputs than `engine` says.
        """
        alone = cpu_options(1)
        self._backbone = open_session(directory / BACKBONE, alone, CPU)
        self._head = open_session(directory / HEAD, alone, CPU)
        self.fixed_steps, self.continues = check_graphs(directory, self._backbone, self._head)
        self._threads: ThreadPoolExecutor | None = None
        if threads > 1:
            shared = open_session(directory / BACKBONE, cpu_options(threads), CPU)
            self._faster = FasterSession(shared, self._backbone)
            self._threads = ThreadPoolExecutor(threads, "backbone")

    def backbone(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        rows = len(inputs["input_ids"])
        if self._threads is None:
            return _hidden(self._backbone, inputs)
        if rows == 1:
            return self._faster.run(inputs)
        each = [row(inputs, number) for number in range(rows)]
        return np.concatenate(list(self._threads.map(partial(_hidden, self._backbone), each)))

    def head(self, inputs: Mapping[str, Tensor], steps: int) -> NDArray[np.float32]:
        feed = dict(inputs)
        if not self.fixed_steps:
            feed[STEPS_INPUT] = np.array(steps, np.int64)
        actions: NDArray[np.float32] = self._head.run(["actions"], feed)[0]
        return actions


class FasterSession:
    """Of two sessions on one graph the one that was faster lately.

    Threads that share operators save a third of the time where each has a core to itself, and cost
    as much where another process takes one now and then: all wait for the thread that lost its.
    """

    def __init__(self, *sessions: ort.InferenceSession) -> None:
        self._sessions = sessions
        self._times: list[deque[float]] = [deque(maxlen=REMEMBERED_RUNS) for _ in sessions]
        self._runs = 0

    def run(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        number = self._choice()
        started = time.perf_counter()
        hidden = _hidden(self._sessions[number], inputs)
        self._times[number].append(time.perf_counter() - started)
        self._runs += 1
        return hidden

    def _choice(self) -> int:
        counts = [len(times) for times in self._times]
        if min(counts) < REMEMBERED_RUNS:
            return counts.index(min(counts))
        medians = [statistics.median(times) for times in self._times]
        best = medians.index(min(medians))
        return best if self._runs % TRY_THE_OTHER else 1 - best


def _hidden(backbone: ort.InferenceSession, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
    hidden: NDArray[np.float32] = backbone.run(["hidden"], dict(inputs))[0]
    return hidden


def cpu_options(threads: int) -> ort.SessionOptions:
    """Options of a session that shares its machine with a robot."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    # A graph has hundreds of short operators: waking a thread for each costs more than it gains, so
    # threads spin from one to the next. Not after the run: that would take the cores of the two
    # graphs' neighbours, the camera, the arm, and the other graph's own threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
