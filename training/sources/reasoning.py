"""Reasoning questions: multiple choice, and what distillation made of them (`training.reasoning`).

Layout, this repository's own: `*.jsonl` in the folder, written by `training.reasoning`. Lines of
its `distill` have name, images, question, answer with the thought in it, and system; lines of its
`questions` have name, images, question, choices, the index of the right one as answer, and wording.
They are made from RoboAlign VQA and from SAM 2's masks (paper, Appendix A.3).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from training.multiple_choice import Mcq
from training.samples import SYSTEM, Sample
from training.sources.json_records import JsonShard
from training.sources.records import Records, open_shards, require_folder
from training.sources.vqa_lines import views

NAME: Final = "reasoning"


def read(folder: Path) -> Records:
    """Samples of the data set. Raises FileNotFoundError: no folder, or no `*.jsonl` in it."""
    require_folder(folder)
    shards, broken = open_shards(NAME, folder, folder.glob("*.jsonl"), JsonShard)
    return Records(NAME, shards, partial(_build, folder), broken=broken)


def _build(folder: Path, name: str, record: Any, _part: int) -> Sample:
    question, answer = record["question"], record["answer"]
    if "choices" in record:
        mcq = Mcq(
            name=name,
            images=(),
            question=question,
            choices=tuple(record["choices"]),
            answer=answer,
            wording=record.get("wording", 0),
        )
        question, answer = mcq.prompt, mcq.letter
    pictures = views(folder, name, record)
    return Sample(name, NAME, pictures, question, answer, record.get("system", SYSTEM))
