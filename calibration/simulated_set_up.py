"""The calibration of the simulated set-up: its cameras are where they were drawn.

`python -m calibration.simulated_set_up` writes `calibration/defaults/simulated.yaml`, which the
robot graph uses with `sim:=true` and `python -m calibration.check` compares with. It has no
latencies: those of the simulated arm are in the demonstrations that its policies learned from, and
compensating them again would send every setpoint too early.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import Final

import yaml

from calibration import files
from calibration.board import Board
from contracts.calibration import Calibration, CameraCalibration
from simulation.calibration_board import HEIGHT, WIDTH, drawn_truth
from simulation.cameras import CAMERAS

ROBOT: Final = "simulated-fr3"
PATH: Final = Path(__file__).parent / "defaults" / "simulated.yaml"
DRAWN_ON: Final = date(2026, 11, 25)


def simulated_calibration(board: Board | None = None) -> Calibration:
    """The calibration that a perfect measurement of the simulated set-up would give."""
    board = board or Board()
    cameras = {name: _camera(name, board) for name in CAMERAS}
    return Calibration(ROBOT, DRAWN_ON, cameras, None, board=board.to_document())


def _camera(name: str, board: Board) -> CameraCalibration:
    truth = drawn_truth(name, (board.width, board.height))
    return CameraCalibration(
        name=name,
        serial=CAMERAS[name].serial,
        width=WIDTH,
        height=HEIGHT,
        fx=truth.fx,
        fy=truth.fy,
        cx=truth.cx,
        cy=truth.cy,
        distortion=(0.0,) * 5,
        frame="hand" if CAMERAS[name].on_hand else "base",
        pose=truth.camera_pose,
        residual_px=0.0,
        board_pose=truth.board_pose,
        calibrated_on=DRAWN_ON,
    )


def main() -> int:
    """Write the file anew; exit code 0."""
    text = yaml.safe_dump(simulated_calibration().to_document(), sort_keys=False)
    files.write_atomically(PATH, text.encode())
    print(PATH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
