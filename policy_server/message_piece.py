"""Pieces of msgpack messages with values at known places, written and read without a parser.

`contracts.wire` packs one example of a message; where its values stand, the next ones' do too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

MARK = b"\x3f\xe0\xff\xfe\xff\xfe\xff\x01"
"""A number as msgpack writes it, to be found in an example; no text has these bytes."""
MARKED: float = struct.unpack(">d", MARK)[0]
"""That number: within 0..1, so that it can be any of a message's."""
NUMBER = "d"
"""Its format (of `struct`)."""
ARRAY_DATA, ARRAY_END = b"\xc4\x04data", b"\xc4\x05dtype"
"""What stands before the size of an array's data, and after the data."""


class Piece:
    """Bytes of a message that are always the same, but for values at known places."""

    def __init__(
        self, data: bytes, start: int, end: int, values: Iterable[tuple[int, str]]
    ) -> None:
        """From `start` to `end` of the message `data`; values by place and format, in order."""
        formats, self._constants, self._start = [">"], [], start
        for place, form in [*values, (end, "")]:
            self._constants.append(data[start:place])
            formats += [f"{place - start}s", form]
            start = place + struct.calcsize(f">{form}")
        self._struct = struct.Struct("".join(formats))
        self.values = len(self._constants) - 1

    def write(self, values: Sequence[float | bytes]) -> bytes:
        fields: list[float | bytes] = [b""] * (2 * self.values + 1)
        fields[::2], fields[1::2] = self._constants, values
        return self._struct.pack(*fields)

    def read(self, message: memoryview) -> tuple[Any, ...] | None:
        """The values, or None if what stands between them is not the same."""
        fields = self._struct.unpack_from(message, self._start)
        return fields[1::2] if list(fields[::2]) == self._constants else None
