"""Whether a camera still is where the calibration says, from a few views of the board.

With C the camera in its frame (base or hand), B the board in the other one, and M the hand in the
base (a camera in the base) or the base in the hand (a camera on the hand), a view shows the board
at C^-1 M B. The check fits the change of C, and that of B within the play of its mount, to the
corners seen; the calibration passes only where the change is *shown* to lie within the limits:
estimate plus the margin of a one-sided 95 % bound. "Cannot tell" is a refusal too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np
from scipy.optimize import least_squares

from calibration import poses
from calibration.board import Board
from calibration.detection import Detection
from calibration.pinhole import Intrinsics, project
from contracts import geometry
from contracts.calibration import CameraCalibration
from contracts.geometry import Vector

ONE_SIDED_95: Final = 1.645
ROBUST_PX: Final = 1.0
"""Residual [px] from which a corner counts linearly (soft L1) instead of squared."""
VIEW_CORRELATION: Final = 2.0
"""Factor on the corners' standard error: those of one view share the errors of its arm pose and of
its blur, so they count for less than their number. Set so that the bounds hold on rendered views.
"""


class DriftError(ValueError):
    """The check cannot be made with these views; the text says why and what to do."""


class Verdict(StrEnum):
    IN_PLACE = "in place"
    MOVED = "moved"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class DriftLimits:
    """What a camera may have moved by, and what the check needs.

    board_play_mm, board_play_deg: 1 sigma of how exactly the board sits in its mount again.
    floor_px: residual below which none is believed.
    """

    mm: float = 3.0
    deg: float = 0.3
    fewest_views: int = 4
    fewest_corners: int = 8
    board_play_mm: float = 0.3
    board_play_deg: float = 0.05
    floor_px: float = 0.1
    highest_rms_px: float = 2.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0.0:
                raise ValueError(f"drift limits: {name} must be positive, got {value}")


@dataclass(frozen=True)
class DriftView:
    """The hand (`fr3_hand`, (7,) in the base) and the board's corners in one picture."""

    hand: Vector
    detection: Detection


@dataclass(frozen=True)
class Drift:
    """Result of a check of one camera; `pose` (7,) is where it is now, in the calibration's frame.

    board_pose (7,): the board now, in the frame that the calibration gives it in.
    mm, deg: how far it moved; margin_mm, margin_deg: one-sided 95 % margins of these; board_mm: how
    far the board seems to have moved in its mount; before_px, after_px: RMS distance of the corners
    from where the calibration puts them, and from where the new pose does.
    """

    camera: str
    pose: Vector
    board_pose: Vector
    mm: float
    deg: float
    margin_mm: float
    margin_deg: float
    board_mm: float
    before_px: float
    after_px: float
    views: int
    limits: DriftLimits = field(repr=False)

    @property
    def verdict(self) -> Verdict:
        limits = self.limits
        if self.mm > limits.mm or self.deg > limits.deg:
            return Verdict.MOVED
        if self.mm + self.margin_mm > limits.mm or self.deg + self.margin_deg > limits.deg:
            return Verdict.UNCLEAR
        return Verdict.IN_PLACE

    @property
    def refused(self) -> bool:
        return self.verdict != Verdict.IN_PLACE

    @property
    def sentence(self) -> str:
        """The result for a person."""
        size = (
            f"{self.mm:.1f} mm (+{self.margin_mm:.1f}) and {self.deg:.2f} degrees "
            f"(+{self.margin_deg:.2f}) from its calibrated pose; allowed are "
            f"{self.limits.mm:g} mm and {self.limits.deg:g} degrees"
        )
        if self.verdict == Verdict.IN_PLACE:
            return f"camera {self.camera} is in place: {size}"
        if self.verdict == Verdict.MOVED:
            return f"camera {self.camera} has moved: {size}. Calibrate it again"
        return f"camera {self.camera}: cannot show that it is in place: {size}. Take more views"


def measure_drift(
    views: Sequence[DriftView],
    camera: CameraCalibration,
    board: Board,
    limits: DriftLimits | None = None,
) -> Drift:
    """How far `camera` is from its calibrated pose.

    Raises:
        DriftError: no board pose in the calibration, too few views, poses that are not finite, or
            corners that no pose explains (another board, or one that moved during the check).
    """
    limits = limits or DriftLimits()
    board_pose = known_board_pose(camera)
    problem = _Problem(_usable(views, limits), camera, board, limits)
    before = problem.pixels(np.zeros(12))
    if not np.isfinite(before).all():
        raise DriftError(
            f"camera {camera.name}: the calibration puts the board behind the camera; "
            "is this the calibration of this set-up?"
        )
    fit = least_squares(
        problem.residuals, np.zeros(12), x_scale=problem.scale, loss="soft_l1", max_nfev=60
    )
    after = problem.pixels(fit.x)
    after_px = _rms(after)
    if not after_px < limits.highest_rms_px:
        raise DriftError(
            f"camera {camera.name}: no camera pose explains the views (RMS {after_px:.1f} px): "
            "another board than at calibration, or it moved during the check"
        )
    position, rotation = _margins(fit.jac, after_px / limits.floor_px, camera)
    change = fit.x[:6]
    return Drift(
        camera=camera.name,
        pose=poses.to_pose(poses.moved(poses.to_matrix(camera.pose), change)),
        board_pose=poses.to_pose(poses.moved(poses.to_matrix(board_pose), fit.x[6:])),
        mm=1e3 * float(np.linalg.norm(change[:3])),
        deg=float(np.degrees(np.linalg.norm(change[3:]))),
        margin_mm=1e3 * position,
        margin_deg=float(np.degrees(rotation)),
        board_mm=1e3 * float(np.linalg.norm(fit.x[6:9])),
        before_px=_rms(before),
        after_px=after_px,
        views=len(problem.views),
        limits=limits,
    )


def known_board_pose(camera: CameraCalibration) -> Vector:
    """Where the board was at calibration, (7,). Raises DriftError: the file does not say it."""
    if camera.board_pose is None:
        raise DriftError(
            f"camera {camera.name}: the calibration does not say where the board was; calibrate "
            "again"
        )
    return camera.board_pose


def board_pixels(hand: Vector, camera: CameraCalibration, points: Vector) -> Vector:
    """Where `camera` shows points (n, 3) [m] of the board, (n, 2) [px], with the hand at (7,)."""
    hand_matrix = poses.to_matrix(hand)
    move = hand_matrix if camera.frame == "base" else poses.inverse(hand_matrix)
    board = poses.to_matrix(known_board_pose(camera))
    chain = np.asarray(poses.inverse(poses.to_matrix(camera.pose)) @ move @ board)
    return project(points @ chain[:3, :3].T + chain[:3, 3], Intrinsics.of(camera))


class _Problem:
    """Pixels and priors as functions of the change (12,) of camera and board: [m, rad] each."""

    def __init__(
        self,
        views: Sequence[DriftView],
        camera: CameraCalibration,
        board: Board,
        limits: DriftLimits,
    ) -> None:
        self.views = views
        self.sigma = VIEW_CORRELATION * limits.floor_px
        self.scale = np.full(12, 1e-3)
        self._intrinsics = Intrinsics.of(camera)
        self._camera = poses.to_matrix(camera.pose)
        self._board = poses.to_matrix(known_board_pose(camera))
        hands = np.stack([poses.to_matrix(view.hand) for view in views])
        moves = hands if camera.frame == "base" else poses.inverse(hands)
        counts = [len(view.detection.ids) for view in views]
        # One matrix and one board point a corner: a single projection for all views.
        self._moves = np.repeat(moves, counts, axis=0)
        ids = np.concatenate([view.detection.ids for view in views]).ravel()
        points = board.corners[ids]
        self._points = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        corners = [np.asarray(view.detection.corners).reshape(-1, 2) for view in views]
        self._corners = np.concatenate(corners)
        play = np.deg2rad(limits.board_play_deg)
        self._play = np.array([1e-3 * limits.board_play_mm] * 3 + [play] * 3)

    def pixels(self, change: Vector) -> Vector:
        """Seen minus expected corners (n, 2) [px]."""
        to_camera = poses.inverse(poses.moved(self._camera, change[:6]))
        board = poses.moved(self._board, change[6:])
        points = np.einsum("ij,njk,nk->ni", to_camera, self._moves, self._points @ board.T)
        return self._corners - project(points[:, :3], self._intrinsics)

    def residuals(self, change: Vector) -> Vector:
        """Corners in units of their floor, and the board's change in units of its play."""
        pixels = np.nan_to_num(self.pixels(change), nan=1e3) / self.sigma
        return np.concatenate([pixels.ravel(), change[6:] / self._play])


def _usable(views: Sequence[DriftView], limits: DriftLimits) -> Sequence[DriftView]:
    """The views with enough corners. Raises DriftError: too few, or a pose is not finite."""
    checked = []
    for number, view in enumerate(views, 1):
        try:
            geometry.check_poses(view.hand, f"view {number}: hand pose")
        except ValueError as error:
            raise DriftError(f"{error}: look at the robot's state before checking again") from error
        if len(view.detection.ids) >= limits.fewest_corners:
            checked.append(view)
    if len(checked) < limits.fewest_views:
        raise DriftError(
            f"the board was seen in {len(checked)} of {len(views)} views, at least "
            f"{limits.fewest_views} are needed: put it into the camera's view, light it evenly"
        )
    return checked


def _margins(
    jacobian: Vector, residual_ratio: float, camera: CameraCalibration
) -> tuple[float, float]:
    """One-sided 95 % margins [m], [rad] of the camera's change, in its least certain direction."""
    covariance = max(1.0, residual_ratio) ** 2 * np.linalg.inv(jacobian.T @ jacobian)[:6, :6]
    if camera.standard_errors is not None:
        covariance = covariance + np.diag(np.asarray(camera.standard_errors) ** 2)
    position, rotation = (
        np.sqrt(np.linalg.eigvalsh(block).max())
        for block in (covariance[:3, :3], covariance[3:, 3:])
    )
    return ONE_SIDED_95 * float(position), ONE_SIDED_95 * float(rotation)


def _rms(pixels: Vector) -> float:
    return float(np.sqrt((pixels**2).sum(axis=1).mean()))
