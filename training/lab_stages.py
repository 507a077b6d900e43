"""What the stages of the lab study do: each reads and writes below the study's folder."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from contracts.task import OBJECTS
from training import (
    checkpoints,
    closed_loop,
    demonstrations,
    end_to_end,
    export,
    features,
    grounding,
    grpo,
    lab_samples,
    lab_skills,
    other_world,
    readout_tuning,
    scenes,
    sft,
    warm_start,
)  # fmt: skip
from training.action_head import ActionHead, HeadConfig
from training.backbones import LabBackboneConfig
from training.checkpoints import Checkpoint
from training.fast_tokenizer import FastTokenizer, round_trip
from training.grounding import GroundedBackbone, GroundingConfig, SceneData
from training.head import (
    Demonstrations,
    HeadTraining,
    save,
    train,
    train_on_cache,
    truth_data,
)  # fmt: skip
from training.lab_arms import ARMS, RL_OF, SFT_OF, seeds_of, steps_of, trials_of
from training.lab_samples import MIXTURES, LabSamples
from training.lab_sizes import Size
from training.rehearsal import Rehearsal, RehearsalConfig

FAST_SCALE, FAST_VOCABULARY = 5.0, 256
"""Coarser than the paper's 10 and 2048: a lab model meets right tokens while it explores."""
SHIPPED: Final = Path("policy_server/bundles/shipped")
SEEDS = {"scenes": 1, "other_world": 1, "demonstrations": 500_000, "trials": 31_000}


def make_scenes(out: Path, size: Size) -> None:
    if not (out / "data/scenes/rows.npz").is_file():
        scenes.generate(out / "data/scenes", size.scenes, SEEDS["scenes"])


def make_other_world(out: Path, size: Size) -> None:
    folder = out / "data/other_world"
    if not (folder / "frames.jsonl").is_file():
        other_world.generate(folder, size.rollouts, SEEDS["other_world"])
    data = other_world.OtherWorldData.load(folder)
    fast = FastTokenizer.fit(data.chunks, scale=FAST_SCALE, vocabulary=FAST_VOCABULARY)
    fast.save(out / "data/fast.json")
    write(out / "data/round_trip.json", asdict(round_trip(fast, data.chunks)))


def make_demonstrations(out: Path, size: Size) -> None:
    folder = out / "data/demonstrations"
    if not (folder / "rows.npz").is_file():
        demonstrations.collect(folder, size.per_task, SEEDS["demonstrations"])


def make_grounded(out: Path, size: Size) -> None:
    """The vision that everything starts from: from nothing, or from the shipped bundle."""
    folder = out / "grounded"
    folder.mkdir(parents=True, exist_ok=True)
    if not size.grounding_minutes:
        warm_start.start(SHIPPED, folder)
        return
    config = GroundingConfig(minutes=size.grounding_minutes)
    backbone = GroundedBackbone(LabBackboneConfig())
    data = SceneData([out / "data/scenes"])
    curve = grounding.train(backbone, data, config, folder)
    write(folder / "grounding.json", {"grounding": asdict(config), "curve": curve})


def held_out_scenes(size: Size) -> int:
    return max(8, size.scenes // 10)


def lab_data(out: Path, name: str, length: int, seed: int) -> tuple[LabSamples, LabSamples]:
    """Samples of a data set of the study, and the same categories on held-out frames."""
    fast = FastTokenizer.load(out / "data/fast.json")
    data, rows, held_out = lab_samples.load(out / "data/other_world")
    weights = MIXTURES[name]
    return (
        LabSamples(data, weights, length, seed, fast, rows),
        LabSamples(data, weights, length, seed + 1, fast, held_out),
    )


def model_of(out: Path, name: str) -> Path:
    return out / "models" / name / "checkpoint"


def start_of(out: Path, name: str) -> Checkpoint:
    """The checkpoint that a model's training starts from."""
    if SFT_OF.get(name) == "grounded":
        backbone = grounding.load(out / "grounded/backbone.pt")
        return checkpoints.from_lab(backbone, FastTokenizer.load(out / "data/fast.json"))
    return checkpoints.load(model_of(out, SFT_OF.get(name, "sft")))


def train_sft(out: Path, size: Size, name: str) -> None:
    checkpoint, steps = start_of(out, name), steps_of(size, name)
    config = sft.lab_config(max_steps=steps, learning_rate=1e-3 if name == "base" else 7e-4)
    samples, _ = lab_data(out, name, steps * config.batch, seed=len(name))
    scenes_data = SceneData([out / "data/scenes"])
    rehearsal = Rehearsal(
        checkpoint, scenes_data, RehearsalConfig(held_out=held_out_scenes(size))
    )
    sft.train(checkpoint, samples, config, out / "models" / name, rehearsal)


def train_rl(out: Path, size: Size, name: str) -> None:
    """GRPO from the SFT model; what is asked and what is rewarded make the method."""
    category, reward, new_tokens = RL_OF[name]
    config = grpo.lab_config(max_steps=size.rl_steps, reward=reward, new_tokens=new_tokens)
    fast = FastTokenizer.load(out / "data/fast.json")
    data, rows, held_out = lab_samples.load(out / "data/other_world")
    count = size.rl_steps * config.rollout_prompts
    samples = LabSamples(data, {category: 1.0}, count, 5, fast, rows)
    validation = LabSamples(data, {category: 1.0}, size.skill_questions, 6, fast, held_out)
    grpo.train(start_of(out, name), samples, config, out / "models" / name, held_out=validation)


def arm_backbone(out: Path, arm: str) -> GroundedBackbone:
    """The arm's backbone before its readout is tuned."""
    model = ARMS[arm].model
    if model:
        return as_grounded(checkpoints.load(model_of(out, model)))
    if arm == "random":
        return GroundedBackbone(LabBackboneConfig(seed=1)).eval()
    return grounding.load(out / "grounded/backbone.pt")


def as_grounded(checkpoint: Checkpoint) -> GroundedBackbone:
    """A lab checkpoint as backbone of a policy, which has no use for action tokens."""
    assert checkpoint.lab is not None and checkpoint.readout_weights is not None
    backbone = GroundedBackbone(checkpoint.lab)
    rows = backbone.model.get_input_embeddings().num_embeddings
    state = checkpoint.model.state_dict()
    for name, value in backbone.model.state_dict().items():
        if value.shape != state[name].shape:
            state[name] = state[name][:rows]
    backbone.model.load_state_dict(state)
    backbone.readout.load_state_dict(checkpoint.readout_weights)
    return backbone.eval()


def make_features(out: Path, size: Size, arm: str) -> None:
    """Freeze the arm: tune its readout on scenes' features, cache those of the demonstrations."""
    torch.set_num_threads(1)
    folder = out / "arms" / arm
    folder.mkdir(parents=True, exist_ok=True)
    backbone, data = arm_backbone(out, arm), SceneData([out / "data/scenes"])
    rows = np.arange(min(size.readout_scenes, len(data) - held_out_scenes(size)))
    hidden = features.cache(
        backbone, data.images(rows).numpy(), data.prompt[rows], folder / "scenes.npy",
        clean_first=False, tail=backbone.readout.span,
    )  # fmt: skip
    config = readout_tuning.TuningConfig(steps=size.readout_steps)
    readout_tuning.tune(backbone, data, hidden, rows, config)
    held_out = np.arange(len(data) - held_out_scenes(size), len(data))
    error = grounding.evaluate(backbone, data, held_out[:600])
    grounding.save(backbone, folder)
    origin = {"arm": arm, "model": ARMS[arm].model, "what": ARMS[arm].what}
    write(folder / "grounding.json", origin)
    write(folder / "readout.json", {"readout": asdict(config), "held_out": error})
    part = thinned(Demonstrations.load(out / "data/demonstrations"), size.stride)
    prompt = torch.from_numpy(part.rows["prompt"])
    features.cache(backbone, part.images, prompt, folder / "demonstrations.npy")


def thinned(data: Demonstrations, stride: int) -> Demonstrations:
    """Every `stride`-th frame; neighbours in time look alike."""
    frames = len(data.rows["state"])
    rows = {
        name: value[::stride] if value.ndim and len(value) == frames else value
        for name, value in data.rows.items()
    }
    return Demonstrations(data.images[::stride], rows)


def head_training(size: Size, seed: int) -> HeadTraining:
    return replace(
        HeadTraining(), steps=size.head_steps, copies=1, threads=1, seed=seed,
        report_every=max(1, size.head_steps // 8), held_out_every=4 if size.per_task < 12 else 12,
    )  # fmt: skip


def train_head(out: Path, size: Size, arm: str, seed: int) -> None:
    notes = f"Lab study, size {size.name}: {ARMS[arm].label} ({ARMS[arm].what}), seed {seed}."
    head_to_bundle(out, size, arm, head_training(size, seed), (arm, seed), notes)


def train_release(out: Path, size: Size) -> None:
    """The head that is shipped: on the best arm of the table, trained longer than the compared."""
    arm = best_arm(out, size)
    steps = size.release_steps
    config = replace(head_training(size, 0), steps=steps, report_every=max(1, steps // 8))
    notes = f"Lab study, size {size.name}: {ARMS[arm].label} ({ARMS[arm].what}), {steps} steps."
    head_to_bundle(out, size, arm, config, ("release", 0), notes)
    write(out / "arms/release/readout.json", {"arm": arm, "held_out": {}})


def best_arm(out: Path, size: Size) -> str:
    """The main arm with most successes over its heads."""

    def rate(arm: str) -> float:
        found = [
            json.loads((out / "trials" / f"{arm}-{seed}" / "summary.json").read_text())
            for seed in range(seeds_of(size, arm))
        ]
        return float(np.mean([summary["success_rate"] for summary in found]))

    return max((key for key, arm in ARMS.items() if arm.group == "main"), key=rate)


def head_to_bundle(
    out: Path, size: Size, arm: str, config: HeadTraining, name: tuple[str, int], notes: str
) -> None:
    """Train a head on the arm's cached features; it and its bundle go under `name`, and seed."""
    torch.set_num_threads(1)
    folder = out / "arms" / arm
    backbone = grounding.load(folder / "backbone.pt")
    part = thinned(Demonstrations.load(out / "data/demonstrations"), size.stride)
    hidden = np.load(folder / "demonstrations.npy", mmap_mode="r")
    head_folder = out / "heads" / f"{name[0]}-{name[1]}"
    train_on_cache(backbone, part, hidden, config, head_folder, size.head_dropout)
    bundle = bundle_of(out, *name)
    export.export(folder, head_folder, f"lab-{name[0]}-{name[1]}", notes, bundle, out / "templates")


def bundle_of(out: Path, arm: str, seed: int) -> Path:
    return out / "bundles" / f"{arm}-{seed}"


def run_trials(out: Path, size: Size, arm: str, seed: int) -> None:
    """Trials in the fast simulation; every arm's head of one seed meets the same starts."""
    name = f"{arm}-{seed}"
    arguments = [
        "run", "--policy", str(bundle_of(out, arm, seed)), "--backend", "fast", "--trials",
        str(trials_of(size, arm)), "--seed", str(SEEDS["trials"] + 1000 * seed), "--workers", "1",
        "--out", str(out / "trials" / name),
    ]  # fmt: skip
    for obj in OBJECTS[: size.objects]:
        arguments += ["--object", obj]
    run_module("evaluation", arguments)


def run_module(module: str, arguments: list[str]) -> str:
    """Standard output of `python -m module ...`.

    Raises:
        RuntimeError: it failed; the text holds its last words.
    """
    command = [sys.executable, "-m", module, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{finished.stderr[-2000:]}")
    return finished.stdout


def neighbours(out: Path, size: Size, arm: str) -> None:
    """Table 9: k nearest neighbours on the hidden states."""
    answer = run_module(
        "evaluation",
        ["representation", "--bundle", str(bundle_of(out, arm, 0)), "--json", "--trajectories",
         str(size.trajectories)],
    )  # fmt: skip
    write(out / "knn" / f"{arm}.json", json.loads(answer.strip().splitlines()[-1]))


def score_skills(out: Path, size: Size, arm: str) -> None:
    torch.set_num_threads(1)
    checkpoint = checkpoints.load(model_of(out, str(ARMS[arm].model)))
    _, held_out = lab_data(out, "sft", 1, seed=0)
    scores = lab_skills.score(checkpoint, held_out, size.skill_questions)
    write(out / "skills" / f"{arm}.json", scores)


def state_ceiling(out: Path, size: Size) -> None:
    """The head's architecture on the simulator's truth: what the demonstrations alone allow."""
    config = head_training(size, 0)
    data = truth_data(Demonstrations.load(out / "data/demonstrations"), config, width=32)
    torch.manual_seed(0)
    head = ActionHead(HeadConfig(hidden=32, image_tail=0, dropout=size.head_dropout))
    curve = train(head.train(), data, torch.ones(len(data.prompt.unique()), 1), config)
    policy = closed_loop.policy_on_truth(head.eval(), data.action_range)
    trials = closed_loop.success_rate(
        policy, size.alternative_trials, SEEDS["trials"], OBJECTS[: size.objects]
    )
    write(out / "ladder/state.json", asdict(trials) | {"curve": curve})


def train_end_to_end(out: Path, size: Size) -> None:
    backbone = grounding.load(out / "arms/grounded/backbone.pt")
    head, action_range = export.load_head(out / "heads/grounded-0/head.pt")
    config = end_to_end.EndToEnd(
        steps=size.end_to_end_steps, held_out_every=head_training(size, 0).held_out_every
    )
    data = Demonstrations.load(out / "data/demonstrations")
    curve = end_to_end.train(backbone, head, action_range, data, config)
    folder = out / "arms/end_to_end"
    folder.mkdir(parents=True, exist_ok=True)
    grounding.save(backbone, folder)
    write(folder / "grounding.json", {"end_to_end": asdict(config), "curve": curve})
    write(folder / "readout.json", {"trained": "with the rest"})
    head_folder = out / "heads/end_to_end-0"
    save(head, action_range, {"end_to_end": asdict(config), "curve": curve}, head_folder)
    notes = f"Lab study, size {size.name}: the ladder's ceiling on pictures, end to end."
    bundle = bundle_of(out, "end_to_end", 0)
    export.export(folder, head_folder, "lab-end-to-end", notes, bundle, out / "templates")


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
