"""A camera's measured intrinsics as a YAML file of their own, before its place is known."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import yaml

from calibration import files
from calibration.pinhole import Intrinsics


def save_intrinsics(
    path: Path, intrinsics: Intrinsics, camera: str, serial: str, rms_px: float, made_on: date
) -> None:
    """Write the file atomically."""
    document: dict[str, Any] = {
        "camera": camera,
        "serial": serial,
        "made_on": made_on.isoformat(),
        "rms_px": rms_px,
        "intrinsics": vars(intrinsics) | {"distortion": list(intrinsics.distortion)},
    }
    files.write_atomically(path, yaml.safe_dump(document, sort_keys=False).encode())


def load_intrinsics(path: Path, camera: str, serial: str) -> Intrinsics:
    """Read the file back.

    Raises:
        ValueError: it is missing or wrong, or of another camera; the message names the file.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        owner = (str(document["camera"]), str(document["serial"]))
        fields = document["intrinsics"]
        intrinsics = Intrinsics(**fields | {"distortion": tuple(fields["distortion"])})
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error!r} is missing or wrong") from error
    if owner != (camera, serial):
        raise ValueError(
            f"{path} is of the {owner[0]} camera with serial {owner[1]}, this is the {camera} "
            f"camera with {serial}: measure this one with `python -m calibration.intrinsics`"
        )
    return intrinsics
