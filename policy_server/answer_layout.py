"""Where the values of an answer stand: for answers what `request_layout` is for requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from contracts import wire
from contracts.action import ActionChunk
from contracts.wire import WireError
from policy_server.message_piece import ARRAY_END, MARK, MARKED, NUMBER, Piece

SHORT_TEXT = 32
"""msgpack's text below this many bytes has a header of one byte; of two below 256."""
LONGEST_ID = 255


@dataclass(frozen=True)
class ServedChunk:
    """A chunk as the server answers it, with its times [ms] by stage and the bundle's hash."""

    chunk: ActionChunk
    timing: Mapping[str, float]
    bundle_hash: str

    def message(self) -> dict[str, object]:
        """What `contracts.wire` packs."""
        extra = {"server_timing": dict(self.timing), "bundle_hash": self.bundle_hash}
        return wire.chunk_to_message(self.chunk) | extra


class AnswerLayout:
    """Places in the answers of one form: length of the id and horizon, stages, bundle."""

    def __init__(self, like: ServedChunk) -> None:
        self._id_bytes = len(like.chunk.chunk_id.encode())
        self._horizon, self._stages = like.chunk.horizon, list(like.timing)
        self._bundle_hash = like.bundle_hash
        poses = np.tile([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], (self._horizon, 1))
        name = "x" * self._id_bytes
        chunk = ActionChunk(name, MARKED, MARKED, poses, np.zeros(self._horizon))
        timing = dict.fromkeys(self._stages, MARKED)
        data = wire.pack(ServedChunk(chunk, timing, self._bundle_hash).message())
        header = 1 if self._id_bytes < SHORT_TEXT else 2
        key = wire.pack("chunk_id")
        places = [(data.index(key) + len(key) + header, f"{self._id_bytes}s")]
        end = data.index(ARRAY_END)
        actions = 8 * self._horizon * np.dtype(np.float64).itemsize
        at = places[0][0]
        for _ in ("observation_stamp", "time_step"):
            at = data.index(MARK, at)
            places.append((at, NUMBER))
            at += len(MARK)
        places.append((end - actions, f"{actions}s"))
        at = end
        for _ in self._stages:
            at = data.index(MARK, at)
            places.append((at, NUMBER))
            at += len(MARK)
        self._piece = Piece(data, 0, len(data), places)
        self._size = len(data)

    def fits(self, served: ServedChunk) -> bool:
        """Whether `served` has this form."""
        chunk = served.chunk
        return (
            len(chunk.chunk_id) == self._id_bytes
            and chunk.chunk_id.isascii()
            and len(chunk.poses) == self._horizon
            and served.bundle_hash == self._bundle_hash
            and list(served.timing) == self._stages
        )

    def write(self, served: ServedChunk) -> bytes:
        """The message of an answer of this form."""
        chunk = served.chunk
        actions = np.concatenate([chunk.poses, chunk.gripper[:, None]], axis=1)
        head = chunk.chunk_id.encode(), chunk.observation_stamp, chunk.time_step
        return self._piece.write((*head, actions.tobytes(), *served.timing.values()))

    def read(self, message: bytes | memoryview) -> ServedChunk | None:
        """The answer in `message`; None if its form is another or the chunk is not valid."""
        if len(message) != self._size:
            return None
        values = self._piece.read(memoryview(message))
        if values is None:
            return None
        name, stamp, step, data, *times = values
        actions = np.frombuffer(data).reshape(self._horizon, 8)
        try:
            chunk = ActionChunk(str(name, "utf-8"), stamp, step, actions[:, :7], actions[:, 7])
        except ValueError:
            return None
        return ServedChunk(chunk, dict(zip(self._stages, times, strict=True)), self._bundle_hash)


class LastAnswerLayout:
    """The layout of the answer that came last."""

    def __init__(self) -> None:
        self._layout: AnswerLayout | None = None

    def write(self, served: ServedChunk) -> bytes:
        """The message of an answer."""
        layout = self._layout
        if layout is not None and layout.fits(served):
            return layout.write(served)
        self._learn(served)
        return wire.pack(served.message())

    def read(self, message: bytes | memoryview) -> ServedChunk:
        """The answer in `message`.

        Raises:
            WireError: it is not one.
        """
        served = None if self._layout is None else self._layout.read(message)
        if served is None:
            fields = wire.unpack(message)
            chunk = wire.chunk_from_message(fields)
            timing, bundle_hash = fields.get("server_timing", {}), fields.get("bundle_hash", "")
            if not isinstance(timing, dict) or not isinstance(bundle_hash, str):
                raise WireError("'server_timing' must be a map and 'bundle_hash' text")
            served = ServedChunk(chunk, timing, bundle_hash)
            self._learn(served)
        return served

    def _learn(self, served: ServedChunk) -> None:
        id_bytes = len(served.chunk.chunk_id.encode())
        self._layout = AnswerLayout(served) if id_bytes <= LONGEST_ID else None
