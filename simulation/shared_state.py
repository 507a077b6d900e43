"""The live world's state in a named block of shared memory: one writer, any number of readers.

The block is a file in /dev/shm, mapped by hand: until Python 3.13 the resource tracker of
`multiprocessing.shared_memory` unlinks a block as soon as one of its readers ends. The writer holds
a file lock, so a block left by a killed simulator is taken over, and a living one's is not.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.geometry import Vector

DIRECTORY: Final = Path("/dev/shm")
_MAGIC: Final = 0x526F626F416C6731
_HEADER: Final = 6
"""64-bit words before the values: magic, nq, nmocap, sequence, then stamp and simulation time."""
_READ_ATTEMPTS: Final = 50


class SharedStateError(RuntimeError):
    """The block cannot be opened or read; the text says which and why."""


@dataclass(frozen=True)
class WorldState:
    """One moment of the world: qpos (nq,), mocap_pos (nmocap, 3), mocap_quat (nmocap, 4).

    stamp: wall clock [s, time.time()] of this state; time: simulated seconds; sequence: grows by
    one with every state written.
    """

    qpos: Vector
    mocap_pos: Vector
    mocap_quat: Vector
    stamp: float
    time: float
    sequence: int


def block_path(name: str) -> Path:
    """File of the block `name`; ValueError if the name is not a plain one."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name) or name.startswith("."):
        raise ValueError(f"shared memory name {name!r}: use letters, digits, '_', '-' and '.'")
    return DIRECTORY / name


class _Block:
    """The mapped words: integers and floats of 8 bytes at the same addresses."""

    def __init__(self, mapped: mmap.mmap, nq: int, nmocap: int) -> None:
        self.integers: NDArray[np.int64] = np.frombuffer(mapped, dtype=np.int64)
        floats = np.frombuffer(mapped, dtype=np.float64)
        self.clocks = floats[4:_HEADER]
        values = floats[_HEADER : _HEADER + nq + 7 * nmocap]
        self.qpos = values[:nq]
        self.mocap_pos = values[nq : nq + 3 * nmocap].reshape(nmocap, 3)
        self.mocap_quat = values[nq + 3 * nmocap :].reshape(nmocap, 4)


class StateWriter:
    """Creates the block `name`, and removes it on `close`."""

    def __init__(self, name: str, nq: int, nmocap: int) -> None:
        """Raises SharedStateError: another living process writes this block."""
        self._path = block_path(name)
        size = 8 * (_HEADER + nq + 7 * nmocap)
        self._descriptor = _open_locked(self._path)
        os.ftruncate(self._descriptor, size)
        self._block = _Block(mmap.mmap(self._descriptor, size), nq, nmocap)
        # A block taken over may hold an odd sequence: its writer died while writing.
        self._sequence = (int(self._block.integers[3]) // 2 + 1) * 2
        self._block.integers[:4] = (_MAGIC, nq, nmocap, self._sequence)
        self._block.clocks[:] = 0.0

    def write(self, qpos: Vector, mocap_pos: Vector, mocap_quat: Vector, sim_time: float) -> None:
        """Publish one state, stamped with the wall clock of now."""
        block = self._block
        # Odd while the values change: a reader that sees it, or sees it move, reads again.
        block.integers[3] = self._sequence + 1
        block.qpos[:] = qpos
        block.mocap_pos[:] = mocap_pos
        block.mocap_quat[:] = mocap_quat
        block.clocks[0] = time.time()
        block.clocks[1] = sim_time
        self._sequence += 2
        block.integers[3] = self._sequence

    def close(self) -> None:
        """Remove the block; readers keep what they have mapped."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _open_locked(path: Path) -> int:
    """Descriptor of the file at `path`, locked. Raises SharedStateError: another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A writer that ended in between has removed the file whose lock we got.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise SharedStateError(
                f"shared memory {path.name!r} belongs to another running simulation"
            ) from error
        os.close(descriptor)


class StateReader:
    """Reads the block `name`."""

    def __init__(self, name: str) -> None:
        """Raises SharedStateError: there is no such block, or it is not one of ours."""
        self.name = name
        try:
            descriptor = os.open(block_path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise SharedStateError(
                f"no shared memory {name!r}: is the simulation running?"
            ) from error
        try:
            self._block = self._map(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> WorldState | None:
        """The newest state; None if none was written yet.

        Raises:
            SharedStateError: the writer died in the middle of a state.
        """
        block = self._block
        for _ in range(_READ_ATTEMPTS):
            before = int(block.integers[3])
            state = WorldState(
                block.qpos.copy(),
                block.mocap_pos.copy(),
                block.mocap_quat.copy(),
                float(block.clocks[0]),
                float(block.clocks[1]),
                before // 2,
            )
            if before % 2 == 0 and int(block.integers[3]) == before:
                return state if state.stamp > 0.0 else None
            time.sleep(1e-4)
        raise SharedStateError(f"shared memory {self.name!r}: its writer stopped within a state")

    def _map(self, descriptor: int) -> _Block:
        size = os.fstat(descriptor).st_size
        if size < 8 * _HEADER:
            raise SharedStateError(f"shared memory {self.name!r} is not filled yet")
        mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        magic, nq, nmocap = (int(v) for v in np.frombuffer(mapped, dtype=np.int64)[:3])
        if magic != _MAGIC or size != 8 * (_HEADER + nq + 7 * nmocap):
            raise SharedStateError(f"shared memory {self.name!r} is not a simulation's state")
        return _Block(mapped, nq, nmocap)
