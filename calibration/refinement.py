"""Camera, board and, where wanted, intrinsics at once: least squares over reprojection.

One chain holds for both kinds of camera: a corner p of the board appears at
`project(inverse(C) @ G @ B @ p)`, where for a camera that stands still C is the camera in the base,
G the hand in the base and B the board in the hand, and for a camera on the hand C is the camera in
the hand, G the base in the hand and B the board in the base.

Huber's idea with a smooth loss (scipy's `soft_l1`); the uncertainty is the delete-one-view
jackknife, because the errors of one view (the arm's, above all) move all its corners together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from scipy import optimize, stats

from calibration import poses
from calibration.pinhole import Intrinsics, project
from contracts.geometry import Vector

LOSS_SCALE: Final = 0.5
"""Residual [px] from which on a corner counts less than by its square."""
POSE_SIZE: Final = 6
FREE_INTRINSICS: Final = ("fx", "fy", "cx", "cy", "k1", "k2")
PRIOR: Final = {"k1": 0.1, "k2": 0.1}
"""Standard deviation of distortion before any view was seen: lenses of robot cameras are mild."""
ASPECT_PRIOR: Final = 0.002
"""Standard deviation of fy / fx from 1: pixels are square."""
TYPICAL_ERROR: Final = 0.1
"""Residual [px] of a good view: what one standard deviation of a prior weighs as much as."""
STEP: Final = 1e-6
"""Metres, radians or shares to both sides, for numeric derivatives."""


@dataclass(frozen=True)
class Observations:
    """Corners of some views: the chain's G (v, 4, 4) and the number of the board's pose (v,) of
    each view, and for each of m corners its view (m,), place on the board (m, 3) [m] and in the
    picture (m, 2) [px]."""

    chains: Vector
    board: np.ndarray
    view: np.ndarray
    points: Vector
    pixels: Vector

    def __len__(self) -> int:
        return len(self.chains)

    def of_views(self, numbers: Sequence[int]) -> Observations:
        """The same of some of the views, which are numbered anew."""
        parts = [self.view == number for number in numbers]
        return Observations(
            self.chains[list(numbers)],
            self.board[list(numbers)],
            np.concatenate([np.full(part.sum(), i) for i, part in enumerate(parts)]),
            np.concatenate([self.points[part] for part in parts]),
            np.concatenate([self.pixels[part] for part in parts]),
        )


@dataclass(frozen=True)
class Estimate:
    """Poses of the camera (4, 4) and of the board (k, 4, 4), and the camera's intrinsics.

    The board has one pose, but for the suspicion that it was moved.
    """

    camera: Vector
    boards: Vector
    intrinsics: Intrinsics

    @property
    def pose_unknowns(self) -> int:
        return POSE_SIZE * (1 + len(self.boards))

    def moved(self, change: Vector) -> Estimate:
        """By 6 numbers for the camera, 6 for each pose of the board (see `poses.moved`), and, if
        there are 6 more, by those of FREE_INTRINSICS; pixels in units of the focal length."""
        parts = change[: self.pose_unknowns].reshape(-1, POSE_SIZE)
        camera = poses.moved(self.camera, parts[0])
        boards = np.stack([poses.moved(*pair) for pair in zip(self.boards, parts[1:], strict=True)])
        if len(change) == self.pose_unknowns:
            return Estimate(camera, boards, self.intrinsics)
        old, (fx, fy, cx, cy, k1, k2) = self.intrinsics, change[self.pose_unknowns :].tolist()
        first, second, *others = old.distortion
        intrinsics = dataclasses.replace(
            old,
            fx=old.fx * (1.0 + fx),
            fy=old.fy * (1.0 + fy),
            cx=old.cx + old.fx * cx,
            cy=old.cy + old.fx * cy,
            distortion=(first + k1, second + k2, *others),
        )
        return Estimate(camera, boards, intrinsics)


def places(observations: Observations, estimate: Estimate) -> Vector:
    """Corners (m, 3) [m] in the optical frame."""
    boards = estimate.boards[observations.board]
    chains = poses.inverse(estimate.camera) @ observations.chains @ boards
    turned = np.einsum("mij,mj->mi", chains[observations.view, :3, :3], observations.points)
    return np.asarray(turned + chains[observations.view, :3, 3])


def residuals(observations: Observations, estimate: Estimate) -> Vector:
    """Predicted minus seen places (m, 2) [px]; a corner behind the camera is far off."""
    error = project(places(observations, estimate), estimate.intrinsics) - observations.pixels
    return np.nan_to_num(error, nan=1e4)


def view_rms(observations: Observations, estimate: Estimate) -> Vector:
    """RMS distance [px] of the corners of each view (v,)."""
    squares = np.sum(residuals(observations, estimate) ** 2, axis=1)
    count = len(observations)
    return np.asarray(
        np.sqrt(
            np.bincount(observations.view, squares, count)
            / np.bincount(observations.view, minlength=count)
        )
    )


@dataclass(frozen=True)
class Refined:
    """What the refinement found, with what its uncertainty follows from."""

    observations: Observations
    estimate: Estimate
    free_intrinsics: bool

    @cached_property
    def _linear(self) -> tuple[Vector, Vector, Vector]:
        """Jacobian (m, 2, n), residuals (m, 2) and robust weights (m, 2) at the estimate."""
        jacobian = _jacobian(self.observations, self.estimate, self._size)
        error = residuals(self.observations, self.estimate)
        return jacobian, error, 1.0 / np.sqrt(1.0 + (error / LOSS_SCALE) ** 2)

    @property
    def _size(self) -> int:
        return _unknowns(self.estimate, self.free_intrinsics)

    @cached_property
    def covariance(self) -> Vector:
        """Covariance (n, n) of the change at the estimate: delete-one-view jackknife.

        Source: Efron and Stein 1981; the estimate without a view by one step of Newton's method.
        """
        return self._step_and_covariance(np.zeros((*self._linear[1].shape, 0)))[1]

    @property
    def standard_errors(self) -> Vector:
        """Of the camera's pose (6,): position [m] and rotation [rad], axes of the outer frame."""
        return np.sqrt(np.diag(self.covariance)[:POSE_SIZE])

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the intervals: independent errors are those of whole views."""
        return max(1, len(self.observations) - 2)

    @property
    def half_widths(self) -> Vector:
        """Half widths (6,) of the 95 % intervals of the camera's position [m], rotation [rad]."""
        return np.asarray(stats.t.ppf(0.975, self.freedom) * self.standard_errors)

    def scale(self) -> tuple[float, float]:
        """How many times as large the board is as its file says, and the standard error of that.

        One step of Newton's method with the scale as one more unknown.
        """
        points = self.observations.points

        def scaled(factor: Vector) -> Vector:
            larger = dataclasses.replace(self.observations, points=points * (1.0 + factor[0]))
            return residuals(larger, self.estimate)

        step, covariance = self._step_and_covariance(_numeric(scaled, 1))
        return 1.0 + float(step[-1]), float(np.sqrt(covariance[-1, -1]))

    def board_change(self, first: int) -> tuple[Vector, Vector]:
        """By how much (6,) the board moved just before view `first`, and its standard errors (6,).

        One step of Newton's method with that change as six more unknowns.
        """
        late = (self.observations.view >= first)[:, None, None]
        columns = self._linear[0][:, :, POSE_SIZE : 2 * POSE_SIZE] * late
        step, covariance = self._step_and_covariance(columns)
        return step[-POSE_SIZE:], np.sqrt(np.diag(covariance)[-POSE_SIZE:])

    def _step_and_covariance(self, more: Vector) -> tuple[Vector, Vector]:
        """Newton's step (n + k,) and the jackknife's covariance after it, with k more unknowns of
        which `more` (m, 2, k) is the Jacobian."""
        jacobian, error, weight = self._linear
        full = np.concatenate([jacobian, more], axis=2)
        size, count, view = full.shape[2], len(self.observations), self.observations.view
        weighted = full * weight[:, :, None]
        informations, gradients = np.zeros((count, size, size)), np.zeros((count, size))
        np.add.at(informations, view, np.einsum("mri,mrj->mij", weighted, full))
        np.add.at(gradients, view, np.einsum("mri,mr->mi", weighted, error))
        total = informations.sum(axis=0)
        root = _prior_root(self._size, self.free_intrinsics)
        total[: self._size, : self._size] += root.T @ root
        step = -np.linalg.solve(total, gradients.sum(axis=0)) if more.shape[2] else np.zeros(size)
        gradients = gradients + informations @ step
        shifts = np.array(
            [
                np.linalg.lstsq(total - information, gradient)[0]
                for information, gradient in zip(informations, gradients, strict=True)
            ]
        )
        return step, np.asarray((count - 1) / count * shifts.T @ shifts)


def refine(observations: Observations, start: Estimate, *, free_intrinsics: bool) -> Refined:
    """The estimate near `start` with the least robust reprojection error.

    Raises:
        ValueError: the search does not end.
    """
    size = _unknowns(start, free_intrinsics)
    root = _prior_root(size, free_intrinsics)

    def error(change: Vector) -> Vector:
        # The prior's residuals are so small that the robust loss leaves them squares.
        return np.concatenate([residuals(observations, start.moved(change)).ravel(), root @ change])

    def slope(change: Vector) -> Vector:
        jacobian = _numeric(lambda step: residuals(observations, start.moved(change + step)), size)
        return np.concatenate([jacobian.reshape(-1, size), root])

    found = optimize.least_squares(
        error, np.zeros(size), jac=slope, loss="soft_l1", f_scale=LOSS_SCALE, x_scale="jac",
        xtol=1e-10, ftol=1e-10, max_nfev=200,
    )  # fmt: skip
    if found.status <= 0:
        raise ValueError("the refinement does not come to an end: the views contradict each other")
    return Refined(observations, start.moved(found.x), free_intrinsics)


def _unknowns(estimate: Estimate, free_intrinsics: bool) -> int:
    return estimate.pose_unknowns + (len(FREE_INTRINSICS) if free_intrinsics else 0)


def _prior_root(size: int, free_intrinsics: bool) -> Vector:
    """Rows whose squares are the prior on free intrinsics; none for the poses."""
    if not free_intrinsics:
        return np.zeros((0, size))
    rows = np.zeros((1 + len(PRIOR), size))
    first = size - len(FREE_INTRINSICS)
    names = {name: first + i for i, name in enumerate(FREE_INTRINSICS)}
    rows[0, names["fy"]], rows[0, names["fx"]] = 1.0 / ASPECT_PRIOR, -1.0 / ASPECT_PRIOR
    for row, (name, deviation) in enumerate(PRIOR.items(), start=1):
        rows[row, names[name]] = 1.0 / deviation
    return TYPICAL_ERROR * rows


def _jacobian(observations: Observations, estimate: Estimate, size: int) -> Vector:
    return _numeric(lambda change: residuals(observations, estimate.moved(change)), size)


def _numeric(function: Callable[[Vector], Vector], size: int) -> Vector:
    """Central differences (m, 2, size) of a function of `size` numbers at zero."""
    columns = []
    for i in range(size):
        step = np.zeros(size)
        step[i] = STEP
        columns.append((function(step) - function(-step)) / (2.0 * STEP))
    return np.stack(columns, axis=-1)
