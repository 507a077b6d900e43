"""TFRecord files without TensorFlow: the framing, and tf.train's Example and SequenceExample.

Layout of the framing: tensorflow.org/tutorials/load_data/tfrecord ("TFRecords format details");
of the messages: tensorflow/core/example/{example,feature}.proto. The checksum of each record's
length is verified, which finds cut and overwritten files while indexing; that of the payload is
not (in Python it takes longer than decoding the pictures), a damaged payload does not decode.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

_HEADER: Final = struct.Struct("<QI")
_FOOTER_SIZE: Final = 4


def _field(name: str, number: int, kind: str, *, repeated: bool = False) -> dict[str, Any]:
    """A field of a scalar (`TYPE_...`) or, for any other kind, of that message."""
    label = "LABEL_REPEATED" if repeated else "LABEL_OPTIONAL"
    typed = {"type": kind} if kind.startswith("TYPE_") else {"typeName": f".tfexample.{kind}"}
    return {"name": name, "number": number, "label": label} | typed


def _map_message(name: str, field: str, value: str) -> dict[str, Any]:
    """A message whose only field is map<string, value>."""
    entry = "".join(part.capitalize() for part in field.split("_")) + "Entry"
    return {
        "name": name,
        "field": [_field(field, 1, f"{name}.{entry}", repeated=True)],
        "nestedType": [
            {
                "name": entry,
                "field": [_field("key", 1, "TYPE_STRING"), _field("value", 2, value)],
                "options": {"mapEntry": True},
            }
        ],
    }


_PROTO: Final = {
    "name": "tfexample.proto",
    "package": "tfexample",
    "syntax": "proto3",
    "messageType": [
        {"name": "BytesList", "field": [_field("value", 1, "TYPE_BYTES", repeated=True)]},
        {"name": "FloatList", "field": [_field("value", 1, "TYPE_FLOAT", repeated=True)]},
        {"name": "Int64List", "field": [_field("value", 1, "TYPE_INT64", repeated=True)]},
        {
            "name": "Feature",
            "field": [
                _field("bytes_list", 1, "BytesList"),
                _field("float_list", 2, "FloatList"),
                _field("int64_list", 3, "Int64List"),
            ],
        },
        _map_message("Features", "feature", "Feature"),
        {"name": "FeatureList", "field": [_field("feature", 1, "Feature", repeated=True)]},
        _map_message("FeatureLists", "feature_list", "FeatureList"),
        {"name": "Example", "field": [_field("features", 1, "Features")]},
        {
            "name": "SequenceExample",
            "field": [
                _field("context", 1, "Features"),
                _field("feature_lists", 2, "FeatureLists"),
            ],
        },
    ],
}


def _messages() -> dict[str, type[Message]]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(json_format.ParseDict(_PROTO, descriptor_pb2.FileDescriptorProto()))
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tfexample.{name}"))
        for name in ("Example", "SequenceExample")
    }


Example, SequenceExample = _messages().values()


class TfRecordShard:
    """Payloads of a TFRecord file."""

    blocks: tuple[int, ...] = ()

    def __init__(self, path: Path, name: str) -> None:
        """Find the records. Raises ValueError: not even one whole record in a file with content."""
        self.path, self.name = path, name
        spans, self.damage = _spans(path)
        if self.damage and not spans:
            raise ValueError(self.damage)
        self._spans = np.array(spans, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> bytes:
        start, size = self._spans[index].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(size)


def parse(kind: type[Message], payload: bytes) -> Any:
    """Message of a payload. Raises ValueError: it is none."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise ValueError(f"not a tf.train.{kind.DESCRIPTOR.name}: {error}") from error


def framed(payload: bytes) -> bytes:
    """One record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    checksums = (masked_crc32c(length), masked_crc32c(payload))
    return length + struct.pack("<I", checksums[0]) + payload + struct.pack("<I", checksums[1])


def _spans(path: Path) -> tuple[list[tuple[int, int]], str]:
    """Start and size of every payload, and what is wrong where they end before the file does."""
    size, position, spans = path.stat().st_size, 0, []
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return spans, f"cut in the header of record {len(spans)}"
            length, checksum = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != checksum:
                return spans, f"wrong checksum at record {len(spans)}, byte {position}"
            end = position + _HEADER.size + length + _FOOTER_SIZE
            if end > size:
                return spans, f"cut in record {len(spans)}"
            spans.append((position + _HEADER.size, length))
            position = end
    return spans, ""


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_CRC_TABLE: Final = _crc_table().tolist()


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C (Castagnoli), rotated and shifted by a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
