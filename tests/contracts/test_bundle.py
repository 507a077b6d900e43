"""Bundles: statistics, relative and absolute actions, and a manifest that trusts no file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import floats, poses, vectors

from contracts import bundle
from contracts.bundle import (
    MIN_RANGE,
    BackboneInfo,
    BundleError,
    CameraInput,
    Manifest,
    Normalisation,
)

samples = st.integers(1, 8).flatmap(lambda n: arrays(np.float64, (n, 3), elements=floats(-5, 5)))


@given(samples)
def test_normalisation_covers_its_samples_and_has_an_inverse(values: np.ndarray) -> None:
    fitted = Normalisation.fit(values)
    assert (np.array(fitted.high) - fitted.low >= MIN_RANGE * 0.999).all()
    normalised = fitted.normalise(values)
    assert np.abs(normalised).max() <= 1 + 1e-9
    np.testing.assert_allclose(fitted.denormalise(normalised), values, atol=1e-9)


def test_a_dimension_that_hardly_moves_does_not_explode() -> None:
    fitted = Normalisation.fit(np.array([[0.3, 0.0], [0.3, 1.0]]))
    assert np.abs(fitted.normalise(np.array([0.3001, 0.5]))).max() < 0.25
    with pytest.raises(BundleError, match="range is below"):
        Normalisation((0.0, 0.0), (1.0, MIN_RANGE / 2))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((0.0,), (1.0, 1.0), "equal vectors"),
        ((np.nan,), (1.0,), "not finite"),
        ((0.0,), (-1.0,), "range"),
    ],
)
def test_wrong_statistics_are_named(low, high, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Normalisation(low, high)


@given(poses, st.lists(st.tuples(poses, floats(0, 1)), min_size=1, max_size=5))
def test_absolute_undoes_relative(pose: np.ndarray, steps) -> None:
    waypoints, gripper = np.array([p for p, _ in steps]), np.array([g for _, g in steps])
    absolute, opening = bundle.to_absolute(pose, bundle.to_relative(pose, waypoints, gripper))
    np.testing.assert_allclose(absolute[:, :3], waypoints[:, :3], atol=1e-9)
    dots = np.abs((absolute[:, 3:] * waypoints[:, 3:]).sum(axis=1))
    np.testing.assert_allclose(dots, 1.0, atol=1e-9)
    np.testing.assert_array_equal(opening, gripper)


@given(poses, vectors(3, -0.1, 0.1))
def test_relative_is_in_the_base_frame(pose: np.ndarray, shift: np.ndarray) -> None:
    moved = pose + np.concatenate([shift, np.zeros(4)])
    action = bundle.to_relative(pose, moved[None], np.array([0.5]))[0]
    np.testing.assert_allclose(action, [*shift, 0, 0, 0, 0.5], atol=1e-9)


@given(poses, floats(0, 1))
def test_state_vector(pose: np.ndarray, opening: float) -> None:
    state = bundle.state_vector(pose, opening)
    assert state.shape == (bundle.STATE_DIMENSION,)
    np.testing.assert_array_equal(state[:3], pose[:3])
    assert state[3:6] @ state[6:9] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(np.linalg.norm(state[3:9].reshape(2, 3), axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(state[9:], [opening, 1 - opening])


# --- the manifest ------------------------------------------------------------------------------


def manifest() -> Manifest:
    return Manifest(
        name="lab",
        horizon=16,
        time_step=0.1,
        execute_steps=8,
        denoising_steps=4,
        cameras=(CameraInput("front", 112), CameraInput("wrist", 112)),
        backbone=BackboneInfo(
            family="qwen2_5_vl",
            layer=3,
            hidden_size=192,
            final_norm=False,
            patch_size=14,
            merge_size=2,
            temporal_patch_size=2,
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.5, 0.5, 0.5),
            prompt="{image}{image}{instruction}",
            image_token="<i>",
            vision_start="<s>",
            vision_end="<e>",
        ),
        state=Normalisation((0.0,) * 11, (1.0,) * 11),
        action=Normalisation((-1.0,) * 7, (1.0,) * 7),
        provenance={"seed": 1, "data": ["a", "b"]},
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in (bundle.TOKENIZER, bundle.BACKBONE, bundle.HEAD, "reference.npz"):
        (tmp_path / name).write_bytes(f"content of {name}".encode())
    bundle.write_manifest(tmp_path, manifest())
    return tmp_path


def edit(directory: Path, **changes: object) -> None:
    path = directory / bundle.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_manifest_survives_writing_and_reading(directory: Path) -> None:
    read = bundle.read_manifest(directory)
    assert read == replace(manifest(), files=read.files)
    assert set(read.files) == {bundle.TOKENIZER, bundle.BACKBONE, bundle.HEAD, "reference.npz"}


def test_the_hash_names_the_content(directory: Path) -> None:
    before = bundle.bundle_hash(directory)
    (directory / bundle.HEAD).write_bytes(b"another head")
    bundle.write_manifest(directory, manifest())
    assert bundle.bundle_hash(directory) != before


@pytest.mark.parametrize("name", [bundle.TOKENIZER, bundle.BACKBONE, bundle.HEAD, "reference.npz"])
def test_a_changed_byte_or_a_missing_file_is_named(directory: Path, name: str) -> None:
    content = bytearray((directory / name).read_bytes())
    content[3] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: hash differs"):
        bundle.read_manifest(directory)
    (directory / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        bundle.read_manifest(directory)


@pytest.mark.parametrize("version", [0, bundle.SCHEMA_VERSION + 1, None, "1"])
def test_another_schema_version_is_refused(directory: Path, version: object) -> None:
    edit(directory, schema_version=version)
    with pytest.raises(BundleError, match=f"schema version {version}"):
        bundle.read_manifest(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {}}, "not listed"),
        (
            {
                "files": {
                    "../../etc/passwd": "0",
                    **dict.fromkeys((bundle.TOKENIZER, bundle.BACKBONE, bundle.HEAD), "0"),
                }
            },
            "leads out",
        ),
        ({"surprise": 1}, "surprise"),
        ({"action_space": "joints"}, "action space"),
        ({"execute_steps": 17}, "execute_steps"),
        ({"denoising_steps": 0}, "denoising_steps"),
        ({"horizon": 0}, "horizon"),
        ({"time_step": 0}, "time step"),
        ({"cameras": [{"name": "front", "size": 112}]}, "once for each camera"),
        ({"cameras": [{"name": "front", "size": 112}] * 2}, "twice"),
        (
            {"cameras": [{"name": "front", "size": 112}, {"name": "wrist", "size": 140}]},
            "one multiple of 28",
        ),
        (
            {"cameras": [{"name": "front", "size": 120}, {"name": "wrist", "size": 120}]},
            "one multiple of 28",
        ),
        ({"cameras": 3}, "not a valid manifest"),
        ({"state": {"low": ["a"], "high": ["b"]}}, "not a valid manifest"),
        ({"state": {"low": [0] * 7, "high": [1] * 7}}, "must cover"),
    ],
)
def test_wrong_fields_are_named(directory: Path, changes: dict[str, object], message: str) -> None:
    edit(directory, **changes)
    with pytest.raises(BundleError, match=message):
        bundle.read_manifest(directory)


@given(st.binary(max_size=200))
def test_no_content_of_the_manifest_raises_anything_else(tmp_path_factory, content: bytes) -> None:
    directory = tmp_path_factory.mktemp("garbage", numbered=True)
    (directory / bundle.MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="manifest"):
        bundle.read_manifest(directory)


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no policy bundle at .*: manifest\.json is missing"):
        bundle.read_manifest(tmp_path)
