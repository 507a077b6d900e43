"""events.jsonl: what happened to a run beside its trials, appended and never changed."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

EVENTS: Final = "events.jsonl"
STARTED: Final = "started"
VOID: Final = "void"
KEY_OPENED: Final = "key opened"


def read_events(directory: Path) -> list[dict[str, Any]]:
    """Every whole line; one that a killed process left unfinished is not an event.

    Raises:
        ValueError: a line is damaged; the text names it.
    """
    path = directory / EVENTS
    if not path.exists():
        return []
    events = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError("no event")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not an event ({error})") from error
        events.append(event)
    return events


def append_event(directory: Path, event: str, **content: Any) -> dict[str, Any]:
    """Write one event, and wait until it is on disk; only the run's owner (TrialLog) may."""
    written = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **content}
    with (directory / EVENTS).open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(json.dumps(written).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return written
