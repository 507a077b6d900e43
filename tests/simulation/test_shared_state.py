"""The shared block: one writer, consistent reads, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from simulation.shared_state import SharedStateError, StateReader, StateWriter, block_path

NQ, NMOCAP = 37, 4
DYING_WRITER = """
import os, numpy as np
from simulation.shared_state import StateWriter
writer = StateWriter({name!r}, {nq}, {nmocap})
writer.write(np.full({nq}, 7.0), np.zeros(({nmocap}, 3)), np.zeros(({nmocap}, 4)), 1.5)
writer._block.integers[3] += 1
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def name() -> str:
    return f"roboalign_test_{os.getpid()}_{time.monotonic_ns()}"


def write(writer: StateWriter, value: float) -> None:
    writer.write(
        np.full(NQ, value), np.full((NMOCAP, 3), value), np.full((NMOCAP, 4), value), value
    )


def test_what_was_written_is_read(name: str) -> None:
    writer = StateWriter(name, NQ, NMOCAP)
    reader = StateReader(name)
    assert reader.read() is None
    begin = time.time()
    write(writer, 3.0)
    state = reader.read()
    assert state is not None
    assert state.qpos.shape == (NQ,) and state.mocap_pos.shape == (NMOCAP, 3)
    assert (state.mocap_quat == 3.0).all() and state.time == 3.0
    assert begin <= state.stamp <= time.time()
    writer.close()
    assert not block_path(name).exists()


def test_a_read_never_mixes_two_states(name: str) -> None:
    writer = StateWriter(name, NQ, NMOCAP)
    write(writer, 0.0)
    stop = threading.Event()

    def keep_writing() -> None:
        value = 0.0
        while not stop.is_set():
            value += 1.0
            write(writer, value)

    thread = threading.Thread(target=keep_writing)
    thread.start()
    reader = StateReader(name)
    sequences = []
    while len(set(sequences)) < 50:
        time.sleep(0)  # lets the writer's thread in
        state = reader.read()
        assert state is not None
        values = {state.time, *state.qpos, *state.mocap_pos.flat, *state.mocap_quat.flat}
        assert len(values) == 1
        sequences.append(state.sequence)
    stop.set()
    thread.join()
    writer.close()
    assert sequences == sorted(sequences)


def test_a_second_writer_is_refused(name: str) -> None:
    writer = StateWriter(name, NQ, NMOCAP)
    with pytest.raises(SharedStateError, match="another running simulation"):
        StateWriter(name, NQ, NMOCAP)
    writer.close()


def test_a_block_left_by_a_killed_writer_is_taken_over(name: str) -> None:
    script = DYING_WRITER.format(name=name, nq=NQ, nmocap=NMOCAP)
    subprocess.run([sys.executable, "-c", script], check=False)
    reader = StateReader(name)
    with pytest.raises(SharedStateError, match="stopped within a state"):
        reader.read()
    writer = StateWriter(name, NQ, NMOCAP)
    write(writer, 9.0)
    state = reader.read()
    assert state is not None and state.qpos[0] == 9.0
    writer.close()
    assert not block_path(name).exists()


def test_a_missing_or_foreign_block_is_named(name: str) -> None:
    with pytest.raises(SharedStateError, match="is the simulation running"):
        StateReader(name)
    block_path(name).write_bytes(b"\1" * 4096)
    try:
        with pytest.raises(SharedStateError, match="not a simulation's state"):
            StateReader(name)
    finally:
        block_path(name).unlink()


@pytest.mark.parametrize("bad", ["", "../etc", "a/b", ".hidden", "x" * 101])
def test_names_that_are_no_plain_file_names_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="shared memory name"):
        block_path(bad)
