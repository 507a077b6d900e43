"""Pictures of files and bytes, and the last frame of what was a video."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.sources.records import Reason, RejectedSample

VIDEO_SUFFIXES: Final = (".mp4", ".avi", ".mkv", ".mov", ".webm")
_UNDECODABLE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for broken files of one format or another."""


def decode(name: str, data: bytes) -> NDArray[np.uint8]:
    """Encoded picture as uint8 RGB (H, W, 3).

    Raises:
        RejectedSample: it does not decode.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except _UNDECODABLE as error:
        raise RejectedSample(name, Reason.BAD_PICTURE, str(error)) from error


def load(name: str, path: Path) -> NDArray[np.uint8]:
    """Picture file as uint8 RGB (H, W, 3).

    Raises:
        RejectedSample: no such file, a video, or it does not decode.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise no_decoder(name, path, path.with_suffix(""))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectedSample(name, Reason.MISSING_FILE, str(error)) from error
    return decode(name, data)


def no_decoder(name: str, video: Path, frames: Path) -> RejectedSample:
    """The rejection of a video file: this package decodes pictures, ffmpeg extracts them."""
    return RejectedSample(
        name,
        Reason.VIDEO,
        f"{video} is a video; install ffmpeg and extract its frames: "
        f"mkdir {frames} && ffmpeg -i {video} {frames}/frame_%010d.jpg",
    )


def inside(root: Path, relative: str) -> Path:
    """Path of a file that a record names. Raises ValueError: it leads out of the data set."""
    path = Path(os.path.normpath(root / relative))
    if not path.is_relative_to(os.path.normpath(root)):
        raise ValueError(f"the path {relative!r} leads out of {root}")
    return path


def last_frame(frames: Sequence[str]) -> str:
    """The name with the highest frame number: `frame_10.png` comes after `frame_9.png`.

    Raises:
        ValueError: no frames, or a name without a number.
    """
    if not frames:
        raise ValueError("no frames")
    return max(frames, key=_frame_number)


def _frame_number(name: str) -> int:
    numbers = re.findall(r"\d+", Path(name).stem)
    if not numbers:
        raise ValueError(f"the frame {name!r} has no number")
    return int(numbers[-1])
