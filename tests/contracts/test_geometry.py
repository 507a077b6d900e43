"""Quaternions, rotation vectors and matrices agree, and their inverses are inverses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, poses, quaternions, vectors

from contracts import geometry


def same_rotation(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-9) -> bool:
    return bool(min(np.abs(a - b).max(), np.abs(a + b).max()) < tolerance)


@given(quaternions)
def test_matrix_and_back(q: np.ndarray) -> None:
    matrix = geometry.to_matrix(q)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) > 0
    assert same_rotation(geometry.from_matrix(matrix), q)
    assert geometry.from_matrix(matrix)[3] >= 0.0


@given(quaternions)
def test_rotation_vector_and_back(q: np.ndarray) -> None:
    vector = geometry.to_rotation_vector(q)
    assert np.linalg.norm(vector) <= np.pi + 1e-9
    assert same_rotation(geometry.from_rotation_vector(vector), q)


@given(vectors(3, -1.8, 1.8))
def test_quaternion_and_back_to_the_vector(vector: np.ndarray) -> None:
    # |vector| <= 1.8 sqrt(3) < pi, where the rotation vector is unique.
    back = geometry.to_rotation_vector(geometry.from_rotation_vector(vector))
    np.testing.assert_allclose(back, vector, atol=1e-8)


@given(quaternions, quaternions, vectors(3))
def test_product_is_the_product_of_matrices(
    a: np.ndarray, b: np.ndarray, point: np.ndarray
) -> None:
    product = geometry.to_matrix(geometry.multiply(a, b))
    np.testing.assert_allclose(product, geometry.to_matrix(a) @ geometry.to_matrix(b), atol=1e-12)
    np.testing.assert_allclose(
        geometry.multiply(a, geometry.conjugate(a)), [0, 0, 0, 1], atol=1e-12
    )


def test_quarter_turn_about_z() -> None:
    """One known rotation fixes the order x y z w and the sense of turning."""
    q = geometry.from_rotation_vector([0, 0, np.pi / 2])
    np.testing.assert_allclose(q, [0, 0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-15)
    np.testing.assert_allclose(geometry.to_matrix(q) @ [1, 0, 0], [0, 1, 0], atol=1e-15)


@given(poses, poses, floats(0.0, 1.0))
def test_interpolation_goes_evenly_from_end_to_end(
    a: np.ndarray, b: np.ndarray, fraction: float
) -> None:
    for end, at in ((a, 0.0), (b, 1.0)):
        reached = geometry.interpolate(a, b, at)
        np.testing.assert_allclose(reached[:3], end[:3], atol=1e-12)
        assert same_rotation(reached[3:], end[3:])
    between = geometry.interpolate(a, b, fraction)
    np.testing.assert_allclose(between[:3] - a[:3], fraction * (b[:3] - a[:3]), atol=1e-12)
    whole, part = (
        np.linalg.norm(
            geometry.to_rotation_vector(geometry.multiply(q[3:], geometry.conjugate(a[3:])))
        )
        for q in (b, between)
    )
    assert part == pytest.approx(fraction * whole, abs=1e-7)


@given(poses, floats(1 - 9e-4, 1 + 9e-4))
def test_check_normalises_what_is_nearly_a_unit(pose: np.ndarray, scale: float) -> None:
    checked = geometry.check_poses(pose * np.array([1, 1, 1] + [scale] * 4), "pose")
    assert np.linalg.norm(checked[3:]) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_array_equal(checked[:3], pose[:3])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@given(pose=poses, place=st.integers(0, 6))
def test_check_refuses_what_is_not_finite(value: float, pose: np.ndarray, place: int) -> None:
    pose[place] = value
    with pytest.raises(ValueError, match="the thing: has values that are not finite"):
        geometry.check_poses(pose, "the thing")


def test_check_names_shape_and_norm() -> None:
    with pytest.raises(ValueError, match=r"the thing: expected .* shape \(6,\)"):
        geometry.check_poses(np.zeros(6), "the thing")
    with pytest.raises(
        ValueError, match=r"the thing: quaternion norms must be 1, worst is 0\.0000"
    ):
        geometry.check_poses(np.zeros(7), "the thing")
