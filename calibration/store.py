"""The calibrations of one set-up: one dated YAML file each; the newest is in force."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import yaml

from calibration import files
from contracts.calibration import Calibration

PATTERN: Final = "????-??-??_??????*.yaml"


class CalibrationStore:
    """A folder of calibrations. Files are added, never changed or removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_in_force(self) -> Path | None:
        """The newest file; None if there is none yet."""
        return max(self.folder.glob(PATTERN), default=None, key=lambda path: path.name)

    def in_force(self) -> Calibration | None:
        """The newest calibration; None if there is none yet.

        Raises:
            ValueError: the file cannot be read; the message names it.
        """
        path = self.path_in_force()
        return None if path is None else read_calibration(path)

    def write(self, calibration: Calibration, now: datetime | None = None) -> Path:
        """Put `calibration` into force as a new file and return its path. Raises OSError."""
        stamp = (now or datetime.now(UTC)).strftime("%Y-%m-%d_%H%M%S")
        content = yaml.safe_dump(calibration.to_document(), sort_keys=False).encode()
        self.folder.mkdir(parents=True, exist_ok=True)
        for count in range(100):
            path = self.folder / f"{stamp}{f'_{count:02d}' if count else ''}.yaml"
            whole = self.folder / f".{path.name}.{os.getpid()}.whole"
            files.write_atomically(whole, content)
            try:
                os.link(whole, path)  # unlike a rename, this never replaces a file
                return path
            except FileExistsError:
                continue
            finally:
                whole.unlink()
        raise OSError(f"{self.folder}: a hundred calibrations in one second")


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file. Raises ValueError: it is missing or wrong; the message names it."""
    try:
        return Calibration.from_document(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_owner(
    calibration: Calibration, robot: str, camera: str, serial: str, where: Path | None
) -> None:
    """Raises ValueError: the calibration is of another robot, or of another camera of that name.

    where: the file it came from, for the message.
    """
    place = "the calibration" if where is None else str(where)
    if calibration.robot != robot:
        raise ValueError(
            f"{place} is of robot {calibration.robot!r}, this one is {robot!r}: give this robot a "
            "folder of its own"
        )
    known = calibration.cameras.get(camera)
    if known is not None and known.serial != serial:
        raise ValueError(
            f"{place} is of the {camera} camera with serial {known.serial}, this one has {serial}: "
            "plug in the right camera, or calibrate this one with --new-camera"
        )
