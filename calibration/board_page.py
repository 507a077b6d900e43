"""The board as a PDF page at true scale, with a ruler that shows whether the printer kept it."""

from __future__ import annotations

import io
import itertools
from typing import Final

from reportlab.lib import pagesizes
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

from calibration.board import RULER, Board

PAPERS: Final = {"a4": pagesizes.A4, "letter": pagesizes.LETTER}
MARGIN: Final = 6.0
"""Millimetres at the edge of the paper that printers may leave white."""
TICK: Final = 0.010


def page(board: Board, paper: str) -> bytes:
    """One landscape page as PDF.

    Raises:
        ValueError: the board with its ruler does not fit on the paper.
    """
    width, height = pagesizes.landscape(PAPERS[paper])
    below = 14.0 * mm  # the ruler and the text
    if 1e3 * board.width * mm > width - 2 * MARGIN * mm or (
        1e3 * board.height * mm > height - 2 * MARGIN * mm - below
    ):
        raise ValueError(
            f"a board of {1e3 * board.width:.0f} x {1e3 * board.height:.0f} mm and its ruler do "
            f"not fit on {paper}"
        )
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(width, height), invariant=True)
    canvas.setTitle("ChArUco board")
    # Readers that honour it print at 100 %, not fitted to the page.
    canvas.setViewerPreference("PrintScaling", "None")
    left = (width - 1e3 * board.width * mm) / 2
    bottom = MARGIN * mm + below
    _draw_board(canvas, board, left, bottom)
    _draw_ruler(canvas, (width - 1e3 * RULER * mm) / 2, bottom - 7.0 * mm)
    canvas.setFont("Helvetica", 7)
    canvas.drawCentredString(
        width / 2,
        MARGIN * mm,
        f"{board.columns} x {board.rows} squares of {1e3 * board.square:g} mm, markers "
        f"{1e3 * board.marker:g} mm, {board.dictionary}. Print at 100 %, measure the ruler "
        f"(0 to {1e3 * RULER:.0f} mm), glue on a stiff flat plate, keep the white margin.",
    )
    canvas.save()
    return buffer.getvalue()


def _draw_board(canvas: Canvas, board: Board, left: float, bottom: float) -> None:
    """Black squares and the black cells of the markers, as OpenCV itself lays them out."""
    for x, y, width, height in black_rectangles(board):
        canvas.rect(
            left + 1e3 * x * mm,
            bottom + 1e3 * (board.height - y - height) * mm,
            1e3 * width * mm,
            1e3 * height * mm,
            stroke=0,
            fill=1,
        )


def black_rectangles(board: Board) -> list[tuple[float, float, float, float]]:
    """Black areas (x, y, width, height) [m] from the board's upper left corner, y down."""
    black, identity = [], 0
    for row in range(board.rows):
        for column in range(board.columns):
            x, y = column * board.square, row * board.square
            if (row + column) % 2 == 0:
                black.append((x, y, board.square, board.square))
            else:
                black += _marker_rectangles(board, identity, x, y)
                identity += 1
    return black


def _marker_rectangles(
    board: Board, identity: int, x: float, y: float
) -> list[tuple[float, float, float, float]]:
    """Runs of black cells of the marker in the white square at `x`, `y` [m]."""
    cells = board.aruco_dictionary.markerSize + 2
    bits = board.aruco_dictionary.generateImageMarker(identity, cells, borderBits=1)
    gap, cell = (board.square - board.marker) / 2, board.marker / cells
    runs = []
    for row in range(cells):
        edges = [0, *(1 + i for i in range(cells - 1) if bits[row, i] != bits[row, i + 1]), cells]
        for start, end in itertools.pairwise(edges):
            if bits[row, start] == 0:
                runs.append(
                    (x + gap + start * cell, y + gap + row * cell, (end - start) * cell, cell)
                )
    return runs


def _draw_ruler(canvas: Canvas, left: float, base: float) -> None:
    canvas.setLineWidth(0.4)
    canvas.line(left, base, left + 1e3 * RULER * mm, base)
    canvas.setFont("Helvetica", 6)
    for i in range(round(RULER / TICK) + 1):
        x = left + 1e3 * i * TICK * mm
        long = i % 5 == 0
        canvas.line(x, base, x, base + (3.0 if long else 1.8) * mm)
        if long:
            canvas.drawCentredString(x, base - 2.6 * mm, f"{1e3 * i * TICK:.0f}")
