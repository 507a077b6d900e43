"""The capture: one view after another, each judged at once, so that a person can mend it.

The arm visits planned viewpoints, or a person guides it and presses Enter at each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from calibration.board import Board
from calibration.detection import CaptureError
from calibration.source import ON_HAND, ViewSource
from calibration.views import View, ViewSet, take_view
from contracts.geometry import Vector

MOST_REFUSALS: Final = 6
"""Refused pictures, and none accepted, after which the capture ends: it would not get better."""

Tell = Callable[[int, View | None, str], None]
"""Told after each picture: how many views there are, the new one or None, and why not."""


def visit(
    source: ViewSource, board: Board, route: Sequence[Vector], count: int, tell: Tell
) -> ViewSet:
    """Send the arm along `route`, end-effector poses (7,), until there are `count` views.

    Views that show too little of the board are left out; there may be fewer than `count`.

    Raises:
        CaptureError: none of the pictures can be used; the text gives the most frequent reason.
        MotionError: the arm does not arrive.
    """
    views: list[View] = []
    refusals: list[str] = []
    for pose in route:
        if len(views) == count:
            break
        source.move_to(pose)
        _take(source, board, views, refusals, tell)
    return _view_set(source, views, refusals)


def guide(
    source: ViewSource, board: Board, count: int, ready: Callable[[int], bool], tell: Tell
) -> ViewSet:
    """Take a view whenever `ready` says that the arm was brought to the next place.

    `ready` is given the number of views so far; False ends the capture early.

    Raises:
        CaptureError: none of the pictures can be used; the text gives the most frequent reason.
    """
    views: list[View] = []
    refusals: list[str] = []
    while len(views) < count and ready(len(views)):
        _take(source, board, views, refusals, tell)
    return _view_set(source, views, refusals)


def _take(
    source: ViewSource, board: Board, views: list[View], refusals: list[str], tell: Tell
) -> None:
    try:
        view = take_view(source, len(views) + len(refusals) + 1, board)
    except CaptureError as error:
        refusals.append(str(error))
        tell(len(views), None, str(error))
        if not views and len(refusals) == MOST_REFUSALS:
            raise CaptureError(_commonest(refusals)) from error
        return
    views.append(view)
    tell(len(views), view, "")


def _view_set(source: ViewSource, views: list[View], refusals: list[str]) -> ViewSet:
    if not views:
        raise CaptureError(_commonest(refusals) if refusals else "no view was taken")
    return ViewSet(
        source.robot, source.camera, source.serial, ON_HAND[source.camera], source.factory,
        tuple(views),
    )  # fmt: skip


def _commonest(refusals: Sequence[str]) -> str:
    """The most frequent reason, without the number of its view."""
    reasons = Counter(text.split(": ", 1)[-1] for text in refusals)
    reason, times = reasons.most_common(1)[0]
    return f"{times} of {len(refusals)} pictures, and none can be used: {reason}"
