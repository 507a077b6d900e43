"""From views to a camera's place: solvers, hold-out, refinement, outliers, and what went wrong.

Each view is held out once (five folds): the closed-form solver that predicts unseen views best is
where the joint refinement starts, and the refinement's own errors on unseen views are the ones
that a calibration is judged by. The final estimate then uses all views that fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibration import poses, refinement, solvers
from calibration.board import Board
from calibration.conflicts import (
    check_board_stood_still,
    check_fit,
    check_scale,
    find_outliers,
    without_outliers,
)
from calibration.detection import CaptureError, board_pose
from calibration.intrinsics_estimate import estimate_intrinsics
from calibration.pinhole import Intrinsics
from calibration.refinement import Estimate, Observations, Refined
from calibration.views import ViewSet, check_variety
from contracts.geometry import Vector

FOLDS: Final = 5
LARGEST_BOARD_RMS: Final = 2.0
"""Median RMS [px] of single boards beyond which the intrinsics cannot be this camera's."""


@dataclass(frozen=True)
class HoldOut:
    """Errors of each view, by its number, when the solution had not seen it: RMS of its corners
    [px], and distance [mm] of its board from where the arm says it is."""

    px: Mapping[int, float]
    mm: Mapping[int, float]

    @property
    def rms_px(self) -> float:
        return _rms(self.px.values())

    @property
    def rms_mm(self) -> float:
        return _rms(self.mm.values())


@dataclass(frozen=True)
class Solution:
    """Where the camera and the board are, how sure that is, and how it was found.

    solver_px: median hold-out RMS [px] of each closed-form solver, by name; `solver` is the best.
    start: what that solver gave, before the refinement. outliers: RMS [px] by view number; they
    are in `all_views`, but not in `views`.
    """

    all_views: ViewSet
    views: ViewSet
    refined: Refined
    start: Estimate
    solver: str
    solver_px: Mapping[str, float]
    hold_out: HoldOut
    outliers: Mapping[int, float]
    scale: float
    scale_error: float

    @property
    def camera_pose(self) -> Vector:
        """Pose (7,) of the optical frame, in the base or in the hand."""
        return poses.to_pose(self.refined.estimate.camera)

    @property
    def board_pose(self) -> Vector:
        """Pose (7,) of the board, in the other one."""
        return poses.to_pose(self.refined.estimate.boards[0])

    @property
    def intrinsics(self) -> Intrinsics:
        return self.refined.estimate.intrinsics


def solve(view_set: ViewSet, board: Board, intrinsics: Intrinsics | None) -> Solution:
    """Find the camera.

    intrinsics: the factory's or measured ones, which are kept; None estimates them from the views,
    and the refinement improves them together with the poses.

    Raises:
        CaptureError: too few or parallel views, a board that moved or has another size, or views
            that contradict each other; the message names what and which.
    """
    check_variety(view_set)
    start = estimate_intrinsics(view_set, board)[0] if intrinsics is None else intrinsics
    free = intrinsics is None
    boards = _boards(view_set, board, start)
    everything = view_set.observations(board)
    solver_px = _solver_errors(everything, boards, start)
    solver = min(solver_px, key=lambda name: solver_px[name])
    first = _closed_form(solver, everything, boards, start)
    refined = refinement.refine(everything, first, free_intrinsics=free)
    check_board_stood_still(view_set, refined)
    check_fit(refined)
    outliers = find_outliers(view_set, refined)
    fitting = view_set
    if outliers:
        fitting = without_outliers(view_set, outliers)
        check_variety(fitting)
        refined = refinement.refine(
            fitting.observations(board), refined.estimate, free_intrinsics=free
        )
    scale, scale_error = refined.scale()
    check_scale(scale, scale_error, board)
    return Solution(
        view_set, fitting, refined, first, solver, solver_px,
        hold_out(fitting, board, refined), outliers, scale, scale_error,
    )  # fmt: skip


def hold_out(view_set: ViewSet, board: Board, refined: Refined) -> HoldOut:
    """Errors of each view under a refinement without its fold; starts from `refined`."""
    everything = view_set.observations(board)
    px: dict[int, float] = {}
    mm: dict[int, float] = {}
    for held in folds(len(view_set)):
        rest = [i for i in range(len(view_set)) if i not in held]
        estimate = refinement.refine(
            everything.of_views(rest), refined.estimate, free_intrinsics=refined.free_intrinsics
        ).estimate
        errors = refinement.view_rms(everything.of_views(held), estimate)
        for i, error in zip(held, errors, strict=True):
            view = view_set.views[i]
            px[view.number] = float(error)
            seen, _ = board_pose(view.detection, board, estimate.intrinsics)
            mm[view.number] = _board_distance(everything.chains[i], estimate, seen, board)
    return HoldOut(px, mm)


def _board_distance(chain: Vector, estimate: Estimate, seen: Vector, board: Board) -> float:
    """Distance [mm] of the board's centre as seen from where the chain puts it."""
    expected = poses.inverse(estimate.camera) @ chain @ estimate.boards[0]
    centre = np.append(board.centre, 1.0)
    gap = (expected @ centre - poses.to_matrix(seen) @ centre)[:3]
    return 1e3 * float(np.linalg.norm(gap))


def folds(count: int) -> list[list[int]]:
    """Every FOLDS-th view each: neighbours on the arm's way are alike, so they part."""
    return [list(range(first, count, FOLDS)) for first in range(min(FOLDS, count))]


def _boards(view_set: ViewSet, board: Board, intrinsics: Intrinsics) -> Vector:
    """The board (v, 4, 4) in the optical frame of each view."""
    if (intrinsics.width, intrinsics.height) != view_set.size:
        width, height = view_set.size
        raise CaptureError(
            f"the intrinsics are for pictures of {intrinsics.width} x {intrinsics.height}, these "
            f"are {width} x {height}: use the same stream profile"
        )
    found = [board_pose(view.detection, board, intrinsics) for view in view_set.views]
    middle = float(np.median([rms for _, rms in found]))
    if middle > LARGEST_BOARD_RMS:
        raise CaptureError(
            f"no pose of the board fits the pictures ({middle:.1f} px RMS): these intrinsics are "
            "another camera's, or the board is bent"
        )
    return np.array([poses.to_matrix(pose) for pose, _ in found])


def _closed_form(
    solver: str, observations: Observations, boards: Vector, intrinsics: Intrinsics
) -> Estimate:
    found = solvers.solve(solver, observations.chains, boards)
    if found is None:
        raise CaptureError("no hand-eye solver finds a pose: the views are too much alike")
    return Estimate(found[0], found[1][None], intrinsics)


def _solver_errors(
    observations: Observations, boards: Vector, intrinsics: Intrinsics
) -> dict[str, float]:
    """Median RMS [px] of views that each solver has not seen; inf where it found nothing."""
    errors = {}
    for solver in solvers.SOLVERS:
        unseen: list[float] = []
        for held in folds(len(boards)):
            rest = [i for i in range(len(boards)) if i not in held]
            found = solvers.solve(solver, observations.chains[rest], boards[rest])
            if found is None:
                unseen += [float("inf")] * len(held)
                continue
            estimate = Estimate(found[0], found[1][None], intrinsics)
            unseen += refinement.view_rms(observations.of_views(held), estimate).tolist()
        errors[solver] = float(np.median(unseen))
    return errors


def _rms(values: Iterable[float]) -> float:
    return float(np.sqrt(np.mean(np.array(list(values)) ** 2)))
