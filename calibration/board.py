"""The ChArUco board: its geometry, its file with the measured size, and the page to print.

`python -m calibration.board --paper a4 --out runs/board` writes the PDF and `board.yaml`. After
printing, measure the printed ruler: `--ruler-mm 199.4` writes the true size of the squares.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import yaml

from calibration import files
from contracts.geometry import Vector

BOARD_FILE: Final = "board.yaml"
RULER: Final = 0.200
"""Length [m] of the ruler on the page."""
LARGEST_MISPRINT: Final = 0.05
"""Share by which a printed length may differ from the wanted one; more is another page."""


@dataclass(frozen=True)
class Board:
    """Chessboard of `columns` x `rows` squares with markers in the white ones; lengths in metres.

    Its frame is OpenCV's: origin at the upper left corner of the board, x right, y down, z into it.
    `measured` says whether the lengths were taken from the print or are those of the drawing.
    """

    columns: int = 7
    rows: int = 5
    square: float = 0.036
    marker: float = 0.027
    dictionary: str = "DICT_5X5_100"
    measured: bool = False

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 3:
            raise ValueError(f"board: {self.columns}x{self.rows} squares are too few, at least 3x3")
        if not 0.0 < self.marker < self.square < 1.0:
            raise ValueError(
                f"board: marker {self.marker} m and square {self.square} m do not fit together"
            )
        if not (self.dictionary.startswith("DICT_") and hasattr(cv2.aruco, self.dictionary)):
            raise ValueError(f"board: OpenCV knows no dictionary {self.dictionary!r}")
        if self.markers > len(self.aruco_dictionary.bytesList):
            raise ValueError(f"board: {self.dictionary} has fewer than {self.markers} markers")

    @property
    def width(self) -> float:
        return self.columns * self.square

    @property
    def height(self) -> float:
        return self.rows * self.square

    @property
    def markers(self) -> int:
        """Number of markers, one in each white square."""
        return self.columns * self.rows // 2

    @property
    def aruco_dictionary(self) -> cv2.aruco.Dictionary:
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))

    @cached_property
    def charuco(self) -> cv2.aruco.CharucoBoard:
        """OpenCV's board."""
        size = (self.columns, self.rows)
        return cv2.aruco.CharucoBoard(size, self.square, self.marker, self.aruco_dictionary)

    @cached_property
    def corners(self) -> Vector:
        """Inner chessboard corners ((columns-1)*(rows-1), 3) [m] in the board's frame."""
        return np.asarray(self.charuco.getChessboardCorners(), dtype=np.float64)

    @property
    def outline(self) -> Vector:
        """The board's four outer corners (4, 3) [m]."""
        w, h = self.width, self.height
        return np.array([[0.0, 0.0, 0.0], [w, 0.0, 0.0], [w, h, 0.0], [0.0, h, 0.0]])

    @property
    def centre(self) -> Vector:
        """Centre (3,) [m]."""
        return np.array([self.width / 2, self.height / 2, 0.0])

    def drawing(self, pixels_a_square: int) -> np.ndarray:
        """The board as a grey picture, without a margin."""
        size = (self.columns * pixels_a_square, self.rows * pixels_a_square)
        return np.asarray(self.charuco.generateImage(size, marginSize=0, borderBits=1))

    def scaled(self, factor: float) -> Board:
        """The board as it was printed when every length came out `factor` times as long.

        Raises:
            ValueError: the factor is further from 1 than LARGEST_MISPRINT.
        """
        if not math.isfinite(factor) or abs(factor - 1.0) > LARGEST_MISPRINT:
            raise ValueError(
                f"the print is {100 * factor:.1f} % of its true size: print again without "
                "'fit to page', or check the number"
            )
        return dataclasses.replace(
            self, square=self.square * factor, marker=self.marker * factor, measured=True
        )

    def to_document(self) -> dict[str, Any]:
        """Plain dict for a YAML file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_document(cls, document: Any) -> Board:
        """Inverse of `to_document`. Raises ValueError: a field is missing, unknown or wrong."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(document, Mapping) or set(document) != names:
            raise ValueError(f"board file: expected exactly the fields {', '.join(sorted(names))}")
        try:
            return cls(**document)
        except TypeError as error:
            raise ValueError(f"board file: {error}") from error


def load_board(path: Path) -> Board:
    """Read `board.yaml`. Raises ValueError: it is missing or wrong; the message names the file."""
    try:
        return Board.from_document(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def save_board(board: Board, path: Path) -> None:
    """Write `board.yaml` atomically."""
    files.write_atomically(path, yaml.safe_dump(board.to_document(), sort_keys=False).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 if a number or a path is wrong."""
    parser = argparse.ArgumentParser(prog="python -m calibration.board", description=__doc__)
    parser.add_argument("--paper", choices=("a4", "letter"), default="a4")
    parser.add_argument("--out", type=Path, default=Path("runs/board"), help="folder")
    parser.add_argument(
        "--ruler-mm", type=float, metavar="MM", help="length of the printed 200 mm ruler"
    )
    options = parser.parse_args(arguments)
    # Here, so that reading a board does not need the PDF library.
    from calibration import board_page

    path = options.out / BOARD_FILE
    try:
        if options.ruler_mm is not None:
            drawn = Board()
            board = drawn.scaled(options.ruler_mm / (1e3 * RULER))
            save_board(board, path)
            print(f"{path}: squares of {1e3 * board.square:.3f} mm")
            return 0
        options.out.mkdir(parents=True, exist_ok=True)
        page = options.out / f"board-{options.paper}.pdf"
        board = Board()
        files.write_atomically(page, board_page.page(board, options.paper))
        save_board(board, path)
    except (ValueError, OSError) as error:
        print(f"board: {error}", file=sys.stderr)
        return 1
    print(f"{page}: print at 100 %, measure the ruler, then --ruler-mm LENGTH")
    print(f"{path}: squares of {1e3 * board.square:.3f} mm, not measured yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
