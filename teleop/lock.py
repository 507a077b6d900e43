"""One writer a data set."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Final, Self

LOCK_FILE: Final = ".lock"


class DatasetBusy(Exception):
    """Another process writes to the data set; the text says what to do."""


class DatasetLock:
    """Holds a data set for this process; the system lets go of it when the process ends."""

    def __init__(self, dataset: Path) -> None:
        """Take the lock.

        Raises:
            DatasetBusy: somebody else has it.
        """
        self._file = (dataset / LOCK_FILE).open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            text = "another collector or repair writes here; wait for it or choose another --out"
            raise DatasetBusy(f"{dataset}: {text}") from error

    def release(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
