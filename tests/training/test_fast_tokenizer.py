"""FAST: what comes back is what went in, within the rounding; nothing decodes silently wrong."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct

from training.fast_tokenizer import (
    FIRST_LETTER,
    OVERSHOOT,
    FastDecodeError,
    FastTokenizer,
    round_trip,
)

HORIZON, DIMENSION = 16, 7


def smooth_chunks(count: int, seed: int) -> np.ndarray:
    """Sums of slow sines in -1..1, with a gripper that switches once."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, HORIZON)[None, :, None]
    chunks = np.zeros((count, HORIZON, DIMENSION))
    for k in range(1, 4):
        phase = rng.uniform(0, 6.28, (count, 1, DIMENSION))
        chunks += rng.normal(0, 0.3 / k, (count, 1, DIMENSION)) * np.sin(np.pi * k * t + phase)
    chunks[..., 6] = t[..., 0] < rng.random((count, 1))
    return np.clip(chunks, -1, 1)


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return FastTokenizer.fit(smooth_chunks(3000, seed=0), vocabulary=1024)


def test_round_trip_error_is_that_of_the_rounding(tokenizer) -> None:
    chunks = smooth_chunks(300, seed=1)
    decoded = tokenizer.decode(tokenizer.encode(chunks))
    normalise = tokenizer.action_range.normalise
    error = normalise(decoded) - np.clip(normalise(chunks), -OVERSHOOT, OVERSHOOT)
    # The DCT is orthonormal: a chunk's error is at most that of its rounded coefficients.
    bound = 0.5 / tokenizer.scale * np.sqrt(HORIZON)
    assert np.linalg.norm(error, axis=1).max() <= bound * 1.001
    assert np.abs(error).max() > 0.001


def test_codes_are_shorter_than_naive_ones(tokenizer) -> None:
    report = round_trip(tokenizer, smooth_chunks(200, seed=2))
    assert report.tokens_mean < HORIZON * DIMENSION / 3
    assert report.gripper_agreement > 0.97


def test_coefficients_are_those_of_the_reference_algorithm(tokenizer) -> None:
    """Pertsch et al.: per chunk, dct over time, round, flatten row by row."""
    chunk = smooth_chunks(1, seed=3)[0]
    normalised = np.clip(tokenizer.action_range.normalise(chunk), -OVERSHOOT, OVERSHOOT)
    columns = [dct(normalised[:, d], norm="ortho") for d in range(DIMENSION)]
    expected = [
        round(tokenizer.scale * columns[d][f]) for f in range(HORIZON) for d in range(DIMENSION)
    ]
    tokens = tokenizer.encode(chunk[None])[0]
    letters = "".join(tokenizer.bpe.id_to_token(token) for token in tokens)
    assert [ord(letter) - FIRST_LETTER + tokenizer.lowest for letter in letters] == expected


@settings(max_examples=60, deadline=None)
@given(
    size=st.floats(0.0, 1e6),
    seed=st.integers(0, 10_000),
)
def test_any_finite_chunk_encodes_and_decodes(tokenizer, size: float, seed: int) -> None:
    chunk = np.random.default_rng(seed).normal(0, 1, (2, HORIZON, DIMENSION)) * size
    decoded = tokenizer.decode(tokenizer.encode(chunk))
    assert decoded.shape == chunk.shape
    assert np.isfinite(decoded).all()


@settings(max_examples=80, deadline=None)
@given(tokens=st.lists(st.integers(-3, 1100), max_size=130))
def test_garbage_is_refused_or_a_whole_chunk(tokenizer, tokens: list[int]) -> None:
    assert tokenizer.decode([tokens], lenient=True).shape == (1, HORIZON, DIMENSION)
    try:
        chunk = tokenizer.decode([tokens])
    except FastDecodeError as error:
        assert "sequence 0" in str(error)
    else:
        assert sum(len(tokenizer.bpe.id_to_token(t)) for t in tokens) == chunk.size


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "fast.json")
    again = FastTokenizer.load(tmp_path / "fast.json")
    chunks = smooth_chunks(20, seed=4)
    tokens = tokenizer.encode(chunks)
    assert again.encode(chunks) == tokens
    assert np.array_equal(again.decode(tokens), tokenizer.decode(tokens))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="not a saved FAST tokenizer"):
        FastTokenizer.load(tmp_path / "other.json")


def test_a_constant_dimension_is_kept_and_noise_is_not_blown_up() -> None:
    chunks = smooth_chunks(500, seed=5)
    chunks[..., 3] = 0.25
    tokenizer = FastTokenizer.fit(chunks, vocabulary=1024)
    decoded = tokenizer.decode(tokenizer.encode(chunks[:10]))
    assert np.abs(decoded[..., 3] - 0.25).max() < 1e-3


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        (np.full((3, HORIZON, DIMENSION), np.nan), "chunk 0 has values that are not finite"),
        (np.zeros((3, HORIZON + 1, DIMENSION)), "chunks must be"),
        (np.zeros((HORIZON, DIMENSION)), "chunks must be"),
    ],
)
def test_bad_chunks_are_named(tokenizer, chunks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(chunks)


def test_too_many_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="lower the scale"):
        FastTokenizer.fit(smooth_chunks(50, seed=6), scale=1000.0, vocabulary=256)
