"""FAST action tokenizer (Pertsch et al. 2025; paper, section 3).

Actions are normalised by quantiles, transformed over time by an orthonormal DCT, scaled, rounded,
read out low frequencies first, and compressed by byte-pair encoding over whole chunks:

    python -m training.fast_tokenizer --demonstrations runs/demonstrations --out runs/fast.json

prints the error that encoding and decoding leave, in millimetres and degrees.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct
from tokenizers import Tokenizer, models, trainers

from contracts.bundle import MIN_RANGE, Normalisation
from contracts.geometry import Vector

VOCABULARY = 2048
SCALE = 10.0
QUANTILES = (0.01, 0.99)
OVERSHOOT = 1.5
"""Normalised values beyond +-OVERSHOOT are clamped before the transform."""
FIRST_LETTER = 0x4E00
"""Symbols are written as consecutive letters from here on: no spaces, controls or surrogates."""


class FastDecodeError(ValueError):
    """Tokens that are no chunk; the text says which and why."""


def quantile_range(actions: Vector) -> Normalisation:
    """Range of (samples, dimension) between QUANTILES, widened where a dimension hardly moves."""
    low, high = np.quantile(actions, QUANTILES, axis=0)
    widen = np.maximum(MIN_RANGE - (high - low), 0.0) / 2
    return Normalisation(tuple((low - widen).tolist()), tuple((high + widen).tolist()))


class FastTokenizer:
    """Chunks (horizon, dimension) to tokens 0..vocabulary-1 and back; made by `fit` or `load`."""

    def __init__(
        self, bpe: Tokenizer, action_range: Normalisation, scale: float, lowest: int, horizon: int
    ) -> None:
        """`lowest` is the quantised coefficient that the first letter stands for."""
        self.action_range = action_range
        self.scale = scale
        self.lowest = lowest
        self.horizon = horizon
        self.dimension = len(action_range.low)
        self.bpe = bpe
        tokens = [bpe.id_to_token(i) for i in range(bpe.get_vocab_size())]
        self._lengths = np.array([len(token) for token in tokens])
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        letters = np.frombuffer("".join(tokens).encode("utf-32-le"), np.uint32)
        self._symbols = letters.astype(np.int64) - FIRST_LETTER
        self.highest = lowest + int(self._symbols.max())

    @classmethod
    def fit(
        cls,
        chunks: Vector,
        *,
        scale: float = SCALE,
        vocabulary: int = VOCABULARY,
        action_range: Normalisation | None = None,
    ) -> FastTokenizer:
        """Learn range and merges from chunks (samples, horizon, dimension).

        Raises:
            ValueError: not finite, or more quantised levels than the vocabulary has room for.
        """
        values = _checked(chunks)
        found = action_range or quantile_range(values.reshape(-1, values.shape[-1]))
        coefficients = _coefficients(_normalised(values, found), scale)
        lowest, highest = int(coefficients.min()), int(coefficients.max())
        levels = highest - lowest + 1
        if levels > vocabulary:
            raise ValueError(
                f"{levels} quantised levels do not fit a vocabulary of {vocabulary}: lower the "
                f"scale {scale} or enlarge the vocabulary"
            )
        bpe = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=[chr(FIRST_LETTER + i) for i in range(levels)],
            max_token_length=coefficients[0].size,
        )
        # No pre-tokenizer: a whole chunk is one word, so that merges may span frequencies.
        bpe.train_from_iterator(_words(coefficients - lowest), trainer, length=len(coefficients))
        return cls(bpe, found, scale, lowest, values.shape[1])

    @property
    def vocabulary(self) -> int:
        return self.bpe.get_vocab_size()

    def encode(self, chunks: Vector) -> list[list[int]]:
        """Tokens of chunks (samples, horizon, dimension); values out of range are clamped.

        Raises:
            ValueError: another shape than the tokenizer was fitted to, or values not finite.
        """
        values = _checked(chunks)
        if values.shape[1:] != (self.horizon, self.dimension):
            raise ValueError(
                f"chunks must be (samples, {self.horizon}, {self.dimension}), got {values.shape}"
            )
        coefficients = _coefficients(_normalised(values, self.action_range), self.scale)
        clamped = np.clip(coefficients, self.lowest, self.highest) - self.lowest
        return [encoded.ids for encoded in self.bpe.encode_batch_fast(_words(clamped))]

    def decode(self, tokens: Sequence[Sequence[int]], *, lenient: bool = False) -> Vector:
        """Chunks (samples, horizon, dimension) of token sequences.

        `lenient` ignores unknown tokens, cuts what is too long and fills what is missing with zero
        coefficients; for looking at an untrained model's output, never for moving an arm.

        Raises:
            FastDecodeError: an unknown token, or not exactly one chunk's worth of coefficients.
        """
        size = self.horizon * self.dimension
        counts = np.array([len(sequence) for sequence in tokens])
        flat = np.fromiter(chain.from_iterable(tokens), np.int64, counts.sum())
        row = np.repeat(np.arange(len(tokens)), counts)
        known = (flat >= 0) & (flat < len(self._lengths))
        if not known.all() and not lenient:
            self._refuse_unknown(row[~known], flat[~known])
        flat, row = flat[known], row[known]
        symbols, symbol_row = self._spelled(flat), np.repeat(row, self._lengths[flat])
        lengths = np.bincount(symbol_row, minlength=len(tokens))
        if not lenient and (wrong := np.flatnonzero(lengths != size)).size:
            raise FastDecodeError(
                f"sequence {wrong[0]}: {lengths[wrong[0]]} coefficients, a chunk has {size}"
            )
        column = np.arange(len(symbols)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        fits = column < size
        coefficients = np.zeros((len(tokens), size))
        coefficients[symbol_row[fits], column[fits]] = symbols[fits] + self.lowest
        shaped = coefficients.reshape(-1, self.horizon, self.dimension) / self.scale
        return self.action_range.denormalise(idct(shaped, axis=1, norm="ortho"))

    def save(self, path: Path) -> None:
        """Write one JSON file."""
        content = {
            "action_range": asdict(self.action_range),
            "scale": self.scale,
            "lowest": self.lowest,
            "horizon": self.horizon,
            "bpe": json.loads(self.bpe.to_str()),
        }
        path.write_text(json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: Path) -> FastTokenizer:
        """Read what `save` wrote. Raises ValueError: not such a file."""
        try:
            content = json.loads(path.read_text())
            return cls(
                Tokenizer.from_str(json.dumps(content["bpe"])),
                Normalisation(**content["action_range"]),
                float(content["scale"]),
                int(content["lowest"]),
                int(content["horizon"]),
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a saved FAST tokenizer ({error})") from error

    def _spelled(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Symbols of all tokens, one after the other."""
        lengths = self._lengths[tokens]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self._symbols[np.repeat(self._starts[tokens], lengths) + offsets]

    def _refuse_unknown(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> NoReturn:
        unknown = sorted(set(tokens[rows == rows[0]].tolist()))
        raise FastDecodeError(
            f"sequence {rows[0]}: unknown tokens {unknown[:5]} (vocabulary {self.vocabulary})"
        )


@dataclass(frozen=True)
class RoundTrip:
    """What encoding and decoding changes, over all waypoints, and how long the code is."""

    chunks: int
    tokens_mean: float
    tokens_p95: float
    position_rms_mm: float
    position_p99_mm: float
    rotation_rms_deg: float
    rotation_p99_deg: float
    gripper_agreement: float


def round_trip(tokenizer: FastTokenizer, actions: Vector) -> RoundTrip:
    """Error on actions (samples, horizon, 7): position [m], rotation vector [rad], gripper 0..1."""
    tokens = tokenizer.encode(actions)
    difference = tokenizer.decode(tokens) - actions
    millimetres = 1e3 * np.linalg.norm(difference[..., :3], axis=-1)
    degrees = np.rad2deg(np.linalg.norm(difference[..., 3:6], axis=-1))
    lengths = [len(sequence) for sequence in tokens]
    closed = (difference[..., 6] + actions[..., 6] < 0.5) == (actions[..., 6] < 0.5)
    return RoundTrip(
        chunks=len(actions),
        tokens_mean=float(np.mean(lengths)),
        tokens_p95=float(np.percentile(lengths, 95)),
        position_rms_mm=float(np.sqrt(np.mean(millimetres**2))),
        position_p99_mm=float(np.percentile(millimetres, 99)),
        rotation_rms_deg=float(np.sqrt(np.mean(degrees**2))),
        rotation_p99_deg=float(np.percentile(degrees, 99)),
        gripper_agreement=float(np.mean(closed)),
    )


def _checked(chunks: Vector) -> Vector:
    values = np.asarray(chunks, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"chunks must be (samples, horizon, dimension), got {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if len(bad):
        raise ValueError(f"chunk {bad[0]} has values that are not finite ({len(bad)} such chunks)")
    return values


def _normalised(values: Vector, action_range: Normalisation) -> Vector:
    return np.clip(action_range.normalise(values), -OVERSHOOT, OVERSHOOT)


def _coefficients(normalised: Vector, scale: float) -> NDArray[np.int64]:
    """Quantised coefficients (samples, horizon * dimension), those of frequency 0 first."""
    transformed = dct(normalised, axis=1, norm="ortho")
    return np.around(scale * transformed).astype(np.int64).reshape(len(normalised), -1)


def _words(symbols: NDArray[np.int64]) -> list[str]:
    """One word a row; row-wise decoding of the whole block is quicker than chr() a symbol."""
    width = symbols.shape[1]
    text = (symbols + FIRST_LETTER).astype("<u4").tobytes().decode("utf-32-le")
    return [text[i : i + width] for i in range(0, len(text), width)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit a FAST tokenizer and report its error.")
    parser.add_argument("--demonstrations", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=SCALE)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    actions = np.load(arguments.demonstrations / "rows.npz")["actions"]
    tokenizer = FastTokenizer.fit(actions, scale=arguments.scale, vocabulary=arguments.vocabulary)
    tokenizer.save(arguments.out)
    print(json.dumps(asdict(round_trip(tokenizer, actions.astype(np.float64)))))


if __name__ == "__main__":
    main()
