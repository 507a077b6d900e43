"""One export for many modules of the same shape: a graph whose weights are filled in afterwards.

Tracing takes a minute, filling takes a moment. The template is exported with random numbers in
every parameter; by them its weights are recognised, whether the exporter kept, renamed or
transposed them.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn


def fill(
    template: Path, module: nn.Module, out: Path, export: Callable[[nn.Module, Path], None]
) -> None:
    """Write the graph of `module` to `out`; `template` is exported first if it is not there yet.

    Whether the graph answers as the module does is for the caller to check: a template of another
    module would not.
    """
    prints = _fingerprints(module)
    if not template.exists():
        stranger = copy.deepcopy(module)
        with torch.no_grad():
            for name, parameter in stranger.named_parameters():
                parameter.copy_(prints[name])
        template.parent.mkdir(parents=True, exist_ok=True)
        unfinished = template.with_suffix(f".{os.getpid()}")  # another stage may do the same
        export(stranger, unfinished)
        unfinished.rename(template)
    model = onnx.load(template)
    known = _by_content(prints)
    values = dict(module.named_parameters())
    for weight in model.graph.initializer:
        if found := known.get(numpy_helper.to_array(weight).tobytes()):
            name, transposed = found
            value = values[name].detach()
            array = (_matrix(value).T if transposed else value).contiguous().numpy()
            filled = numpy_helper.from_array(array.reshape(tuple(weight.dims)), weight.name)
            weight.CopyFrom(filled)
    onnx.save(model, out)


def _fingerprints(module: nn.Module) -> dict[str, Tensor]:
    """Random numbers in the shape of each parameter; the same for modules of the same shape."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(parameter.shape, generator=generator)
        for name, parameter in module.named_parameters()
    }


def _by_content(prints: dict[str, Tensor]) -> dict[bytes, tuple[str, bool]]:
    """Name of each parameter, and whether it is transposed, by its bytes in a graph."""
    known: dict[bytes, tuple[str, bool]] = {}
    for name, value in prints.items():
        if value.dim() >= 2:
            known[np.ascontiguousarray(_matrix(value).T.numpy()).tobytes()] = (name, True)
        known[value.numpy().tobytes()] = (name, False)
    return known


def _matrix(value: Tensor) -> Tensor:
    """A convolution whose stride is its kernel is a matrix product."""
    return value.reshape(len(value), -1)
