"""Random poses, rotations and joint positions."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contracts import geometry
from contracts.robot import FR3


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, width=64)


def vectors(size: int, low: float = -2.0, high: float = 2.0) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, size, elements=floats(low, high))


quaternions = vectors(4).filter(lambda q: np.linalg.norm(q) > 0.1).map(geometry.normalized)
poses = st.tuples(vectors(3), quaternions).map(np.concatenate)
joints = st.tuples(
    *(
        floats(low + FR3.joint_margin, high - FR3.joint_margin)
        for low, high in zip(FR3.joint_lower, FR3.joint_upper, strict=True)
    )
).map(np.array)
