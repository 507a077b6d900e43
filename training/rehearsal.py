"""Rehearsal: the grounding loss on a few scenes beside each batch of language modelling.

Language modelling alone erases the millimetres of the features within minutes. At lab size it is
part of Stage 1; a deviation from the paper, whose pretrained model has no such stage to forget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contracts.task import OBJECTS, TASKS
from training.backbones import Prefix, encode_prompts, to_patches
from training.checkpoints import Checkpoint
from training.grounding import SceneData, augment, grounding_loss
from training.readout import GroundingReadout


@dataclass(frozen=True)
class RehearsalConfig:
    """Scenes a step and the weight of their loss; the last `held_out` scenes are never drawn."""

    scenes: int = 8
    weight: float = 1.0
    held_out: int = 1500
    seed: int = 0


class Rehearsal:
    """Belongs to one checkpoint object: its model learns along, its readout is trained here."""

    def __init__(
        self, checkpoint: Checkpoint, data: SceneData, config: RehearsalConfig | None = None
    ) -> None:
        """Raises ValueError: no lab checkpoint, or no scenes left beside the held-out ones."""
        if checkpoint.lab is None or checkpoint.readout_weights is None:
            raise ValueError("rehearsal needs a lab checkpoint with lab.json and readout.pt")
        self.config = config or RehearsalConfig()
        self.data = data
        self.split = len(data) - self.config.held_out
        if self.split <= 0:
            raise ValueError(f"{len(data)} scenes, of which {self.config.held_out} are held out")
        lab, model = checkpoint.lab, checkpoint.model
        instructions = [task.instruction(thing) for task in TASKS.values() for thing in OBJECTS]
        self._patch = lab.patch_size
        self._prompts = encode_prompts(instructions, checkpoint.tokenizer, model, lab.grid)
        self._prefix = Prefix(model, lab.grid, lab.layer)
        is_image = self._prompts.ids[0] == model.config.image_token_id
        tail = int(is_image.flip(0).int().argmax())
        self.readout = GroundingReadout(lab.hidden, self._prefix.vision.tokens, tail)
        self.readout.load_state_dict(checkpoint.readout_weights)
        self._checkpoint = checkpoint
        self._rng = np.random.default_rng(self.config.seed)
        self._generator = torch.Generator().manual_seed(self.config.seed)

    def loss(self) -> Tensor:
        """Weighted grounding loss of `config.scenes` random scenes."""
        rows = np.sort(self._rng.integers(0, self.split, self.config.scenes))
        images = augment(self.data.images(rows), self._generator)
        prompts = self._prompts.select(self.data.prompt[rows])
        hidden = self._prefix(
            prompts.ids, prompts.mask, prompts.positions, to_patches(images, self._patch)
        )
        readout, points = self.readout(hidden.float(), self.data.state[rows])
        loss = grounding_loss(readout, points, self.data.position[rows], self.data.truth[rows])
        return self.config.weight * loss

    def store(self) -> None:
        """Put the readout's present weights into the checkpoint."""
        state = self.readout.state_dict()
        self._checkpoint.readout_weights = {name: v.detach().clone() for name, v in state.items()}
