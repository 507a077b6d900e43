"""The FR3's kinematics against Pinocchio and against finite differences."""

from __future__ import annotations

from pathlib import Path

import franky_sim
import numpy as np
import pinocchio as pin
import pytest
from hypothesis import given, settings
from strategies import floats, joints, vectors

from contracts import geometry, kinematics
from contracts.robot import FR3


@pytest.fixture(scope="module")
def model():
    assets = Path(franky_sim.__file__).parent / "assets"
    return pin.buildModelFromUrdf(str(assets / "fr3_clean.urdf"))


@settings(max_examples=60)
@given(q=joints)
def test_forward_agrees_with_pinocchio(model, q: np.ndarray) -> None:
    data = model.createData()
    full = pin.neutral(model)
    full[:7] = q
    pin.framesForwardKinematics(model, data, full)
    flange = data.oMf[model.getFrameId("link8")]
    tcp = flange * pin.SE3(pin.rpy.rpyToMatrix(0, 0, -np.pi / 4), np.array([0, 0, 0.1034]))
    pose = kinematics.forward(q)
    np.testing.assert_allclose(pose[:3], tcp.translation, atol=1e-6)
    np.testing.assert_allclose(geometry.to_matrix(pose[3:]), tcp.rotation, atol=1e-5)


@settings(max_examples=60)
@given(joints, vectors(7, -1.0, 1.0))
def test_jacobian_is_the_derivative(q: np.ndarray, direction: np.ndarray) -> None:
    step = 1e-6
    jac, pose = kinematics.jacobian(q)
    np.testing.assert_array_equal(pose, kinematics.forward(q))
    ahead, behind = (kinematics.forward(q + sign * step * direction) for sign in (1, -1))
    twist = kinematics.pose_error(ahead, behind) / (2 * step)
    np.testing.assert_allclose(jac @ direction, twist, atol=1e-6)


@settings(max_examples=30)
@given(floats(0.35, 0.6), floats(-0.3, 0.3), floats(0.03, 0.4), floats(-0.8, 0.8))
def test_inverse_reaches_top_down_poses(x: float, y: float, z: float, yaw: float) -> None:
    turn = geometry.multiply(geometry.from_rotation_vector([0, 0, yaw]), [1, 0, 0, 0])
    target = np.concatenate([[x, y, z], turn])
    error = kinematics.pose_error(
        target, kinematics.forward(kinematics.inverse(target, FR3.home_joints))
    )
    assert np.linalg.norm(error[:3]) < 1e-4
    assert np.linalg.norm(error[3:]) < 1e-4


def test_inverse_says_what_it_cannot_reach() -> None:
    with pytest.raises(ValueError, match="no joint solution"):
        kinematics.inverse([2.0, 0, 0.3, 1, 0, 0, 0], FR3.home_joints)
    with pytest.raises(ValueError, match="not finite"):
        kinematics.inverse([np.nan, 0, 0.3, 1, 0, 0, 0], FR3.home_joints)


@settings(max_examples=30)
@given(joints, vectors(7, -1.0, 1.0))
def test_drift_hardly_moves_the_end_effector(q: np.ndarray, drift: np.ndarray) -> None:
    """Only what the damping lets through of it, which is little where the arm is not singular."""
    jac, _ = kinematics.jacobian(q)
    smallest = np.linalg.svd(jac, compute_uv=False)[-1]
    moved = jac @ kinematics.damped_step(jac, np.zeros(6), drift)
    bound = np.linalg.norm(jac @ drift) * 0.02**2 / (smallest**2 + 0.02**2)
    assert np.linalg.norm(moved) <= bound + 1e-12
