"""A policy bundle, loaded: an observation goes in, an action chunk comes out."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts import bundle, wire
from contracts.action import ActionChunk
from contracts.bundle import ACTION_DIMENSION, Manifest
from contracts.observation import CameraFrame, Observation, RobotState
from policy_server.engines.engine import Engine
from policy_server.engines.onnx_runtime import DEFAULT_THREADS, OnnxRuntimeEngine
from policy_server.preprocess import Preprocessor
from policy_server.refusal import PolicyRefused, Reason

MAX_STEPS = 64
"""Most denoising steps that one request may ask for; more would only hold up the others."""


class Policy:
    """One bundle, ready to answer; for one thread at a time."""

    def __init__(
        self, manifest: Manifest, preprocessor: Preprocessor, engine: Engine, bundle_hash: str
    ) -> None:
        self.manifest = manifest
        self.bundle_hash = bundle_hash
        self._preprocess = preprocessor
        self._engine = engine
        self._counter = itertools.count()
        self._run_id = secrets.token_hex(4)

    @classmethod
    def load(cls, directory: Path, threads: int = DEFAULT_THREADS) -> Policy:
        """Policy from the bundle in `directory`.

        Raises:
            BundleError: a file is missing, changed, of another schema version or cannot be read.
        """
        manifest = bundle.read_manifest(directory)
        preprocessor = Preprocessor(directory, manifest)
        engine = OnnxRuntimeEngine(directory, threads)
        return cls(manifest, preprocessor, engine, bundle.bundle_hash(directory))

    def metadata(self) -> dict[str, Any]:
        """What a client may want to know before it asks; plain numbers, text, lists and dicts."""
        manifest = self.manifest
        return {
            "protocol_version": wire.PROTOCOL_VERSION,
            "policy": manifest.name,
            "bundle_hash": self.bundle_hash,
            "cameras": [asdict(camera) for camera in manifest.cameras],
            "horizon": manifest.horizon,
            "time_step": manifest.time_step,
            "execute_steps": manifest.execute_steps,
            "denoising_steps": manifest.denoising_steps,
        }

    def warm_up(self) -> None:
        """Run twice on a blank observation: the first runs allocate and are much slower."""
        for _ in range(2):
            self.infer(self._blank_observation())

    def infer(
        self, observation: Observation, steps: int | None = None, seed: int | None = None
    ) -> tuple[ActionChunk, dict[str, float]]:
        """Chunk that answers `observation`, and the time [ms] of each stage.

        steps: denoising steps, the bundle's own number by default. seed: of the noise; by default
        each request has its own. The same observation, steps and seed give the same waypoints.

        Raises:
            PolicyRefused: an observation or option that the policy cannot use, or actions that are
                not finite.
        """
        number = next(self._counter)
        steps = self._check_steps(self.manifest.denoising_steps if steps is None else steps)
        noise = self._noise(number if seed is None else seed)
        watch = _Stopwatch()

        inputs = self._preprocess(observation)
        state = bundle.state_vector(observation.state.pose, observation.state.gripper_opening)
        watch.lap("preprocess")
        hidden = self._engine.backbone(inputs)
        watch.lap("backbone")
        actions = self._engine.head(
            {
                "hidden": hidden,
                "mask": inputs["attention_mask"],
                "state": self.manifest.state.normalise(state)[None].astype(np.float32),
                "noise": noise,
            },
            steps,
        )
        watch.lap("head")
        chunk = self._chunk(actions[0].astype(np.float64), observation, number)
        watch.lap("encode")
        return chunk, watch.laps

    def _check_steps(self, steps: int) -> int:
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
            raise PolicyRefused(Reason.BAD_OPTION, f"steps must be 1..{MAX_STEPS}, got {steps!r}")
        if self._engine.fixed_steps and steps != self.manifest.denoising_steps:
            raise PolicyRefused(
                Reason.BAD_OPTION,
                f"this bundle always takes {self.manifest.denoising_steps} steps, not {steps}",
            )
        return steps

    def _noise(self, seed: int) -> NDArray[np.float32]:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise PolicyRefused(Reason.BAD_OPTION, f"seed must be a natural number, got {seed!r}")
        shape = (1, self.manifest.horizon, ACTION_DIMENSION)
        return np.random.default_rng(seed).standard_normal(shape, np.float32)

    def _chunk(
        self, actions: NDArray[np.float64], observation: Observation, number: int
    ) -> ActionChunk:
        if not np.isfinite(actions).all():
            raise PolicyRefused(Reason.INTERNAL, "the network's actions are not finite")
        absolute = self.manifest.action.denormalise(actions)
        poses, gripper = bundle.to_absolute(observation.state.pose, absolute)
        return ActionChunk(
            chunk_id=f"{self._run_id}-{number}",
            observation_stamp=observation.stamp,
            time_step=self.manifest.time_step,
            poses=poses,
            gripper=gripper,
        )

    def _blank_observation(self) -> Observation:
        pictures = {c.name: np.zeros((c.size, c.size, 3), np.uint8) for c in self.manifest.cameras}
        frames = {name: CameraFrame(picture, 0.0) for name, picture in pictures.items()}
        pose = np.array([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
        state = RobotState(pose, np.zeros(7), np.zeros(7), gripper_opening=1.0, stamp=0.0)
        return Observation("warm up", frames, state, 0.0)


def check_options(options: Mapping[Any, Any]) -> dict[str, Any]:
    """Options of a request as keyword arguments of `Policy.infer`.

    Raises:
        PolicyRefused: an unknown option.
    """
    unknown = sorted(str(name) for name in options if name not in ("steps", "seed"))
    if unknown:
        raise PolicyRefused(Reason.BAD_OPTION, f"unknown {', '.join(unknown)}; known: steps, seed")
    return dict(options)


class _Stopwatch:
    """Times [ms] between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = 1e3 * (now - self._last)
        self._last = now
