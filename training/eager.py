"""The shipped policy's networks in eager transformers and PyTorch: what the bench compares with.

    python -m training.eager --bundle policy_server/bundles/shipped --inputs inputs.npz

Reads lines of three numbers: runs, seconds and threads. Runs the networks with so many threads, at
most so often and so long, at least once, and prints the times [ms] as one JSON list. The networks
have the bundle's sizes and random weights: speed does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from contracts import bundle
from contracts.bundle import Manifest
from training.action_head import ActionHead, HeadConfig
from training.backbones import LabBackboneConfig, lab_backbone, lab_tokenizer
from training.readout import GroundingReadout


def configs(manifest: Manifest) -> tuple[LabBackboneConfig, HeadConfig]:
    """Sizes that the export noted; those of the first shipped bundle, which has none, are defaults.

    Raises:
        ValueError: the backbone is none of the lab's.
    """
    sizes = manifest.provenance.get("sizes", {})
    backbone = LabBackboneConfig(**sizes.get("backbone", {}))
    head = HeadConfig(**sizes.get("head", {}))
    found = (manifest.backbone.hidden_size, manifest.backbone.layer, manifest.horizon)
    if found != (backbone.hidden, backbone.layer, head.horizon):
        raise ValueError(f"the bundle's hidden size, layer and horizon {found} are not the lab's")
    return backbone, head


def eager_policy(manifest: Manifest, inputs: dict[str, torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A call of transformers' model and the head's denoising loop, as one would write them.

    inputs: those of both graphs (`policy_server.engines.engine`).
    """
    backbone_config, head_config = configs(manifest)
    model = lab_backbone(backbone_config, lab_tokenizer(backbone_config.ranks)).eval()
    head = ActionHead(head_config).eval()
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    is_image = ids == model.config.image_token_id
    tokens = int(is_image.sum()) // pixels.shape[1]
    tail = int(is_image[0].flip(0).int().argmax())
    readout = GroundingReadout(backbone_config.hidden, tokens, tail).eval()
    grid = torch.tensor([[1, backbone_config.grid, backbone_config.grid]] * pixels.shape[1])
    flat, kinds = pixels.flatten(0, 2), is_image.int()

    @torch.inference_mode()
    def run() -> torch.Tensor:
        hidden = model.model(
            input_ids=ids,
            attention_mask=inputs["attention_mask"],
            pixel_values=flat,
            image_grid_thw=grid,
            mm_token_type_ids=kinds,
            use_cache=False,
        ).last_hidden_state
        grounded, _ = readout(hidden, inputs["state"])
        return head.sample(
            inputs["noise"],
            hidden,
            inputs["attention_mask"],
            inputs["state"],
            grounded,
            manifest.denoising_steps,
        )

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the policy's networks in eager PyTorch.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True, help="one request's, as .npz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(arguments.inputs, allow_pickle=False) as file:
        inputs = {name: torch.from_numpy(file[name]) for name in file.files}
    run = eager_policy(bundle.read_manifest(arguments.bundle), inputs)
    for _ in range(3):
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        count, seconds, threads = line.split()
        torch.set_num_threads(int(threads))
        times: list[float] = []
        end = time.perf_counter() + float(seconds)
        while len(times) < int(count) and (not times or time.perf_counter() < end):
            started = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - started))
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
