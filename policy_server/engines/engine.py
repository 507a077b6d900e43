"""What runs a bundle's graphs.

The graphs, as `training` exports them (B batch, L prompt length, both dynamic):

    backbone.onnx   input_ids       int64   (B, L)
                    attention_mask  int64   (B, L)      1 where there is a token
                    position_ids    int64   (3, B, L)   time, row and column of the rotary embedding
                    pixel_values    float32 (B, images, patches, patch values)
                 -> hidden          float32 (B, L, hidden size)
    head.onnx       hidden          float32 (B, L, hidden size)
                    mask            int64   (B, L)      the attention mask again
                    state           float32 (B, 11)     normalised
                    noise           float32 (B, horizon, 7)
                    steps           int64   ()          denoising steps; may be absent, then fixed
                 -> actions         float32 (B, horizon, 7), normalised to [-1, 1]

`reference.npz` of the bundle holds one run of both, named `backbone_in_input_ids`, ...,
`backbone_out_hidden`, `head_in_hidden`, ..., `head_out_actions`.

Life cycle: the constructor reads the graphs and is the only slow call; it raises BundleError if a
graph cannot be read or has other inputs. Then `backbone` and `head` are called in turn, for as long
as the server lives, by one thread at a time. Nothing needs closing: dropping the engine frees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[Any]

BACKBONE_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "pixel_values"})
HEAD_INPUTS = frozenset({"hidden", "mask", "state", "noise"})
STEPS_INPUT = "steps"


class Engine(Protocol):
    """Both graphs of one bundle, ready to run."""

    @property
    def fixed_steps(self) -> bool:
        """Whether the number of denoising steps is baked into the head."""

    def backbone(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """Hidden states (B, L, hidden size) for inputs named as above."""

    def head(self, inputs: Mapping[str, Tensor], steps: int) -> NDArray[np.float32]:
        """Normalised actions (B, horizon, 7); `steps` has no effect if `fixed_steps`."""
