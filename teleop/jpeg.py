"""Pictures as JPEG and back."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contracts.episode import EpisodeError

QUALITY: Final = 95
"""Above it a file grows fast and nothing is seen."""


def encode(image: NDArray[np.uint8]) -> bytes:
    """JPEG of an RGB picture uint8 (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def decode(data: bytes | memoryview) -> NDArray[np.uint8]:
    """RGB picture uint8 (height, width, 3) of a JPEG.

    Raises:
        EpisodeError: not a whole picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise EpisodeError(f"a picture does not decode: {error}") from error
