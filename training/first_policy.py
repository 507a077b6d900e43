"""The stages of the shipped policy, in order; each is skipped when its result is there.

    python -m training.first_policy --out runs/first_policy

About 90 minutes on two cores. The backbone is trained from nothing, since no pretrained one fits a
laptop, and frozen afterwards.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NOTES = (
    "Lab-size Qwen3-VL (transformers' classes) trained from nothing on simulated scene snapshots "
    "with grounding losses, frozen at its layer k; flow-matching head trained on 60 scripted "
    "demonstrations a task. Deviations from the paper: no language modelling and no RL in this "
    "first policy; a grounding readout (object, target, grasp yaw), trained on the same snapshots "
    "and frozen, joins the head's state token; four actions share a token of the head."
)


@dataclass(frozen=True)
class Stage:
    """One module to run, its arguments, and the file whose presence says that it is done."""

    name: str
    module: str
    arguments: dict[str, list[str]]
    result: Path

    @property
    def command(self) -> list[str]:
        words = [word for key, values in self.arguments.items() for word in (f"--{key}", *values)]
        return [sys.executable, "-m", self.module, *words]


def stages(out: Path, bundle: Path, minutes: float, head_minutes: float) -> list[Stage]:
    """The commands from nothing to the bundle."""
    scenes = {seed: out / "scenes" / seed for seed in ("1", "2")}
    folders = [str(folder) for folder in scenes.values()]
    demonstrations, backbone, head = out / "demonstrations", out / "backbone", out / "head"
    snapshots = [
        Stage(
            f"scenes {seed}",
            "training.scenes",
            {"samples": ["30000"], "seed": [seed], "out": [str(folder)]},
            folder / "rows.npz",
        )
        for seed, folder in scenes.items()
    ]
    return [
        *snapshots,
        Stage(
            "demonstrations",
            "training.demonstrations",
            {"out": [str(demonstrations)]},
            demonstrations / "rows.npz",
        ),
        Stage(
            "backbone",
            "training.grounding",
            {"scenes": folders, "minutes": [str(minutes)], "out": [str(backbone)]},
            backbone / "grounding.json",
        ),
        Stage(
            "readout",
            "training.readout_tuning",
            {"backbone": [str(backbone)], "scenes": folders},
            backbone / "readout.json",
        ),
        Stage(
            "head",
            "training.head",
            {
                "backbone": [str(backbone / "backbone.pt")],
                "demonstrations": [str(demonstrations)],
                "minutes": [str(head_minutes)],
                "out": [str(head)],
            },
            head / "head.json",
        ),
        Stage(
            "bundle",
            "training.export",
            {
                "backbone": [str(backbone)],
                "head": [str(head)],
                "name": ["lab-grounded"],
                "notes": [NOTES],
                "out": [str(bundle)],
            },
            bundle / "manifest.json",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the shipped policy from nothing.")
    parser.add_argument("--out", type=Path, default=Path("runs/first_policy"))
    parser.add_argument("--bundle", type=Path, help="where the bundle goes; default: OUT/bundle")
    parser.add_argument("--minutes", type=float, default=48.0, help="wall time of the backbone")
    parser.add_argument("--head-minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    bundle = arguments.bundle or arguments.out / "bundle"
    for stage in stages(arguments.out, bundle, arguments.minutes, arguments.head_minutes):
        if stage.result.is_file():
            print(f"{stage.name}: done before ({stage.result})")
            continue
        started = time.monotonic()
        print(f"{stage.name}: {' '.join(stage.command[1:])}", flush=True)
        finished = subprocess.run(stage.command, check=False)
        if finished.returncode:
            sys.exit(f"{stage.name}: failed with exit code {finished.returncode}")
        print(f"{stage.name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
