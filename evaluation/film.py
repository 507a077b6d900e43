"""Film strips: a few small pictures of both cameras that tell how a trial went."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES: Final = 9
"""Pictures of each camera in a strip."""
FRAME_PIXELS: Final = 112
GAP_PIXELS: Final = 2
INTERVAL_S: Final = 0.5
"""Seconds between the pictures that are kept while a trial runs."""
JPEG_QUALITY: Final = 78

Picture = NDArray[np.uint8]


class Film:
    """Collects pictures while a trial runs; draws them as one strip when it is over."""

    def __init__(self) -> None:
        self._frames: list[tuple[float, Mapping[str, Picture]]] = []

    def due(self, now: float) -> bool:
        """Whether another picture is wanted at `now` [s]."""
        return not self._frames or now - self._frames[-1][0] >= INTERVAL_S - 1e-6

    def add(self, now: float, pictures: Mapping[str, Picture]) -> None:
        """Keep uint8 (height, width, 3) pictures by camera name, taken at `now` [s]."""
        self._frames.append((now, pictures))

    def strip(self) -> bytes | None:
        """JPEG with one row a camera and time from left to right; None without pictures."""
        if not self._frames:
            return None
        chosen = np.linspace(0, len(self._frames) - 1, min(FRAMES, len(self._frames)))
        frames = [self._frames[round(i)][1] for i in chosen]
        step = FRAME_PIXELS + GAP_PIXELS
        cameras = list(frames[0])
        size = (step * len(frames) - GAP_PIXELS, step * len(cameras) - GAP_PIXELS)
        strip = Image.new("RGB", size, (128, 128, 128))
        for column, pictures in enumerate(frames):
            for row, camera in enumerate(cameras):
                if camera in pictures:
                    strip.paste(_small(pictures[camera]), (column * step, row * step))
        buffer = io.BytesIO()
        strip.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()


def save_strip(strip: bytes, directory: Path, name: str) -> str:
    """Write a strip to films/`name`.jpg; return its path within `directory`."""
    path = directory / "films" / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(strip)
    return str(path.relative_to(directory))


def _small(picture: Picture) -> Image.Image:
    """The square middle of a picture, FRAME_PIXELS on each side."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = Image.fromarray(picture[top : top + side, left : left + side])
    return middle.resize((FRAME_PIXELS, FRAME_PIXELS), Image.Resampling.BILINEAR)
