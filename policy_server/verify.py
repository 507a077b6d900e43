"""The accuracy gate: an engine against the eager PyTorch run that the bundle keeps.

    python -m policy_server.verify shipped --engine onnxruntime
    python -m policy_server.verify shipped --closed-loop 2

`reference.npz` holds inputs and outputs of both graphs from eager PyTorch at export. The whole way
is compared: the engine's own hidden states go into its head. `Policy.load` asks `check` before an
engine may serve; the closed loop in simulation is for people and takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts import bundle, geometry
from contracts.bundle import REFERENCE, BundleError, Manifest, Normalisation
from policy_server.bundles import find_bundle
from policy_server.engines import ENGINE_VARIABLE, ENGINES, open_engine
from policy_server.engines.engine import (
    BACKBONE_INPUTS,
    CONTINUATION_INPUTS,
    STEPS_INPUT,
    Engine,
    row,
)

MIN_COSINE = 0.999
"""Smallest cosine between a token's hidden states and the reference's (GR00T's ladder)."""
MAX_POSITION_MM = 2.0
"""Largest distance of a waypoint from the reference's; demonstrations are no more exact."""
MAX_ROTATION_DEG = 0.5
MAX_GRIPPER = 0.02
"""Of the opening 0..1."""
CLOSED_LOOP_TIMEOUT_S = 3600.0
USAGE_ERROR = 2


@dataclass(frozen=True)
class Accuracy:
    """Worst differences from the reference, over all its rows."""

    cosine: float
    position_mm: float
    rotation_deg: float
    gripper: float

    @property
    def faults(self) -> list[str]:
        """What is beyond its limit, in words; empty if the engine may serve."""
        found = []
        # Written so that a NaN is a fault.
        if not self.cosine >= MIN_COSINE:
            found.append(f"cosine of hidden states {self.cosine:.6f}, at least {MIN_COSINE}")
        for what, value, limit in (
            ("position [mm]", self.position_mm, MAX_POSITION_MM),
            ("rotation [deg]", self.rotation_deg, MAX_ROTATION_DEG),
            ("gripper", self.gripper, MAX_GRIPPER),
        ):
            if not value <= limit:
                found.append(f"{what} differs by {value:.4g}, at most {limit}")
        return found


def check(directory: Path, engine: Engine, manifest: Manifest) -> Accuracy:
    """How far `engine`, opened on the bundle in `directory`, is from the bundle's reference.

    Raises:
        BundleError: the bundle has no reference that fits its graphs.
    """
    path = directory / REFERENCE
    if REFERENCE not in manifest.files:
        raise BundleError(f"{path}: missing, so no engine can be checked; export the policy again")
    try:
        with np.load(path, allow_pickle=False) as file:
            reference = {name: file[name] for name in file.files}
        inputs = {name: reference[f"backbone_in_{name}"] for name in BACKBONE_INPUTS}
        names = ["mask", "state", "noise", *(CONTINUATION_INPUTS if engine.continues else ())]
        head = {name: reference[f"head_in_{name}"] for name in names}
        steps = int(reference.get(f"head_in_{STEPS_INPUT}", manifest.denoising_steps))
        wanted = reference["backbone_out_hidden"], reference["head_out_actions"]
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: not the reference of this bundle ({error})") from error
    hidden = engine.backbone(inputs)
    actions = engine.head(head | {"hidden": hidden}, steps)
    shown = inputs["attention_mask"] > 0
    cosine = smallest_cosine(hidden[shown], wanted[0][shown])
    # A request alone may run in another way than several do.
    alone = engine.backbone(row(inputs, 0))[shown[:1]]
    cosine = min(cosine, smallest_cosine(alone, wanted[0][:1][shown[:1]]))
    return Accuracy(cosine, *action_errors(actions, wanted[1], manifest.action))


def require(directory: Path, engine: Engine, manifest: Manifest) -> None:
    """Raises BundleError if `engine` is not accurate enough to serve."""
    faults = check(directory, engine, manifest).faults
    if faults:
        raise BundleError(
            f"{directory}: the engine fails the accuracy gate and does not serve: "
            + "; ".join(faults)
        )


def smallest_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Smallest cosine between rows of `a` and `b` (rows, width)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).min())


def action_errors(
    actions: NDArray[np.float32], wanted: NDArray[np.float32], statistics: Normalisation
) -> tuple[float, float, float]:
    """Worst errors in millimetres, degrees and gripper opening of normalised actions (B, H, 7)."""
    a, b = (statistics.denormalise(x.astype(np.float64)) for x in (actions, wanted))
    turn = geometry.multiply(
        geometry.from_rotation_vector(a[..., 3:6]),
        geometry.conjugate(geometry.from_rotation_vector(b[..., 3:6])),
    )
    angle = np.linalg.norm(geometry.to_rotation_vector(turn), axis=-1)
    return (
        float(1e3 * np.linalg.norm(a[..., :3] - b[..., :3], axis=-1).max()),
        float(np.rad2deg(angle).max()),
        float(np.abs(a[..., 6] - b[..., 6]).max()),
    )


def closed_loop(directory: Path, engine: str, trials: int) -> dict[str, int]:
    """Successes and trials of the policy in simulation, served by `engine`.

    Raises:
        BundleError: the evaluation failed; its own words stand above.
    """
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "evaluation", "run", "--policy", str(directory)]
        command += ["--trials", str(trials), "--film", "none", "--workers", "1", "--out", out]
        done = subprocess.run(
            command,
            stdout=sys.stderr,
            env=os.environ | {ENGINE_VARIABLE: engine},
            timeout=CLOSED_LOOP_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise BundleError(f"closed loop: the evaluation ended with code {done.returncode}")
        lines = (Path(out) / "trials.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in lines]
    return {"trials": len(results), "successes": sum(bool(row["success"]) for row in results)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 the engine may serve, 1 it may not, 2 it could not be checked."""
    parser = argparse.ArgumentParser(prog="python -m policy_server.verify", description=__doc__)
    parser.add_argument("bundle", help="name of a shipped bundle, or a directory")
    parser.add_argument("--engine", default=ENGINES[0], help=", ".join(ENGINES))
    parser.add_argument(
        "--closed-loop", type=int, metavar="TRIALS", help="also in simulation, of each task"
    )
    options = parser.parse_args(arguments)
    result: dict[str, object] = {"bundle": options.bundle, "engine": options.engine}
    try:
        directory = find_bundle(options.bundle)
        manifest = bundle.read_manifest(directory)
        accuracy = check(directory, open_engine(options.engine, directory), manifest)
        faults = accuracy.faults
        result |= {name: round(value, 7) for name, value in asdict(accuracy).items()}
        if options.closed_loop and not faults:
            result["closed_loop"] = closed_loop(directory, options.engine, options.closed_loop)
    except (BundleError, subprocess.TimeoutExpired) as error:
        print(f"verify: {error}", file=sys.stderr)
        return USAGE_ERROR
    print(json.dumps(result | {"passed": not faults, "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
