"""Structured logs: one JSON object a line, written by a thread that may fail or hang alone."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import time
from datetime import UTC, datetime
from pathlib import Path

WAITING_LINES = 4096
"""More lines than this wait only if the disk hangs; then the newest are dropped."""


class JsonLinesFile(logging.Handler):
    """Appends records to a file; what cannot be written is counted, and nothing else happens.

    Each line is one write of its own, so logging goes on as soon as a full disk has room again.
    The record's `extra={"fields": {...}}` becomes part of the object.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` for appending.

        Raises:
            OSError: it cannot be opened.
        """
        super().__init__(logging.INFO)
        self.dropped = 0
        self._torn = False
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def emit(self, record: logging.LogRecord) -> None:
        line = (self._line(record) + "\n").encode()
        if self._torn:
            line = b"\n" + line
        try:
            written = os.write(self._file, line)
        except OSError:
            self.dropped += 1
            return
        self._torn = written < len(line)
        self.dropped += self._torn

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        super().close()

    def _line(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["exception"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(content, default=str)


class LogFile:
    """All records of at least INFO into one file, through a bounded queue and a thread."""

    def __init__(self, path: Path) -> None:
        """Start to log.

        Raises:
            OSError: the file cannot be opened.
        """
        self._file = JsonLinesFile(path)
        self._queue = _DroppingQueueHandler()
        self._listener = logging.handlers.QueueListener(self._queue.queue, self._file)
        self._listener.start()
        logging.getLogger().addHandler(self._queue)

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._file.dropped + self._queue.dropped

    def flush(self, bound_s: float = 1.0) -> None:
        """Let what waits be written; a disk that hangs gets `bound_s`."""
        deadline = time.monotonic() + bound_s
        while not self._queue.queue.empty() and time.monotonic() < deadline:
            time.sleep(0.01)


class _DroppingQueueHandler(logging.handlers.QueueHandler):
    def __init__(self) -> None:
        super().__init__(queue.Queue(WAITING_LINES))
        self.setLevel(logging.INFO)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # The standard one would put the traceback into the message; the file has a field for it.
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


def log_to_stderr() -> None:
    """Warnings and errors for the person who started the server."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("policy server: %(levelname)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
