"""Robot data of another world than the evaluation's: the part that BridgeV2 plays in the paper.

The same arm moves other things of other names and colours between other containers, seen by cameras
that hang elsewhere, under other light and other instructions. Each rollout of the scripted expert
gives a few frames with the simulator's truth beside them:

    python -m training.other_world --rollouts 1500 --seed 1 --out runs/other_world

writes images.npy (frames, cameras, size, size, 3), chunks.npy (frames, horizon, 7), frames.jsonl.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from contracts import bundle, geometry
from contracts.geometry import Vector
from contracts.task import CONTAINERS, OBJECTS, TASKS, Task
from simulation import objects
from simulation.cameras import CAMERAS
from simulation.expert import TIME_STEP, Expert, SceneTruth
from simulation.fast import FastSimulation
from simulation.look import sample_look
from simulation.objects import VISUAL_GROUP
from simulation.placement import Placement, place
from training.demonstrations import MAX_STEPS, NOISY_SHARE, chunks, disturbed
from training.scenes import IMAGE_SIZE, project

COLOURS: Final = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.15, 0.65, 0.20),
    "blue": (0.12, 0.30, 0.90),
    "yellow": (0.93, 0.83, 0.12),
    "white": (0.92, 0.92, 0.92),
}
NOUNS: Final = {"teddy bear": "toy", "box": "block", "cup": "can", "sponge": "pad"}
"""What the evaluation's objects are called here, where they also have other colours."""
TEMPLATES: Final = (
    "move the {object} from the {source} to the {target}",
    "put the {object} into the {target}",
    "take the {object} out of the {source} and put it into the {target}",
)
OTHER_TASKS: Final = tuple(
    Task(f"{source}_to_{target}", source, target)
    for source in CONTAINERS
    for target in CONTAINERS
    if source != target and f"{source}_to_{target}" not in TASKS
)
CAMERA_SHIFT: Final = {"front": 0.06, "wrist": 0.004}
CAMERA_TURN: Final = {"front": 0.05, "wrist": 0.03}
"""Largest changes of the cameras' positions [m] and rotation vectors [rad], an axis."""
FRAMES_A_ROLLOUT: Final = 6


@dataclass(frozen=True)
class Entity:
    """A thing on the table: its name in words, position [m], and where each camera sees it.

    points: (x, y) a camera, 0..1 inside the picture; boxes: (left, top, right, bottom) a camera.
    """

    name: str
    role: str
    position: tuple[float, ...]
    points: dict[str, tuple[float, ...]]
    boxes: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Frame:
    """One moment: roles of entities are object, source, target, other object, other container."""

    name: str
    instruction: str
    phase: str
    state: tuple[float, ...]
    pose: tuple[float, ...]
    opening: float
    entities: tuple[Entity, ...]

    def entity(self, role: str) -> Entity:
        return next(entity for entity in self.entities if entity.role == role)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Frame:
        return cls(**{**content, "entities": tuple(Entity(**e) for e in content["entities"])})


class OtherWorld:
    """Draws rollouts; the same seed gives the same rollout anywhere."""

    def __init__(self, image_size: int = IMAGE_SIZE) -> None:
        self._simulation = FastSimulation(image_size)
        model = self._simulation.model
        self._colours = model.geom_rgba[:, :3].copy()
        self._cameras = {
            name: (model.camera(name).pos.copy(), model.camera(name).quat.copy())
            for name in CAMERAS
        }

    def rollout(self, seed: int) -> list[tuple[Frame, np.ndarray, Vector]]:
        """Frames, pictures (cameras, size, size, 3), chunks (horizon, 7); empty if it failed."""
        rng = np.random.default_rng([seed, 11])
        task = OTHER_TASKS[int(rng.integers(len(OTHER_TASKS)))]
        placement = place(task, OBJECTS[int(rng.integers(len(OBJECTS)))], seed)
        simulation = self._simulation
        simulation.reset(placement)
        names = self._dress(placement, seed, rng)
        self._hang_cameras(rng)
        template = str(rng.choice(TEMPLATES))
        instruction = template.format(
            object=names[placement.object], source=task.source, target=task.target
        )
        drawn = set(rng.choice(45, 2 * FRAMES_A_ROLLOUT, replace=False).tolist())
        expert, noisy = Expert(placement), rng.random() < NOISY_SHARE
        kept: list[tuple[int, Frame, np.ndarray]] = []
        poses, waypoints, grips = [], [], []
        while not expert.done and len(poses) < MAX_STEPS:
            step, phase = len(poses), expert.phase
            if step in drawn and len(kept) < FRAMES_A_ROLLOUT:
                pictures = np.stack(list(simulation.images().values()))
                frame = self._frame(f"other_world/{seed}#{step}", instruction, phase, names)
                kept.append((step, frame, pictures))
            truth = SceneTruth.read(simulation.model, simulation.data, placement)
            waypoint = expert.act(truth, simulation.commanded_pose, simulation.gripper_opening)
            poses.append(simulation.pose)
            waypoints.append(waypoint.pose)
            grips.append(waypoint.gripper)
            simulation.follow(disturbed(waypoint, noisy, rng), waypoint.gripper, TIME_STEP)
        if not expert.done:
            return []
        futures = zip(chunks(np.array(waypoints)), chunks(np.array(grips)), strict=True)
        actions = [
            bundle.to_relative(pose, *future) for pose, future in zip(poses, futures, strict=True)
        ]
        return [(frame, pictures, actions[step]) for step, frame, pictures in kept]

    def _dress(self, placement: Placement, seed: int, rng: np.random.Generator) -> dict[str, str]:
        """Light and colours of this rollout; returns the objects' names."""
        model = self._simulation.model
        look = sample_look(model, seed + 1)
        self._simulation.show(replace(look, bodies=1.5 * look.bodies, table=1.5 * look.table))
        chosen = rng.permutation(list(COLOURS))[: len(placement.objects)]
        names = {}
        for obj, colour in zip(placement.objects, chosen, strict=True):
            body = model.body(objects.object_body(obj)).id
            geoms = (model.geom_bodyid == body) & (model.geom_group == int(VISUAL_GROUP))
            # Parts keep their difference in brightness, so that the shape stays to be seen.
            shade = 0.55 + 0.45 * self._colours[geoms].max(1, keepdims=True)
            model.geom_rgba[geoms, :3] = np.clip(np.array(COLOURS[colour]) * shade, 0, 1)
            names[obj] = f"{colour} {NOUNS[obj]}"
        return names

    def _hang_cameras(self, rng: np.random.Generator) -> None:
        model = self._simulation.model
        for name, (position, quaternion) in self._cameras.items():
            shift, turn = CAMERA_SHIFT[name], CAMERA_TURN[name]
            camera = model.camera(name)
            camera.pos[:] = position + rng.uniform(-shift, shift, 3)
            turned = geometry.from_rotation_vector(rng.uniform(-turn, turn, 3))
            x, y, z, w = geometry.multiply(np.roll(quaternion, -1), turned)
            camera.quat[:] = (w, x, y, z)  # MuJoCo writes the scalar first

    def _frame(self, name: str, instruction: str, phase: str, names: dict[str, str]) -> Frame:
        simulation = self._simulation
        placement = simulation.placement
        assert placement is not None
        entities = []
        for obj in placement.objects:
            role = "object" if obj == placement.object else "other object"
            position = simulation.data.body(objects.object_body(obj)).xpos
            size = np.array(objects.OBJECT_SHAPES[obj].half_size)
            entities.append(self._entity(names[obj], role, position, size))
        source = placement.task.partition("_to_")[0]
        for container, at in placement.containers.items():
            role = {source: "source", placement.target: "target"}.get(container, "other container")
            shape = objects.CONTAINER_SHAPES[container]
            size = np.array([shape.inner, shape.inner, shape.height / 2])
            position = np.array([at.x, at.y, at.z])
            entities.append(self._entity(container, role, position, size, lift=size[2]))
        pose, opening = simulation.pose, simulation.gripper_opening
        state = bundle.state_vector(pose, opening)
        return Frame(
            name, instruction, phase, tuple(state.tolist()), tuple(pose.tolist()), opening,
            tuple(entities),
        )  # fmt: skip

    def _entity(
        self, name: str, role: str, position: Vector, size: Vector, lift: float = 0.0
    ) -> Entity:
        """`size` (3,) are half extents around `position` raised by `lift` [m]."""
        corners = position + [0, 0, lift] + size * _CORNERS
        points, boxes = {}, {}
        for camera in CAMERAS:
            points[camera] = tuple(project(self._simulation, camera, position).tolist())
            seen = np.stack([project(self._simulation, camera, corner) for corner in corners])
            boxes[camera] = (*seen.min(0).tolist(), *seen.max(0).tolist())
        return Entity(name, role, tuple(position.tolist()), points, boxes)


_CORNERS: Final = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


def generate(out: Path, rollouts: int, seed: int) -> None:
    """Write the frames of `rollouts` rollouts; failed ones are left out."""
    out.mkdir(parents=True, exist_ok=True)
    world = OtherWorld()
    frames, images, actions = [], [], []
    for i in tqdm(range(rollouts), desc="other world", mininterval=5):
        for frame, pictures, chunk in world.rollout(1_000_000 * seed + i):
            frames.append(json.dumps(asdict(frame)))
            images.append(pictures)
            actions.append(chunk)
    np.save(out / "images.npy", np.stack(images))
    np.save(out / "chunks.npy", np.stack(actions))
    (out / "frames.jsonl").write_text("\n".join(frames) + "\n")  # last: it says that all is there


@dataclass(frozen=True)
class OtherWorldData:
    """Frames of a folder that `generate` wrote; images are mapped from the file."""

    frames: tuple[Frame, ...]
    images: np.ndarray
    chunks: Vector

    @classmethod
    def load(cls, folder: Path) -> OtherWorldData:
        lines = (folder / "frames.jsonl").read_text().splitlines()
        frames = tuple(Frame.from_json(json.loads(line)) for line in lines)
        images = np.load(folder / "images.npy", mmap_mode="r")
        return cls(frames, images, np.load(folder / "chunks.npy"))

    def __len__(self) -> int:
        return len(self.frames)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Robot data of another world than the tasks'.")
    parser.add_argument("--rollouts", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    generate(arguments.out, arguments.rollouts, arguments.seed)
