"""A calibration board in the simulated world, and cameras that are not where the drawing says.

For the front camera the fingers hold the board by its upper edge; for the wrist camera it lies on
the table. A seed draws where camera and board truly are, and the camera's true intrinsics; they are
to be found by calibration and told here only to those who check it. The model keeps the layout of
qpos and mocap bodies of `world.render_model`, so it draws the live simulation's shared state too.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import mujoco
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from contracts import geometry
from contracts.geometry import Vector
from contracts.robot import FR3
from simulation import objects, world
from simulation.cameras import CAMERAS, FRONT, WRIST
from simulation.fast import SceneRenderer
from simulation.placement import Placement, apply_placement

WIDTH, HEIGHT = 640, 480
SUPERSAMPLING: Final = 2
"""Pictures are drawn this many times as large and averaged: edges are as smooth as a lens's."""
BOARD: Final = "calibration_board"
PAPER_MARGIN: Final = 0.012
"""White paper [m] around the board."""
TEXTURE_SIZE: Final = (2048, 1024)
"""Powers of two: then every level of the mipmap is an exact average of the one below."""
EMPTY_TABLE: Final = Placement("", "", "", 0, {}, {}, (0.0,) * 7)


@dataclass(frozen=True)
class Spread:
    """How far the truth may be from the drawing: half ranges of uniform draws, each axis."""

    camera_position: float
    camera_turn: float
    board_position: tuple[float, float, float]
    board_turn: tuple[float, float, float]
    focal: float = 0.01
    centre: float = 4.0
    """Metres, radians, share of the focal length, pixels."""


SPREADS: Final = {
    FRONT: Spread(0.020, 0.035, board_position=(0.010,) * 3, board_turn=(0.035,) * 3),
    # It lies on the table: there it may be anywhere, but not through it.
    WRIST: Spread(
        0.004, 0.026, board_position=(0.010, 0.010, 0.001), board_turn=(0.003, 0.003, 0.1)
    ),
}


@dataclass(frozen=True)
class SensorNoise:
    """Blur of lens and Bayer filter [px, standard deviation], then noise in grey levels.

    A pixel of brightness `i` gets noise of variance read**2 + shot * i.
    """

    blur: float = 0.6
    read: float = 1.5
    shot: float = 0.03

    def apply(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 picture (height, width, 3) from a float32 one."""
        blurred = gaussian_filter(picture, (self.blur, self.blur, 0.0))
        deviation = np.sqrt(self.read**2 + self.shot * blurred)
        noisy = blurred + deviation * rng.standard_normal(blurred.shape, dtype=np.float32)
        return np.asarray(np.clip(np.rint(noisy), 0, 255), dtype=np.uint8)


@dataclass(frozen=True)
class BoardTruth:
    """Poses (7,) and intrinsics as they truly are.

    camera_pose: optical frame (z forward, x right, y down) in the mount, which is the base for the
    front camera and the hand for the wrist camera. board_pose: the board (origin at its upper left
    corner, x right, y down, z into it) in the other one of hand and base. Pixels for a picture of
    WIDTH x HEIGHT, integers at pixel centres.
    """

    camera_pose: Vector
    board_pose: Vector
    fx: float
    fy: float
    cx: float
    cy: float


def drawn_truth(camera: str, board_size: tuple[float, float]) -> BoardTruth:
    """Everything exactly where the drawing of the set-up says; `board_size` is in metres."""
    drawing = CAMERAS[camera]
    right, up = np.array(drawing.right), np.array(drawing.up)
    axes = np.stack([right, -up, np.cross(right, -up)], axis=1)
    pose = np.concatenate([drawing.position, geometry.from_matrix(axes)])
    focal = drawing.focal_length(HEIGHT)
    return BoardTruth(
        pose, _drawn_board(camera, board_size), focal, focal, (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    )


def _drawn_board(camera: str, board_size: tuple[float, float]) -> Vector:
    """The board's pose (7,): hanging from the closed fingers, or flat amid the workspace."""
    width, height = board_size
    if camera == FRONT:  # x along the hand's x, down along its z: it faces along the hand's y
        half = np.sqrt(0.5)
        return np.array([-width / 2, 0.0, 0.105, half, 0.0, 0.0, half])
    return np.array([0.50 - width / 2, height / 2, 0.004, 1.0, 0.0, 0.0, 0.0])


def sample_truth(camera: str, board_size: tuple[float, float], seed: int) -> BoardTruth:
    """The truth that belongs to `seed`: same arguments, same truth."""
    rng = np.random.default_rng([seed, list(CAMERAS).index(camera), 11])
    drawn, spread = drawn_truth(camera, board_size), SPREADS[camera]
    focal = drawn.fx * (1 + rng.uniform(-spread.focal, spread.focal))
    return BoardTruth(
        camera_pose=_displaced(
            drawn.camera_pose, rng, (spread.camera_position,) * 3, (spread.camera_turn,) * 3
        ),
        board_pose=_displaced(drawn.board_pose, rng, spread.board_position, spread.board_turn),
        fx=focal,
        fy=focal,
        cx=drawn.cx + rng.uniform(-spread.centre, spread.centre),
        cy=drawn.cy + rng.uniform(-spread.centre, spread.centre),
    )


def _displaced(
    pose: Vector,
    rng: np.random.Generator,
    shift: tuple[float, float, float],
    turn: tuple[float, float, float],
) -> Vector:
    moved = pose[:3] + np.array(shift) * rng.uniform(-1, 1, 3)
    rotation = geometry.from_rotation_vector(np.array(turn) * rng.uniform(-1, 1, 3))
    return np.concatenate([moved, geometry.multiply(rotation, pose[3:])])


def board_model(
    camera: str, drawing: np.ndarray, board_size: tuple[float, float]
) -> mujoco.MjModel:
    """The world with the board in it, where the drawing of the set-up says.

    drawing: the board's picture (rows, columns) uint8, without a margin, cells some pixels wide;
    board_size: its width and height [m].
    """
    simulator = world.live_simulator()
    scene = simulator.scene
    sheet, margins = _sheet(drawing, board_size)
    _add_board_assets(world._child(scene, "asset"), board_size, margins)
    parent = scene.find("worldbody")
    assert parent is not None  # furnished above
    if camera == FRONT:
        parent = next(body for body in scene.iter("body") if body.get("name") == world.HAND)
    body = ET.SubElement(parent, "body", name=BOARD)
    ET.SubElement(
        body,
        "geom",
        type="mesh",
        mesh=BOARD,
        material=BOARD,
        contype="0",
        conaffinity="0",
        group=objects.VISUAL_GROUP,
        mass="0",
    )
    _describe_sensor(scene, camera)
    picture = io.BytesIO()
    sheet.save(picture, "PNG")
    xml = ET.tostring(scene, encoding="unicode")
    model = mujoco.MjModel.from_xml_string(xml, {BOARD + ".png": picture.getvalue()})
    place(model, camera, drawn_truth(camera, board_size))
    return model


def place(model: mujoco.MjModel, camera: str, truth: BoardTruth) -> None:
    """Put the camera and the board where `truth` says."""
    index, body = model.camera(camera).id, model.body(BOARD).id
    rotation = geometry.to_matrix(truth.camera_pose[3:]) @ np.diag([1.0, -1.0, -1.0])
    model.cam_pos[index] = truth.camera_pose[:3]
    model.cam_quat[index] = np.roll(geometry.from_matrix(rotation), 1)
    # In a sensor of one metre a pixel; MuJoCo's offsets point right and up from the middle.
    model.cam_intrinsic[index] = (
        truth.fx, truth.fy, (WIDTH - 1) / 2 - truth.cx, (HEIGHT - 1) / 2 - truth.cy,
    )  # fmt: skip
    model.body_pos[body] = truth.board_pose[:3]
    model.body_quat[body] = np.roll(truth.board_pose[3:], 1)


def _describe_sensor(scene: ET.Element, camera: str) -> None:
    """Give the camera focal lengths and a centre instead of an opening angle."""
    element = next(e for e in scene.iter("camera") if e.get("name") == camera)
    del element.attrib["fovy"]
    element.attrib.update(
        resolution=f"{WIDTH} {HEIGHT}",
        sensorsize=f"{WIDTH} {HEIGHT}",
        focalpixel=f"{WIDTH} {WIDTH}",
        principalpixel="0 0",
    )


def _add_board_assets(
    asset: ET.Element, board_size: tuple[float, float], margins: tuple[float, float]
) -> None:
    (width, height), (x, y) = board_size, margins
    sheet = [(-x, -y), (width + x, -y), (width + x, height + y), (-x, height + y)]
    vertices = [(x, y, 0.0) for x, y in sheet] + [(width / 2, height / 2, 0.002)]
    faces = [(0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4), (0, 2, 1), (0, 3, 2)]
    corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5)]
    ET.SubElement(
        asset,
        "mesh",
        name=BOARD,
        vertex=_numbers(vertices),
        face=_numbers(faces),
        texcoord=_numbers(corners),
    )
    ET.SubElement(asset, "texture", name=BOARD, type="2d", file=BOARD + ".png")
    ET.SubElement(
        asset, "material", name=BOARD, texture=BOARD, specular="0", shininess="0", emission="0.25"
    )


def _numbers(rows: Sequence[tuple[float, ...]]) -> str:
    return " ".join(f"{value:.9g}" for row in rows for value in row)


def _sheet(
    drawing: np.ndarray, board_size: tuple[float, float]
) -> tuple[Image.Image, tuple[float, float]]:
    """The board's drawing on white paper, and the paper's margins [m] to whole pixels."""
    rows, columns = drawing.shape
    pitch = (board_size[0] / columns, board_size[1] / rows)
    x, y = round(PAPER_MARGIN / pitch[0]), round(PAPER_MARGIN / pitch[1])
    sheet = np.full((rows + 2 * y, columns + 2 * x), 255, np.uint8)
    sheet[y : y + rows, x : x + columns] = drawing
    image = Image.fromarray(sheet).resize(TEXTURE_SIZE, Image.Resampling.BOX).convert("RGB")
    return image, (x * pitch[0], y * pitch[1])


class BoardWorld:
    """The arm, the board and one camera, standing still; draws what the camera sees.

    `truth` may be replaced by `move`: the camera is bumped, or the board slips.
    """

    def __init__(
        self,
        camera: str,
        drawing: np.ndarray,
        board_size: tuple[float, float],
        noise: SensorNoise = SensorNoise(),
    ) -> None:
        """See `board_model`. Raises ValueError: no such camera."""
        if camera not in CAMERAS:
            raise ValueError(f"unknown camera {camera!r}; known: {', '.join(CAMERAS)}")
        self.camera = camera
        self._noise = noise
        self._model = board_model(camera, drawing, board_size)
        self._data = mujoco.MjData(self._model)
        apply_placement(self._model, self._data, EMPTY_TABLE)
        self._arm = world.joint_addresses(self._model, world.ARM_JOINTS)
        self._fingers = world.joint_addresses(self._model, world.FINGER_JOINTS)
        self._renderer = SceneRenderer(self._model, SUPERSAMPLING * WIDTH, SUPERSAMPLING * HEIGHT)
        self.truth = drawn_truth(camera, board_size)
        self._board_size = board_size
        self._rng = np.random.default_rng(0)
        self.arrange(None)

    def arrange(self, seed: int | None) -> None:
        """The truth and the noise that belong to `seed`; None puts all where it was drawn."""
        drawn = drawn_truth(self.camera, self._board_size)
        self.move(drawn if seed is None else sample_truth(self.camera, self._board_size, seed))
        self._rng = np.random.default_rng([0 if seed is None else seed, 13])
        self.set_joints(FR3.home_joints)

    def move(self, truth: BoardTruth) -> None:
        """Put camera and board elsewhere."""
        self.truth = truth
        place(self._model, self.camera, truth)

    def set_joints(self, joints: Vector) -> None:
        """Let the arm stand at joint positions (7,) [rad]."""
        self._data.qpos[self._arm] = joints
        self._data.qpos[self._fingers] = 0.0

    def render(self) -> np.ndarray:
        """Picture (HEIGHT, WIDTH, 3) uint8 RGB with the sensor's blur and noise."""
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        drawn = self._renderer.render(self._data, self.camera).astype(np.float32)
        n = SUPERSAMPLING
        # Slices are added several times faster than a mean over reshaped axes.
        parts = [drawn[i::n, j::n] for i in range(n) for j in range(n)]
        return self._noise.apply(np.asarray(sum(parts)) / len(parts), self._rng)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()
