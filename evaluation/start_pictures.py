"""Pictures of starts for whoever puts up the scene: as it should be, and as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simulation.cameras import FRONT
from simulation.fast import FastSimulation
from simulation.placement import Placement

STARTS: Final = "starts"
PICTURE_PIXELS: Final = 480

Picture = NDArray[np.uint8]


class StartPictures:
    """Keeps the pictures of a run's starts in starts/ within its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / STARTS
        self._simulation: FastSimulation | None = None

    def draw(self, placement: Placement) -> Path:
        """Path of the start as the simulated front camera sees it; drawn once."""
        path = self._path(placement, "")
        if not path.exists():
            if self._simulation is None:
                self._simulation = FastSimulation(image_size=PICTURE_PIXELS)
            self._simulation.reset(placement)
            self._save(Image.fromarray(self._simulation.images()[FRONT]), path)
        return path

    def keep(self, placement: Placement, seen: Picture) -> None:
        """Remember what the robot's camera saw when this start was put up for the first time."""
        path = self._path(placement, "-seen")
        if not path.exists():
            self._save(Image.fromarray(seen), path)

    def overlay(self, placement: Placement, seen: Picture) -> Path:
        """Path of `seen` (height, width, 3), half transparent over the start.

        The start is what the camera saw the first time, so that all policies meet the same; before
        that it is the drawn one, which only fits as well as the simulated camera does the real one.
        """
        first = self._path(placement, "-seen")
        reference = Image.open(first if first.exists() else self.draw(placement)).convert("RGB")
        now = Image.fromarray(seen)
        if reference.size != now.size:
            side = min(now.size)
            left, top = (now.width - side) // 2, (now.height - side) // 2
            if not first.exists():
                now = now.crop((left, top, left + side, top + side))
            now = now.resize(reference.size, Image.Resampling.BILINEAR)
        path = self._path(placement, "-overlay")
        self._save(Image.blend(reference, now, 0.5), path)
        return path

    def close(self) -> None:
        """Free the renderer."""
        if self._simulation is not None:
            self._simulation.close()

    def _path(self, placement: Placement, suffix: str) -> Path:
        name = f"{placement.task}-{placement.object}-{placement.seed}{suffix}.png"
        return self._directory / name.replace(" ", "_")

    def _save(self, picture: Image.Image, path: Path) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        picture.save(temporary, "PNG")
        temporary.replace(path)
