"""What is wrong with views that do not fit together: an outlier, a moved board, another size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np

from calibration import poses, refinement
from calibration.board import Board
from calibration.detection import CaptureError
from calibration.refinement import Refined
from calibration.views import ViewSet, without

OUTLIER_FACTOR: Final = 4.0
LEAST_OUTLIER: Final = 0.5
"""A view is an outlier from this many times the median RMS on, and from this many pixels on."""
LARGEST_OUTLIER_SHARE: Final = 0.3
LARGEST_SCALE_ERROR: Final = 0.004
"""Share by which the print may differ from its file: 0.4 mm on the ruler's 100 mm."""
LARGEST_BOARD_CHANGE: Final = (1.0, 0.2)
"""Millimetres and degrees that the board may seem to have moved during the capture."""
LARGEST_COST_LEFT: Final = 0.6
"""Share of the views' errors that must be left when a second pose of the board is allowed."""
MOST_SUSPICIONS: Final = 3
SIGNIFICANT: Final = 5.0
"""Standard errors from which on a deviation is no chance."""
LEAST_SIDE: Final = 4
"""Views before and after a suspected move of the board."""
LARGEST_FIT: Final = 2.0
"""Median RMS [px] of the views beyond which they do not belong together."""


def find_outliers(view_set: ViewSet, refined: Refined) -> dict[int, float]:
    """Views that do not fit the others: RMS [px] by number."""
    rms = refinement.view_rms(refined.observations, refined.estimate)
    limit = max(LEAST_OUTLIER, OUTLIER_FACTOR * float(np.median(rms)))
    return {
        view.number: float(error)
        for view, error in zip(view_set.views, rms, strict=True)
        if error > limit
    }


def check_fit(refined: Refined) -> None:
    """Raises CaptureError: not even half of the views fit together."""
    middle = float(np.median(refinement.view_rms(refined.observations, refined.estimate)))
    if middle > LARGEST_FIT:
        raise CaptureError(
            f"the views contradict each other: half of them are more than {middle:.1f} px off; is "
            "the board firmly held, and the robot's pose that of the hand in use?"
        )


def without_outliers(view_set: ViewSet, outliers: Mapping[int, float]) -> ViewSet:
    if len(outliers) > LARGEST_OUTLIER_SHARE * len(view_set):
        worst = ", ".join(f"{number} ({px:.1f} px)" for number, px in outliers.items())
        raise CaptureError(
            f"the views contradict each other: {worst} of {len(view_set)} do not fit the rest; is "
            "the board firmly held, and the robot's pose that of the hand in use?"
        )
    return without(view_set, list(outliers))


def check_board_stood_still(view_set: ViewSet, refined: Refined) -> None:
    """Raises CaptureError: two boards, one before and one after some view, explain much more."""
    significance: dict[int, float] = {}
    for first in range(LEAST_SIDE, len(view_set) - LEAST_SIDE + 1):
        change, errors = refined.board_change(first)
        significance[first] = float((np.abs(change) / errors).max())
    likeliest = sorted(significance, key=lambda first: -significance[first])[:MOST_SUSPICIONS]
    moved = {
        first: _with_two_boards(refined, first)
        for first in likeliest
        if significance[first] > SIGNIFICANT
    }
    if not moved:
        return
    first = min(moved, key=lambda view: _cost(moved[view]))
    boards = moved[first].estimate.boards
    mm, degrees = poses.apart(poses.to_pose(boards[0]), poses.to_pose(boards[1]))
    explained = _cost(moved[first]) < LARGEST_COST_LEFT * _cost(refined)
    if explained and (mm > LARGEST_BOARD_CHANGE[0] or degrees > LARGEST_BOARD_CHANGE[1]):
        before, after = view_set.views[first - 1], view_set.views[first]
        raise CaptureError(
            f"the board moved between {before.name} and {after.name}, by {mm:.1f} mm and "
            f"{degrees:.1f} degrees: fix it and take the views again"
        )


def _with_two_boards(refined: Refined, first: int) -> Refined:
    """The refinement with a board of its own from view `first` on."""
    late = np.arange(len(refined.observations)) >= first
    observations = dataclasses.replace(refined.observations, board=late.astype(int))
    estimate = refined.estimate
    change, _ = refined.board_change(first)
    boards = np.stack([estimate.boards[0], poses.moved(estimate.boards[0], change)])
    start = dataclasses.replace(estimate, boards=boards)
    return refinement.refine(observations, start, free_intrinsics=refined.free_intrinsics)


def _cost(refined: Refined) -> float:
    """Sum of view RMS [px], which single bad views do not rule as they rule squares."""
    return float(refinement.view_rms(refined.observations, refined.estimate).sum())


def check_scale(scale: float, error: float, board: Board) -> None:
    off = abs(scale - 1.0)
    if off > LARGEST_SCALE_ERROR and off > SIGNIFICANT * error:
        square = 1e3 * board.square
        raise CaptureError(
            f"mis-sized print: the board is {100 * scale:.1f} % of what its file says, squares of "
            f"{square * scale:.2f} instead of {square:.2f} mm: measure the ruler and run "
            "`python -m calibration.board --ruler-mm LENGTH`"
        )
