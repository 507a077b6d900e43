"""RoboVQA (Sermanet et al. 2024): questions about long tasks of robots and people.

Layout: gs://gdm-robovqa and the data notebook of robovqa.github.io: `tfrecord/{train,val}/*`, each
record a SequenceExample with `images` (JPEG frames, the last of which is taken) and `texts` (one
text of many tasks: `<task:planning:...> ... Q: ... <PRED>A: ...</PRED>`). Two questions a record,
chosen by the sample's name. The same texts in `json/` need decoded videos and are not read.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any, Final

from training.samples import Sample
from training.sources import pictures
from training.sources.records import Records, open_shards, require_folder
from training.sources.tfrecords import SequenceExample, TfRecordShard, parse

NAME: Final = "robovqa"
QUESTIONS_PER_RECORD: Final = 2
_TASK = re.compile(r"<task[:\w]*>", re.IGNORECASE)
_ANSWER = re.compile(r"<PRED[:\w]*>\s*A:|\bA:", re.IGNORECASE)
_TAG = re.compile(r"</?\w[:\w]*>")


def read(folder: Path) -> Records:
    """Samples of the data set. Raises FileNotFoundError: no folder, or no record file in it."""
    require_folder(folder)
    paths = [path for path in folder.glob("tfrecord/*/*") if path.is_file()]
    shards, broken = open_shards(NAME, folder, paths, TfRecordShard)
    return Records(NAME, shards, _build, per_record=QUESTIONS_PER_RECORD, broken=broken)


def questions(text: str) -> list[tuple[str, str]]:
    """Questions and answers of a record's text, without tags."""
    found = []
    for task in _TASK.split(text):
        match = _ANSWER.search(task)
        if match is None:
            continue
        question = _TAG.sub("", task[: match.start()]).strip()
        answer = _TAG.sub("", task[match.end() :]).strip()
        if question and answer:
            found.append((question, answer))
    return found


def _build(name: str, payload: bytes, part: int) -> Sample:
    lists = parse(SequenceExample, payload).feature_lists.feature_list
    # Looking a missing key of a protobuf map up would add it.
    if "images" not in lists or "texts" not in lists:
        raise KeyError(f"feature lists {sorted(lists)} without images or texts")
    found = questions(lists["texts"].feature[0].bytes_list.value[0].decode())
    if not found:
        raise ValueError("no question in the text")
    stem = name.rpartition(".")[0]
    question, answer = found[(zlib.crc32(stem.encode()) + part) % len(found)]
    picture = pictures.decode(name, lists["images"].feature[-1].bytes_list.value[0])
    return Sample(name, NAME, (picture,), question, answer)


def serialized(frames: list[bytes], text: str) -> bytes:
    """A record of the layout, from encoded frames and the text of its tasks."""
    record: Any = SequenceExample()
    lists = record.feature_lists.feature_list
    for frame in frames:
        lists["images"].feature.add().bytes_list.value.append(frame)
    lists["texts"].feature.add().bytes_list.value.append(text.encode())
    return bytes(record.SerializeToString())
