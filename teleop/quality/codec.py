"""What FAST's action codec would lose of the chunks (Pertsch et al. 2025, section 4).

Its byte-pair encoding is exact; what is lost is lost by clamping and rounding of the normalised
chunk's cosine transform, which is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.fft import dct, idct

from contracts.bundle import MIN_RANGE, Normalisation
from contracts.geometry import Vector

SCALE: Final = 10.0
QUANTILES: Final = (0.01, 0.99)
OVERSHOOT: Final = 1.5
"""Normalised values beyond +-OVERSHOOT are clamped, as the tokenizer of training does."""


@dataclass(frozen=True)
class CodecError:
    """Root mean square of what is lost: position [mm], rotation [deg], gripper opening."""

    position_mm: float
    rotation_deg: float
    gripper: float


def action_range(actions: Vector) -> Normalisation:
    """Range of (samples, 7) between QUANTILES, widened where a dimension hardly moves."""
    low, high = np.quantile(actions, QUANTILES, axis=0)
    widen = np.maximum(MIN_RANGE - (high - low), 0.0) / 2
    return Normalisation(tuple((low - widen).tolist()), tuple((high + widen).tolist()))


def codec_error(chunks: Vector, ranges: Normalisation) -> CodecError:
    """Of relative chunks (samples, horizon, 7)."""
    normal = np.clip(ranges.normalise(chunks), -OVERSHOOT, OVERSHOOT)
    coefficients = np.rint(SCALE * dct(normal, axis=1, norm="ortho"))
    decoded = ranges.denormalise(idct(coefficients / SCALE, axis=1, norm="ortho"))
    square = np.square(decoded - chunks)
    return CodecError(
        position_mm=1000.0 * float(np.sqrt(square[..., :3].sum(axis=-1).mean())),
        rotation_deg=float(np.rad2deg(np.sqrt(square[..., 3:6].sum(axis=-1).mean()))),
        gripper=float(np.sqrt(square[..., 6].mean())),
    )
