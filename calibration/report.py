"""The page of a hand-eye calibration: how good it is, and pictures to believe it by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from calibration import files, poses, refinement
from calibration import report_drawings as drawings
from calibration.board import Board
from calibration.pinhole import Intrinsics
from calibration.refinement import Estimate
from calibration.report_drawings import SCATTER_RANGE, Overlay, Shape
from calibration.solution import Solution
from contracts.calibration import CameraCalibration
from contracts.geometry import Vector

TEMPLATE: Final = "report.html.j2"
BACKEND_WORDS: Final = {
    "fast": "simulated in process, with the sensor's noise",
    "live": "live: arm by libfranka, pictures by librealsense",
}
AXES: Final = ("x", "y", "z")


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    before: the calibration that was in force. truth: the camera's true pose (7,), where it is
    known. problems: why the result was not put into force.
    """

    solution: Solution
    camera: CameraCalibration
    before: CameraCalibration | None
    truth: Vector | None
    problems: tuple[str, ...]
    seconds: float


def write_report(path: Path, outcome: Outcome, board: Board, backend: str) -> None:
    """Write the page atomically."""
    files.write_atomically(path, render(outcome, board, backend, datetime.now()).encode())


def render(outcome: Outcome, board: Board, backend: str, written: datetime) -> str:
    """The page as HTML, whole in itself."""
    solution = outcome.solution
    before, before_words = _before(outcome)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    best = max(min(solution.solver_px.values()), 1e-9)
    chains = solution.all_views.observations(board).chains
    return environment.get_template(TEMPLATE).render(
        outcome=outcome,
        camera=outcome.camera,
        solution=solution,
        board=board,
        backend=BACKEND_WORDS[backend],
        intervals=_intervals(solution),
        solver_bars={n: min(100.0, 50 * px / best) for n, px in solution.solver_px.items()},
        error=None if outcome.truth is None else poses.apart(outcome.camera.pose, outcome.truth),
        overlays=_overlays(solution, board, before),
        before_words=before_words,
        moved=poses.apart(poses.to_pose(before.camera), outcome.camera.pose),
        scene=_scene(solution, before, chains, board),
        scene_size=drawings.SCENE_SIZE,
        scatter=_scatter(solution),
        scatter_range=SCATTER_RANGE,
        magnified=drawings.MAGNIFIED,
        written=written.strftime("%-d %B %Y, %H:%M"),
    )


def _before(outcome: Outcome) -> tuple[Estimate, str]:
    """What this calibration replaces: the last one, or else the solver's first guess."""
    last = outcome.before
    if last is None or last.board_pose is None:
        return outcome.solution.start, f"{outcome.solution.solver}'s solver, before refinement"
    estimate = Estimate(
        poses.to_matrix(last.pose), poses.to_matrix(last.board_pose)[None], Intrinsics.of(last)
    )
    return estimate, f"the last calibration ({last.calibrated_on or 'undated'})"


def _intervals(solution: Solution) -> list[dict[str, Any]]:
    """Position and rotation along each axis, with half widths of the 95 % intervals."""
    widths = solution.refined.half_widths
    return [
        {
            "axis": axis,
            "mm": 1e3 * float(solution.camera_pose[i]),
            "half_mm": 1e3 * float(widths[i]),
            "half_deg": float(np.degrees(widths[3 + i])),
        }
        for i, axis in enumerate(AXES)
    ]


def _overlays(solution: Solution, board: Board, before: Estimate) -> list[Overlay]:
    """Every view, those left out first, then those that fit worst."""
    estimate, view_set = solution.refined.estimate, solution.all_views
    observations = view_set.observations(board)
    errors = refinement.residuals(observations, estimate)
    drawn = []
    for i, view in enumerate(view_set.views):
        chain = observations.chains[i]
        drawn.append(
            drawings.overlay(
                view,
                board,
                view.detection.corners + errors[observations.view == i],
                drawings.board_outline(before, chain, board),
                drawings.board_outline(estimate, chain, board),
                hold_out_px=solution.hold_out.px.get(view.number),
                hold_out_mm=solution.hold_out.mm.get(view.number),
                left_out=view.number in solution.outliers,
            )
        )
    return sorted(drawn, key=lambda overlay: (not overlay.left_out, -overlay.rms_px))


def _scene(solution: Solution, before: Estimate, chains: Vector, board: Board) -> list[Shape]:
    return drawings.scene(solution.refined.estimate, before, chains, board, solution.views.on_hand)


def _scatter(solution: Solution) -> Mapping[str, list[tuple[float, float]]]:
    """Residuals [px] of all corners before and after the refinement, within the drawing."""
    observations = solution.refined.observations
    return {
        name: [
            (round(x, 3), round(y, 3))
            for x, y in refinement.residuals(observations, estimate).tolist()
            if max(abs(x), abs(y)) <= SCATTER_RANGE
        ]
        for name, estimate in (("start", solution.start), ("refined", solution.refined.estimate))
    }
