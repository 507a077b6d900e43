"""PolicyBundle: the directory that training writes and the server reads.

    manifest.json     what is here, how to feed it, where it came from
    tokenizer.json    Hugging Face `tokenizers` file
    backbone.onnx     pixel patches and prompt -> hidden states of layer k
    head.onnx         hidden states, state, noise -> normalised actions
    *.onnx.data       weights of a graph that is too large for one file, beside it; may be absent
    reference.npz     inputs and outputs of both graphs, to check an engine against

Every file but the manifest is listed there with its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contracts import geometry
from contracts.action import MAX_HORIZON
from contracts.geometry import Vector

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
BACKBONE = "backbone.onnx"
HEAD = "head.onnx"
REFERENCE = "reference.npz"
MIN_RANGE = 1e-3
"""Smallest range of a normalised dimension; a narrower one would blow noise up (openpi #763)."""

ACTION_SPACE = "relative_pose"
"""Each step holds the waypoint relative to the observed pose: metres in the base frame (3),
rotation vector in the base frame [rad] (3), and gripper opening (1)."""
ACTION_DIMENSION = 7
STATE_DIMENSION = 11
"""Position (3) [m], rotation matrix's first two columns (6), gripper opening (1), 1 - opening."""


class BundleError(ValueError):
    """A bundle that cannot be used; the text says which file or field and what to do."""


@dataclass(frozen=True)
class Normalisation:
    """Min-max statistics to [-1, 1], (dimension,) each; inverse in `denormalise`."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        low, high = np.asarray(self.low), np.asarray(self.high)
        if low.shape != high.shape or low.ndim != 1:
            raise BundleError(
                f"normalisation: low {low.shape} and high {high.shape} must be two equal vectors"
            )
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise BundleError("normalisation: statistics are not finite")
        if np.any(high - low < MIN_RANGE * 0.999):
            raise BundleError(
                f"normalisation: a dimension's range is below {MIN_RANGE}: {(high - low).tolist()}"
            )
        object.__setattr__(self, "low", tuple(low.tolist()))
        object.__setattr__(self, "high", tuple(high.tolist()))

    @classmethod
    def fit(cls, values: Vector) -> Normalisation:
        """Statistics of (samples, dimension), widened to MIN_RANGE where one hardly moves."""
        low, high = values.min(axis=0), values.max(axis=0)
        widen = np.maximum(MIN_RANGE - (high - low), 0.0) / 2
        return cls(tuple((low - widen).tolist()), tuple((high + widen).tolist()))

    def normalise(self, values: Vector) -> Vector:
        low, high = np.asarray(self.low), np.asarray(self.high)
        return np.asarray(2.0 * (values - low) / (high - low) - 1.0)

    def denormalise(self, values: Vector) -> Vector:
        low, high = np.asarray(self.low), np.asarray(self.high)
        return np.asarray((values + 1.0) / 2.0 * (high - low) + low)


@dataclass(frozen=True)
class CameraInput:
    """A camera that the policy needs: the square picture's size and the topic-independent name."""

    name: str
    size: int

    def __post_init__(self) -> None:
        if not 14 <= self.size <= 2048:
            raise BundleError(f"camera {self.name!r}: size {self.size} is not in 14..2048 pixels")


@dataclass(frozen=True)
class BackboneInfo:
    """Which Qwen-VL made the graph, and how pictures and prompt become its inputs."""

    family: str
    layer: int
    hidden_size: int
    final_norm: bool
    """Whether the hidden states have passed the model's final norm."""
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    prompt: str
    """Prompt with `{instruction}` and one `{image}` a camera, in the order of `cameras`."""
    image_token: str
    vision_start: str
    vision_end: str

    def __post_init__(self) -> None:
        if self.family not in ("qwen2_5_vl", "qwen3_vl"):
            raise BundleError(f"backbone family {self.family!r} is neither qwen2_5_vl nor qwen3_vl")
        if "{instruction}" not in self.prompt or "{image}" not in self.prompt:
            raise BundleError("backbone prompt must hold {instruction} and {image}")
        if min(self.patch_size, self.merge_size, self.temporal_patch_size) < 1:
            raise BundleError("backbone patch, merge and temporal patch sizes must be at least 1")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0.0:
            raise BundleError(
                "image_mean and image_std must hold three numbers, the latter positive"
            )
        object.__setattr__(self, "image_mean", tuple(self.image_mean))
        object.__setattr__(self, "image_std", tuple(self.image_std))


@dataclass(frozen=True)
class Manifest:
    """manifest.json, checked. `execute_steps` waypoints are run before the next request."""

    name: str
    horizon: int
    time_step: float
    execute_steps: int
    denoising_steps: int
    cameras: tuple[CameraInput, ...]
    backbone: BackboneInfo
    state: Normalisation
    action: Normalisation
    provenance: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    action_space: str = ACTION_SPACE
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise BundleError(
                f"bundle schema version {self.schema_version}, "
                f"this software reads {SCHEMA_VERSION}: "
                "export the policy again, or use the matching release"
            )
        if self.action_space != ACTION_SPACE:
            raise BundleError(
                f"action space {self.action_space!r} is not known; expected {ACTION_SPACE!r}"
            )
        if not self.cameras or self.backbone.prompt.count("{image}") != len(self.cameras):
            raise BundleError("the prompt must hold {image} once for each camera")
        self._check_cameras()
        if not 1 <= self.horizon <= MAX_HORIZON:
            raise BundleError(f"horizon {self.horizon} is not in 1..{MAX_HORIZON}")
        if not 0.001 <= self.time_step <= 10.0:
            raise BundleError(f"time step {self.time_step} s is not in 0.001..10")
        if self.denoising_steps < 1:
            raise BundleError(f"denoising_steps {self.denoising_steps} is below 1")
        if not 1 <= self.execute_steps <= self.horizon:
            raise BundleError(f"execute_steps {self.execute_steps} is not in 1..{self.horizon}")
        if len(self.state.low) != STATE_DIMENSION or len(self.action.low) != ACTION_DIMENSION:
            raise BundleError(
                f"normalisation must cover {STATE_DIMENSION} state "
                f"and {ACTION_DIMENSION} action dimensions"
            )

    def _check_cameras(self) -> None:
        names, sizes = [c.name for c in self.cameras], {c.size for c in self.cameras}
        if len(set(names)) != len(names):
            raise BundleError(f"cameras {names}: a name is there twice")
        # The backbone takes all pictures in one tensor, cut into whole merged patches.
        multiple = self.backbone.patch_size * self.backbone.merge_size
        if len(sizes) != 1 or any(size % multiple for size in sizes):
            raise BundleError(
                f"camera sizes {sorted(sizes)}: must be one multiple of {multiple} pixels"
            )


def state_vector(pose: Vector, gripper_opening: float) -> Vector:
    """The state (STATE_DIMENSION,) that the head reads, from a pose (7,) and the opening 0..1."""
    columns = geometry.to_matrix(pose[3:])[:, :2].T.ravel()
    return np.concatenate([pose[:3], columns, [gripper_opening, 1.0 - gripper_opening]])


def to_relative(pose: Vector, poses: Vector, gripper: Vector) -> Vector:
    """Actions (horizon, 7) for absolute waypoints (horizon, 7) seen from `pose` (7,)."""
    turn = geometry.to_rotation_vector(
        geometry.multiply(poses[:, 3:], geometry.conjugate(pose[3:]))
    )
    return np.concatenate([poses[:, :3] - pose[:3], turn, gripper[:, None]], axis=1)


def to_absolute(pose: Vector, actions: Vector) -> tuple[Vector, Vector]:
    """Inverse of `to_relative`: waypoints (horizon, 7) and gripper openings (horizon,)."""
    turned = geometry.multiply(geometry.from_rotation_vector(actions[:, 3:6]), pose[3:])
    return np.concatenate([actions[:, :3] + pose[:3], turned], axis=1), actions[:, 6]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json with the hashes of every other file in `directory`."""
    files = {
        p.name: _sha256(p)
        for p in sorted(directory.iterdir())
        if p.is_file() and p.name != MANIFEST
    }
    content = asdict(manifest) | {"files": files}
    (directory / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Manifest of the bundle in `directory`, with every file's hash checked.

    Raises:
        BundleError: no bundle there, another schema version, a missing or changed file.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise BundleError(f"no policy bundle at {directory}: {MANIFEST} is missing")
    try:
        content = json.loads(path.read_text())
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{path}: schema version {version}, this software reads {SCHEMA_VERSION}: "
                "export the policy again, or use the matching release"
            )
        manifest = Manifest(
            **content
            | {
                "cameras": tuple(CameraInput(**camera) for camera in content["cameras"]),
                "backbone": BackboneInfo(**content["backbone"]),
                "state": Normalisation(**content["state"]),
                "action": Normalisation(**content["action"]),
            }
        )
    except BundleError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: not a valid manifest ({error!r})") from error
    for name in (TOKENIZER, BACKBONE, HEAD):
        if name not in manifest.files:
            raise BundleError(f"{path}: {name} is not listed; the bundle is not complete")
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise BundleError(f"{path}: the file name {name!r} leads out of the bundle")
        if not (directory / name).is_file():
            raise BundleError(f"{directory / name}: missing; the bundle is not complete")
        if _sha256(directory / name) != expected:
            raise BundleError(
                f"{directory / name}: hash differs from the manifest; "
                "the file was changed or damaged"
            )
    return manifest


def bundle_hash(directory: Path) -> str:
    """Hash that names the bundle's content: SHA-256 of its manifest."""
    return _sha256(directory / MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
