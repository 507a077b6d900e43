"""The board: its page is true to scale, its file keeps the measured size, bad files are named."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from calibration.board import Board, load_board, main, save_board
from calibration.board_page import black_rectangles, page

MM_A_POINT = 25.4 / 72


def test_the_page_draws_what_opencv_looks_for() -> None:
    board, pixels = Board(), 112  # cells of the markers are whole pixels
    drawn = np.full((board.rows * pixels, board.columns * pixels), 255, np.uint8)
    for x, y, width, height in black_rectangles(board):
        left, top, right, bottom = np.rint(
            np.array([x, y, x + width, y + height]) * pixels / board.square
        ).astype(int)
        drawn[top:bottom, left:right] = 0
    np.testing.assert_array_equal(drawn, board.drawing(pixels))


@pytest.mark.parametrize(("paper", "size"), [("a4", (297, 210)), ("letter", (279.4, 215.9))])
def test_the_page_has_the_paper_s_size_and_asks_for_full_scale(
    paper: str, size: tuple[float, float]
) -> None:
    document = page(Board(), paper)
    assert document.startswith(b"%PDF")
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+)", document)
    assert box is not None
    assert [float(v) * MM_A_POINT for v in box.groups()] == pytest.approx(size, abs=0.05)
    assert b"/PrintScaling /None" in document


def test_a_board_larger_than_the_paper_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit on a4"):
        page(Board(columns=9), "a4")


def test_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--paper", "letter", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "board-letter.pdf").read_bytes().startswith(b"%PDF")
    assert load_board(tmp_path / "board.yaml") == Board()
    assert main(["--ruler-mm", "199.0", "--out", str(tmp_path)]) == 0
    measured = load_board(tmp_path / "board.yaml")
    assert measured.measured
    assert measured.square == pytest.approx(0.036 * 0.995)
    assert measured.corners[0] == pytest.approx([measured.square, measured.square, 0.0])
    capsys.readouterr()
    assert main(["--ruler-mm", "100", "--out", str(tmp_path)]) == 1
    assert "50.0 % of its true size" in capsys.readouterr().err
    assert load_board(tmp_path / "board.yaml") == measured


def test_file_comes_back(tmp_path: Path) -> None:
    board = Board(columns=6, rows=4, square=0.05, marker=0.04, dictionary="DICT_4X4_50")
    save_board(board, tmp_path / "board.yaml")
    assert load_board(tmp_path / "board.yaml") == board


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": 2}, "too few"),
        ({"marker": 0.04}, "do not fit together"),
        ({"square": float("nan")}, "do not fit together"),
        ({"dictionary": "DICT_9X9"}, "knows no dictionary"),
        ({"columns": "seven"}, "board file"),
        ({"colour": "red"}, "exactly the fields"),
        ({"rows": 40}, "fewer than"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(yaml.safe_dump(Board().to_document() | change))
    with pytest.raises(ValueError, match=message) as caught:
        load_board(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"board\.yaml: cannot be read"):
        load_board(tmp_path / "board.yaml")
    (tmp_path / "board.yaml").write_text("{[")
    with pytest.raises(ValueError, match=r"board\.yaml"):
        load_board(tmp_path / "board.yaml")


def test_corners_are_where_opencv_has_them() -> None:
    board = Board()
    image = cv2.copyMakeBorder(board.drawing(80), 80, 80, 80, 80, cv2.BORDER_CONSTANT, value=255)
    found, ids, _, _ = cv2.aruco.CharucoDetector(board.charuco).detectBoard(image)
    metres = (np.asarray(found).reshape(-1, 2) + 0.5 - 80) * board.square / 80
    np.testing.assert_allclose(metres, board.corners[np.ravel(ids), :2], atol=2e-4)
