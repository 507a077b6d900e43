"""Views without a renderer: corners projected with noise, and pictures of the board by warping."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from calibration import poses
from calibration.board import Board
from calibration.detection import Detection
from calibration.pinhole import Intrinsics, project
from calibration.views import View, ViewSet
from contracts import geometry
from contracts.geometry import Vector

BOARD = Board()
CAMERA = Intrinsics(640, 480, 600.0, 600.0, 322.0, 236.0)
NO_PICTURE = np.zeros((480, 640, 3), np.uint8)
FRONT_CAMERA = np.array([1.1, 0.0, 0.7, *geometry.normalized([0.65, 0.65, -0.27, -0.27])])
FRONT_BOARD = np.array([-0.12, 0.01, 0.11, *geometry.normalized([0.7, 0.02, -0.03, 0.7])])
WRIST_CAMERA = np.array([0.07, 0.0, 0.03, *geometry.normalized([-0.17, -0.16, 0.69, 0.68])])
WRIST_BOARD = np.array([0.4, 0.1, 0.0, 1.0, 0.0, 0.0, 0.0])


def board_in_camera(rng: np.random.Generator, tilt: float = 0.6, roll: float = 1.0) -> Vector:
    """A board (4, 4) that faces the camera, whole in the picture."""
    while True:
        pixel, distance = rng.uniform((80, 80), (560, 400)), rng.uniform(0.45, 0.9)
        place = distance * np.array([*(pixel - [CAMERA.cx, CAMERA.cy]) / CAMERA.fx, 1.0])
        direction = rng.uniform(-np.pi, np.pi)
        lean = tilt * rng.uniform(0.3, 1.0) * np.array([np.cos(direction), np.sin(direction), 0.0])
        turn = np.array([0.0, 0.0, rng.uniform(-roll, roll)])
        view = np.eye(4)
        view[:3, :3] = geometry.to_matrix(
            geometry.multiply(
                geometry.from_rotation_vector(lean), geometry.from_rotation_vector(turn)
            )
        )
        view[:3, 3] = place - view[:3, :3] @ BOARD.centre
        outline = project(BOARD.outline @ view[:3, :3].T + view[:3, 3], CAMERA)
        if np.all(outline > 5) and np.all(outline < [635, 475]):
            return view


def made_views(
    camera: str = "front",
    seed: int = 0,
    count: int = 20,
    *,
    noise: float = 0.08,
    robot_noise: float = 1e-4,
    tilt: float = 0.6,
    roll: float = 1.0,
    scale: float = 1.0,
    board_moves: tuple[int, Vector] | None = None,
) -> tuple[ViewSet, Vector]:
    """Views and the camera's true pose (7,).

    noise [px]; robot_noise [m, rad] of each view; scale: of the print; board_moves: from which view
    (counted from 0) on, and by how much (6,).
    """
    rng = np.random.default_rng([seed, count])
    on_hand = camera == "wrist"
    camera_pose, board_pose = (
        (WRIST_CAMERA, WRIST_BOARD) if on_hand else (FRONT_CAMERA, FRONT_BOARD)
    )
    c, b = poses.to_matrix(camera_pose), poses.to_matrix(board_pose)
    views = []
    for number in range(count):
        chain = c @ board_in_camera(rng, tilt, roll) @ poses.inverse(b)
        moved = b
        if board_moves is not None and number >= board_moves[0]:
            moved = poses.moved(b, board_moves[1])
        seen = poses.inverse(c) @ chain @ moved
        points = scale * BOARD.corners
        pixels = project(points @ seen[:3, :3].T + seen[:3, 3], CAMERA)
        pixels += rng.normal(0.0, noise, pixels.shape)
        hand = poses.inverse(chain) if on_hand else chain
        hand = poses.moved(hand, rng.normal(0.0, robot_noise, 6))
        detection = Detection(np.arange(len(points)), pixels, 0.8)
        views.append(View(number + 1, NO_PICTURE, detection, poses.to_pose(hand), 1.0, 1.0))
    return ViewSet("fr3", camera, "123", on_hand, CAMERA, tuple(views)), camera_pose


def with_hand_moved(view_set: ViewSet, number: int, change: Vector) -> ViewSet:
    """The set in which the robot reported a wrong pose for one view."""
    views = tuple(
        replace(v, hand=poses.to_pose(poses.moved(poses.to_matrix(v.hand), change)))
        if v.number == number
        else v
        for v in view_set.views
    )
    return replace(view_set, views=views)


def picture(
    view: Vector, board: Board = BOARD, *, mirrored: bool = False, blur: float = 0.7
) -> np.ndarray:
    """A grey room with the board (4, 4 in the optical frame), uint8 (480, 640, 3)."""
    n, fine = 60, 3
    drawing = cv2.copyMakeBorder(board.drawing(n), n, n, n, n, cv2.BORDER_CONSTANT, value=255)
    # From the drawing's pixels to metres on the board, then into a picture `fine` times as large.
    metres = np.array(
        [[board.square / n, 0, (0.5 - n) * board.square / n],
         [0, board.square / n, (0.5 - n) * board.square / n], [0, 0, 1]]
    )  # fmt: skip
    large = np.diag([fine, fine, 1.0]) @ CAMERA.matrix
    large[:2, 2] += (fine - 1) / 2
    homography = large @ np.column_stack([view[:3, 0], view[:3, 1], view[:3, 3]]) @ metres
    size = (fine * CAMERA.width, fine * CAMERA.height)
    fine_picture = cv2.warpPerspective(
        drawing, homography, size, flags=cv2.INTER_AREA, borderValue=110
    )
    grey = cv2.resize(fine_picture, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_AREA)
    grey = cv2.GaussianBlur(grey, (0, 0), blur)
    if mirrored:
        grey = np.ascontiguousarray(grey[:, ::-1])
    noise = np.random.default_rng(0).normal(0.0, 1.5, grey.shape)
    grey = np.clip(grey + noise, 0, 255).astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
