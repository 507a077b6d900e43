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
                    previous        float32 (B, horizon, 7)  normalised actions to go on from
                    weight          float32 (B, horizon)     how firmly each holds: 0 not .. 1 fully
                                    both may be absent, then the head continues no chunk
                 -> actions         float32 (B, horizon, 7), normalised to [-1, 1]

`reference.npz` of the bundle holds one run of both, named `backbone_in_input_ids`, ...,
`backbone_out_hidden`, `head_in_hidden`, ..., `head_out_actions`.

Life cycle: the constructor reads the graphs and is the only slow call; it raises BundleError if a
graph cannot be read or has other inputs. Then `backbone` and `head` are called in turn, for as long
as the server lives, by one thread at a time. Nothing needs closing: dropping the engine frees it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.bundle import BundleError

Tensor = NDArray[Any]

BACKBONE_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "pixel_values"})
HEAD_INPUTS = frozenset({"hidden", "mask", "state", "noise"})
STEPS_INPUT = "steps"
CONTINUATION_INPUTS = frozenset({"previous", "weight"})


class EngineUnavailable(BundleError):
    """This machine cannot run the engine asked for; the text says what it lacks."""


def check_inputs(graph: object, names: Iterable[str], expected: Iterable[str]) -> None:
    """Raises BundleError if a graph's input names are others than expected."""
    found, wanted = sorted(names), sorted(expected)
    if found != wanted:
        raise BundleError(f"{graph}: the graph's inputs are {found}, expected {wanted}")


def expected_head_inputs(names: Collection[str]) -> frozenset[str]:
    """Inputs that a head must have, given that it has `names`: some may be absent."""
    steps = {STEPS_INPUT} & set(names)
    going_on = CONTINUATION_INPUTS if CONTINUATION_INPUTS & set(names) else frozenset()
    return HEAD_INPUTS | steps | going_on


def row(inputs: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The backbone's inputs for one row of a batch; positions have it as second dimension."""
    one = slice(number, number + 1)
    return {
        name: value[:, one] if name == "position_ids" else value[one]
        for name, value in inputs.items()
    }


class Engine(Protocol):
    """Both graphs of one bundle, ready to run."""

    @property
    def fixed_steps(self) -> bool:
        """Whether the number of denoising steps is baked into the head."""

    @property
    def continues(self) -> bool:
        """Whether the head takes `previous` and `weight` (real-time chunking)."""

    def backbone(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """Hidden states (B, L, hidden size) for inputs named as above."""

    def head(self, inputs: Mapping[str, Tensor], steps: int) -> NDArray[np.float32]:
        """Normalised actions (B, horizon, 7); `steps` has no effect if `fixed_steps`."""
