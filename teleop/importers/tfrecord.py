"""TFRecord files of tf.train.Example without TensorFlow.

Framing: tensorflow.org/tutorials/load_data/tfrecord ("TFRecords format details"); messages:
tensorflow/core/example/{example,feature}.proto, read from protobuf's wire format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.episode import EpisodeError

HEADER: Final = struct.Struct("<QI")
FOOTER_BYTES: Final = 4
Feature = list[bytes] | NDArray[np.float32] | NDArray[np.int64]


def records(path: Path) -> Iterator[bytes]:
    """Payloads of a file; the checksums are not verified.

    Raises:
        EpisodeError: the file ends within a record.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while head := file.read(HEADER.size):
            length = HEADER.unpack(head)[0] if len(head) == HEADER.size else size
            if file.tell() + length + FOOTER_BYTES > size:
                raise EpisodeError(f"{path}: ends within a record")
            yield file.read(length)
            file.read(FOOTER_BYTES)


def parse_example(payload: bytes) -> dict[str, Feature]:
    """Features of a tf.train.Example by name.

    Raises:
        EpisodeError: it is none.
    """
    try:
        found: dict[str, Feature] = {}
        for features in _messages(payload, 1):
            for entry in _messages(features, 1):
                (name,), (value,) = list(_messages(entry, 1)), list(_messages(entry, 2))
                found[bytes(name).decode()] = _feature(value)
        return found
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise EpisodeError(f"not a tf.train.Example: {error}") from error


def _feature(data: bytes | memoryview) -> Feature:
    for number, kind in ((1, "bytes"), (2, "float"), (3, "int")):
        lists = list(_messages(data, number))
        if not lists:
            continue
        content = lists[0]
        if kind == "bytes":
            return [bytes(value) for value in _messages(content, 1)]
        if kind == "float":
            packed = b"".join(bytes(value) for value in _messages(content, 1, fixed=4))
            return np.frombuffer(packed, "<f4")
        return np.array([value for part in _fields(content) for value in _varints(part)], np.int64)
    return []


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(wire type, value) of every field of a message."""
    view, at = memoryview(data), 0
    while at < len(view):
        key, at = _varint(view, at)
        value, at = _value(view, at, key & 7)
        yield key, value


def _messages(data: bytes | memoryview, number: int, fixed: int = 0) -> Iterator[memoryview]:
    """Length-delimited fields with this number, and 32-bit ones if `fixed` is 4."""
    for key, value in _fields(data):
        if key >> 3 == number and isinstance(value, memoryview) and (key & 7 == 2 or fixed):
            yield value


def _varints(field: tuple[int, int | memoryview]) -> Iterator[int]:
    """Values of an Int64List's field, packed or not, with their sign."""
    value = field[1]
    if isinstance(value, int):
        yield _signed(value)
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield _signed(number)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _value(view: memoryview, at: int, kind: int) -> tuple[int | memoryview, int]:
    if kind == 0:
        return _varint(view, at)
    length = {1: 8, 5: 4}.get(kind, -1)
    if kind == 2:
        length, at = _varint(view, at)
    if length < 0 or at + length > len(view):
        raise ValueError(f"wire type {kind} at byte {at} of {len(view)}")
    return view[at : at + length], at + length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
