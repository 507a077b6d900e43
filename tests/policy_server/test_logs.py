"""Logs: one JSON object a line, and a disk that is full or slow stops nothing."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from policy_server.logs import JsonLinesFile, LogFile


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("policy_server.test", logging.INFO, "", 0, message, (), None)
    made.__dict__.update(extra)
    return made


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_each_record_is_a_line_with_its_fields(tmp_path: Path) -> None:
    file = JsonLinesFile(tmp_path / "log")
    try:
        raise ValueError("bad\nnews")
    except ValueError as error:
        file.emit(record("one", fields={"client": "robot", "path": tmp_path}))
        file.emit(record("two\nlines", exc_info=(type(error), error, error.__traceback__)))
    file.close()
    one, two = lines(tmp_path / "log")
    assert one["client"] == "robot"
    assert one["level"] == "info"
    assert two["message"] == "two\nlines"
    assert "ValueError: bad\nnews" in str(two["exception"])


def test_a_full_disk_is_counted_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    file = JsonLinesFile(Path("/dev/full"))
    for _ in range(3):
        file.emit(record("lost"))
    file.close()
    assert file.dropped == 3
    assert capfd.readouterr().err == ""


def test_a_torn_line_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = JsonLinesFile(tmp_path / "log")
    write = os.write
    monkeypatch.setattr(os, "write", lambda target, data: write(target, data[:10]))
    file.emit(record("torn"))
    monkeypatch.setattr(os, "write", write)
    file.emit(record("whole"))
    file.close()
    assert file.dropped == 1
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["message"] == "whole"


def test_the_file_gets_what_is_logged_anywhere(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.setLevel(logging.INFO)
    try:
        file = LogFile(tmp_path / "log")
        logging.getLogger("policy_server.somewhere").info("said %d", 7)
        file.flush()
        file._listener.stop()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert [line["message"] for line in lines(tmp_path / "log")] == ["said 7"]
    assert file.dropped == 0
