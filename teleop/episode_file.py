"""Random access to one committed episode: nothing is copied before it is asked for."""

from __future__ import annotations

import io
import json
import mmap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Attachment, ChunkIndex, Metadata
from mcap.records import Channel as McapChannel
from numpy.typing import NDArray

from contracts import episode as layout
from contracts.calibration import Calibration
from contracts.episode import EpisodeError, EpisodeHeader, MessageType, Outcome
from contracts.geometry import Vector

MAGIC: Final = b"\x89MCAP0\r\n"
RECORD_HEAD: Final = 9
"""Bytes of a record's opcode and length."""
CHUNK_HEAD: Final = RECORD_HEAD + 40
"""Bytes before the messages of an uncompressed chunk (mcap.dev/spec, Chunk)."""
MESSAGE_HEAD: Final = RECORD_HEAD + 22
"""Bytes before a message's data (mcap.dev/spec, Message)."""
INDEX_HEAD: Final = RECORD_HEAD + 6
"""Bytes before the entries of a message index (mcap.dev/spec, MessageIndex)."""


@dataclass(frozen=True)
class Pictures:
    """One camera's pictures in time order: stamps (N,) [s], and where each message's data lies."""

    stamps: Vector
    _places: tuple[tuple[int, int], ...]
    _bytes: memoryview

    def __len__(self) -> int:
        return len(self._places)

    def jpeg(self, index: int) -> memoryview:
        """JPEG bytes of a picture, a view of the file."""
        start, size = self._places[index]
        return layout.decode_image(self._bytes[start : start + size])[1]


class EpisodeFile:
    """A committed episode, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Open and check what is needed to find messages.

        Raises:
            EpisodeError: not whole, not an episode, or of another schema version.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise EpisodeError(f"{path}: cannot be read: {error}") from error
        if self._map[: len(MAGIC)] != MAGIC or self._map[-len(MAGIC) :] != MAGIC:
            raise EpisodeError(f"{path}: not a whole MCAP file; see python -m teleop.repair")
        try:
            summary = SeekingReader(self._map).get_summary()  # type: ignore[arg-type]
        except (McapError, ValueError) as error:
            raise EpisodeError(f"{path}: its summary is damaged: {error}") from error
        if summary is None or summary.statistics is None:
            raise EpisodeError(f"{path}: an MCAP file without a summary")
        self._summary = summary
        self._channels: dict[str, McapChannel] = {c.topic: c for c in summary.channels.values()}
        self._chunks: list[ChunkIndex] = sorted(
            summary.chunk_indexes, key=lambda chunk: chunk.chunk_start_offset
        )
        if any(chunk.compression for chunk in self._chunks):
            raise EpisodeError(f"{path}: its chunks are compressed; not recorded by this software")
        self._bytes = np.frombuffer(self._map, np.uint8)
        try:
            self.header = EpisodeHeader.from_json(self._metadata(layout.HEADER_RECORD))
            self.outcome = Outcome.from_json(self._metadata(layout.OUTCOME_RECORD))
        except EpisodeError as error:
            raise EpisodeError(f"{path}: {error}") from error

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration that held when this was recorded.

        Raises:
            EpisodeError: it is there and wrong.
        """
        document = self.calibration_bytes
        if document is None:
            return None
        try:
            return Calibration.from_document(json.loads(document))
        except ValueError as error:
            raise EpisodeError(f"{self.path}: calibration: {error}") from error

    @cached_property
    def calibration_bytes(self) -> bytes | None:
        """The calibration attachment as it was recorded."""
        for index in self._summary.attachment_indexes:
            if index.name == layout.CALIBRATION_ATTACHMENT:
                return bytes(Attachment.read(self._record(index.offset)).data)
        return None

    def rows(self, message: MessageType) -> NDArray[np.void]:
        """All messages of one type, (N,) rows of its dtype in the order of recording.

        Raises:
            EpisodeError: a message of another size than the layout says.
        """
        starts, sizes = self._places(message.topic)
        size = message.dtype.itemsize
        if (sizes != size).any():
            raise EpisodeError(f"{self.path}: a message on {message.topic} is not {size} bytes")
        return message.decode(self._bytes[starts[:, None] + np.arange(size)])

    def pictures(self, camera: str) -> Pictures:
        """Pictures of a camera; empty where it has none."""
        starts, sizes = self._places(layout.camera_topic(camera))
        view = memoryview(self._map)
        places = tuple(zip(starts.tolist(), sizes.tolist(), strict=True))
        stamps = [layout.decode_image(view[at : at + size])[0] for at, size in places]
        return Pictures(np.array(stamps, np.float64), places, view)

    def events(self) -> list[tuple[float, str, str]]:
        """Stamp [s], name and text of all events."""
        view = memoryview(self._map)
        starts, sizes = self._places(layout.EVENT_TOPIC)
        places = zip(starts.tolist(), sizes.tolist(), strict=True)
        return [layout.decode_event(view[at : at + size]) for at, size in places]

    def log_times(self, topic: str) -> Vector:
        """When each message of a topic was recorded, (N,) [s]."""
        entries = self._entries(topic)
        return np.concatenate([e[:, 0] for _, e in entries]) * 1e-9 if entries else np.zeros(0)

    def messages(self, topic: str) -> list[tuple[int, int, bytes]]:
        """Log time and publish time [ns] and data of all messages of a topic, to copy them."""
        found = []
        for start, size in zip(*(v.tolist() for v in self._places(topic)), strict=True):
            log, publish = np.frombuffer(self._map, "<u8", 2, start - 16).tolist()
            found.append((log, publish, self._map[start : start + size]))
        return found

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics, with or without messages."""
        return tuple(self._channels)

    def _record(self, offset: int) -> ReadDataStream:
        """The content of the record at `offset`."""
        size = int.from_bytes(self._map[offset + 1 : offset + RECORD_HEAD], "little")
        start = offset + RECORD_HEAD
        return ReadDataStream(io.BytesIO(self._map[start : start + size]))

    def _metadata(self, name: str) -> str:
        for index in self._summary.metadata_indexes:
            if index.name == name:
                text = Metadata.read(self._record(index.offset)).metadata.get(layout.JSON_KEY)
                if text is not None:
                    return str(text)
        raise EpisodeError(f"no metadata {name!r}: not an episode")

    def _entries(self, topic: str) -> list[tuple[int, NDArray[np.uint64]]]:
        """Of each chunk with such messages: where its data starts, rows of log time and offset."""
        channel = self._channels.get(topic)
        if channel is None:
            return []
        found = []
        for chunk in self._chunks:
            at = chunk.message_index_offsets.get(channel.id)
            if at is None:
                continue
            size = int.from_bytes(self._map[at + INDEX_HEAD - 4 : at + INDEX_HEAD], "little")
            pairs = np.frombuffer(self._map, "<u8", size // 8, at + INDEX_HEAD)
            found.append((chunk.chunk_start_offset + CHUNK_HEAD, pairs.reshape(-1, 2)))
        return found

    def _places(self, topic: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start and size (N,) of the data of each message."""
        entries = self._entries(topic)
        if not entries:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        records = np.concatenate([start + e[:, 1].astype(np.int64) for start, e in entries])
        lengths = self._bytes[records[:, None] + 1 + np.arange(8)].view("<u8")[:, 0]
        return records + MESSAGE_HEAD, lengths.astype(np.int64) - (MESSAGE_HEAD - RECORD_HEAD)
