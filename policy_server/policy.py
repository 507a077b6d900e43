"""A policy bundle, loaded: observations go in, action chunks come out."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts import bundle, wire
from contracts.action import ActionChunk
from contracts.bundle import ACTION_DIMENSION, Manifest
from contracts.observation import CameraFrame, Observation, RobotState
from policy_server import verify
from policy_server.continuation import Continuation, continuation
from policy_server.engines import DEFAULT_THREADS, open_engine
from policy_server.engines.engine import Engine, Tensor
from policy_server.preprocess import Preprocessor, left_padded
from policy_server.refusal import PolicyRefused, Reason

MAX_STEPS = 64
"""Most denoising steps that one request may ask for; more would only hold up the others."""


@dataclass(frozen=True)
class Request:
    """One observation and how to answer it.

    steps: denoising steps, the bundle's own number by default. seed: of the noise; by default each
    request has its own. The same observation, steps and seed give the same waypoints.
    previous: the chunk under execution, which the new one goes on from, and `delay`: how many of
    the new chunk's steps will be past when it arrives (real-time chunking; `continuation`).
    """

    observation: Observation
    steps: int | None = None
    seed: int | None = None
    previous: ActionChunk | None = None
    delay: int | None = None


@dataclass(frozen=True)
class Answer:
    """The chunk for one request, and the time [ms] of each stage that it went through."""

    chunk: ActionChunk
    timings: dict[str, float]


@dataclass(frozen=True)
class _Job:
    """A request that passed its checks, as one row of the graphs' inputs."""

    place: int
    number: int
    observation: Observation
    steps: int
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]


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
    def load(
        cls, directory: Path, threads: int = DEFAULT_THREADS, engine: str | None = None
    ) -> Policy:
        """Policy from the bundle in `directory`, on the engine called `engine` (`engines`).

        Raises:
            BundleError: a file is missing, changed, of another schema version or cannot be read;
                the engine is not available, or fails the accuracy gate (`verify`).
        """
        manifest = bundle.read_manifest(directory)
        preprocessor = Preprocessor(directory, manifest)
        opened = open_engine(engine, directory, threads)
        verify.require(directory, opened, manifest)
        return cls(manifest, preprocessor, opened, bundle.bundle_hash(directory))

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
            "fixed_steps": self._engine.fixed_steps,
            "continues": self._engine.continues,
        }

    def warm_up(self) -> None:
        """Run twice on a blank observation: the first runs allocate and are much slower."""
        for _ in range(2):
            self.infer(self._blank_observation())

    def infer(
        self,
        observation: Observation,
        steps: int | None = None,
        seed: int | None = None,
        previous: ActionChunk | None = None,
        delay: int | None = None,
    ) -> tuple[ActionChunk, dict[str, float]]:
        """Chunk that answers `observation`, and the time [ms] of each stage; see `Request`.

        Raises:
            PolicyRefused: an observation or option that the policy cannot use, or actions that are
                not finite.
        """
        answer = self.infer_batch([Request(observation, steps, seed, previous, delay)])[0]
        if isinstance(answer, PolicyRefused):
            raise answer
        return answer.chunk, answer.timings

    def infer_batch(self, requests: Sequence[Request]) -> list[Answer | PolicyRefused]:
        """Answers to `requests`, in their order, from one run of the backbone for all of them.

        The head runs once for each number of steps asked for. A request that cannot be answered
        gets its refusal, and the others their chunks: equal, but for rounding, to those that
        `infer` gives them alone. The timings are those of the whole batch: what each waited.
        """
        answers: dict[int, Answer | PolicyRefused] = {}
        watch, jobs = _Stopwatch(), []
        for place, request in enumerate(requests):
            try:
                jobs.append(self._job(place, request))
            except PolicyRefused as refusal:
                answers[place] = refusal
        watch.lap("preprocess")
        if jobs:
            inputs = left_padded([job.backbone for job in jobs], self._preprocess.padding)
            hidden = self._engine.backbone(inputs)
            watch.lap("backbone")
            actions = self._denoise(jobs, hidden, inputs["attention_mask"])
            watch.lap("head")
            chunks = {job.place: self._chunk(actions[row], job) for row, job in enumerate(jobs)}
            watch.lap("encode")
            for place, chunk in chunks.items():
                refused = isinstance(chunk, PolicyRefused)
                answers[place] = chunk if refused else Answer(chunk, dict(watch.laps))
        return [answers[place] for place in range(len(requests))]

    def _job(self, place: int, request: Request) -> _Job:
        observation, manifest = request.observation, self.manifest
        number = next(self._counter)
        steps = manifest.denoising_steps if request.steps is None else request.steps
        seed = number if request.seed is None else request.seed
        self._check_steps(steps)
        noise = self._noise(seed)
        going_on = continuation(request.previous, request.delay, observation, manifest)
        state = bundle.state_vector(observation.state.pose, observation.state.gripper_opening)
        head = {"state": manifest.state.normalise(state)[None].astype(np.float32), "noise": noise}
        if self._engine.continues:
            going_on = going_on or Continuation.none(manifest.horizon)
            head |= {"previous": going_on.previous[None], "weight": going_on.weight[None]}
        return _Job(place, number, observation, steps, self._preprocess(observation), head)

    def _denoise(
        self, jobs: Sequence[_Job], hidden: NDArray[np.float32], mask: Tensor
    ) -> NDArray[np.float32]:
        """Normalised actions (jobs, horizon, 7)."""
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for row, job in enumerate(jobs):
            groups[job.steps].append(row)
        actions = np.empty((len(jobs), self.manifest.horizon, ACTION_DIMENSION), np.float32)
        for steps, rows in groups.items():
            inputs = {"hidden": hidden[rows], "mask": mask[rows]}
            for name in jobs[rows[0]].head:
                inputs[name] = np.concatenate([jobs[row].head[name] for row in rows])
            actions[rows] = self._engine.head(inputs, steps)
        return actions

    def hidden_states(self, observation: Observation) -> NDArray[np.float32]:
        """Hidden states (L, hidden size) of layer k for the prompt of `observation`.

        Raises:
            PolicyRefused: an observation that the policy cannot use.
        """
        return self._engine.backbone(self._preprocess(observation))[0]

    def _check_steps(self, steps: int) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
            raise PolicyRefused(Reason.BAD_OPTION, f"steps must be 1..{MAX_STEPS}, got {steps!r}")
        if self._engine.fixed_steps and steps != self.manifest.denoising_steps:
            raise PolicyRefused(
                Reason.BAD_OPTION,
                f"this bundle always takes {self.manifest.denoising_steps} steps, not {steps}",
            )

    def _noise(self, seed: int) -> NDArray[np.float32]:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise PolicyRefused(Reason.BAD_OPTION, f"seed must be a natural number, got {seed!r}")
        shape = (1, self.manifest.horizon, ACTION_DIMENSION)
        return np.random.default_rng(seed).standard_normal(shape, np.float32)

    def _chunk(self, normalised: NDArray[np.float32], job: _Job) -> ActionChunk | PolicyRefused:
        actions = normalised.astype(np.float64)
        if not np.isfinite(actions).all():
            return PolicyRefused(Reason.INTERNAL, "the network's actions are not finite")
        absolute = self.manifest.action.denormalise(actions)
        poses, gripper = bundle.to_absolute(job.observation.state.pose, absolute)
        return ActionChunk(
            chunk_id=f"{self._run_id}-{job.number}",
            observation_stamp=job.observation.stamp,
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


class _Stopwatch:
    """Times [ms] between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = 1e3 * (now - self._last)
        self._last = now
