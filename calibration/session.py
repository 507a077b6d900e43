"""One session of taking views: which robot, camera and board, opened and ready."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from calibration import capture, poses, viewpoints
from calibration.board import Board
from calibration.capture_progress import CaptureProgress
from calibration.pinhole import Intrinsics
from calibration.source import ON_HAND, ViewSource
from calibration.store import read_calibration
from calibration.views import LEAST_VIEWS, ViewSet
from contracts.calibration import Calibration
from contracts.geometry import Vector

if TYPE_CHECKING:
    from calibration.live_link import Bump

DRAWN: Final = Path(__file__).parent / "defaults" / "simulated.yaml"
"""Where cameras and board are on the drawing of the set-up; the planner needs no better."""
SPARE_VIEWS: Final = 6
"""Viewpoints planned beyond those wanted: from some the board will not be seen well."""
LARGEST_LIVE_BUMP: Final = (0.015, 0.02)
"""Metres and radians by which a simulated live camera is off its drawing, each axis at most."""


@dataclass(frozen=True)
class SessionConfig:
    """Who takes views of what.

    recorded: a folder of kept views to solve again instead of taking new ones. address and serial
    are a real robot's and camera's; without an address the set-up is simulated. board: its file;
    None takes the board used last.
    """

    camera: str
    out: Path
    backend: str = "fast"
    seed: int = 0
    views: int = 25
    board: Path | None = None
    recorded: Path | None = None
    by_hand: bool = False
    address: str = ""
    serial: str = ""

    def __post_init__(self) -> None:
        if self.camera not in ON_HAND:
            raise ValueError(f"no camera {self.camera!r}; there are {', '.join(ON_HAND)}")
        if self.by_hand and self.backend == "fast":
            raise ValueError("--by-hand needs --backend live: in process there is no hand to guide")
        if self.address and self.backend != "live":
            raise ValueError("--robot-ip needs --backend live")
        if self.views < LEAST_VIEWS:
            raise ValueError(f"--views must be at least {LEAST_VIEWS}")
        if self.seed < 0:
            raise ValueError("--seed must not be negative")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of SessionConfig."""
    add = parser.add_argument
    add("--camera", choices=tuple(ON_HAND), required=True)
    add("--backend", choices=("fast", "live"), default="fast", help="default fast: in process")
    add("--seed", type=int, default=0, help="of the viewpoints, and of a simulated camera's place")
    add("--out", type=Path, default=Path("runs/calibration"), help="folder of this set-up")
    add("--views", type=int, default=25)
    add("--board", type=Path, help="board.yaml; default: the board used last")
    add("--recorded", type=Path, help="folder of kept views to solve again")
    add("--by-hand", action="store_true", help="a person guides the arm from view to view")
    add("--robot-ip", dest="address", default="", help="a real arm; default: a simulated one")
    add("--serial", default="", help="of a real camera")


def take_views(
    config: SessionConfig,
    source: ViewSource,
    board: Board,
    last: Calibration | None,
    shown: CaptureProgress,
) -> ViewSet:
    """Views by the arm, or by hand.

    Raises:
        CaptureError, MotionError, ValueError: there are none, or no way to them; see `capture`.
    """
    if config.by_hand:
        return capture.guide(source, board, config.views, shown.ready, shown.tell)
    shown.planning()
    set_up = planned_set_up(source, board, last)
    route = viewpoints.plan(set_up, config.views, config.seed, spare=SPARE_VIEWS)
    return capture.visit(source, board, route, config.views, shown.tell)


def planned_set_up(source: ViewSource, board: Board, last: Calibration | None) -> viewpoints.SetUp:
    """What is roughly known: from the last calibration, or from the drawing."""
    known = None if last is None else last.cameras.get(source.camera)
    if known is None or known.board_pose is None:
        known = read_calibration(DRAWN).cameras[source.camera]
    assert known.board_pose is not None  # the drawing has it
    intrinsics = source.factory or Intrinsics.of(known)
    return viewpoints.SetUp(ON_HAND[source.camera], known.pose, known.board_pose, intrinsics, board)


@contextmanager
def open_source(config: SessionConfig, board: Board) -> Iterator[tuple[ViewSource, Vector | None]]:
    """The set-up to calibrate, and the camera's true pose (7,) where it is known."""
    if config.backend == "fast":
        # Imported here: a robot PC has no simulator installed.
        from calibration.fast_source import FastSource, board_world

        world = board_world(config.camera, board)
        try:
            fast = FastSource(config.camera, config.seed, board, world)
            yield fast, world.truth.camera_pose
        finally:
            world.close()
        return
    from calibration.live_link import Bump, open_live

    bump = Bump()
    if not config.address:
        rng = np.random.default_rng([config.seed, 19])
        shift, turn = (size * rng.uniform(-1, 1, 3) for size in LARGEST_LIVE_BUMP)
        bump = Bump(tuple(shift.tolist()), tuple(turn.tolist()))
    with open_live(config.camera, board, config.address, config.serial, bump) as live:
        yield live, None if config.address else _bumped_truth(config.camera, bump)


def _bumped_truth(camera: str, bump: Bump) -> Vector:
    drawn = read_calibration(DRAWN).cameras[camera].pose
    change = np.array([*bump.shift, *bump.turn])
    return poses.to_pose(poses.moved(poses.to_matrix(drawn), change))
