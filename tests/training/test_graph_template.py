"""A graph filled with another module's weights answers as that module does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from training import graph_template


class Small(nn.Module):
    """A convolution used as a matrix, a linear layer, a norm, and a bias of zeros."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.patch = nn.Conv1d(4, 6, 1)
        self.linear = nn.Linear(6, 3)
        self.norm = nn.LayerNorm(3)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x @ self.patch.weight[:, :, 0].T + self.patch.bias
        return self.norm(self.linear(hidden))


def test_a_filled_graph_answers_as_its_module(tmp_path: Path) -> None:
    x = torch.randn(5, 4)
    traced: list[Path] = []

    def trace(module: nn.Module, to: Path) -> None:
        traced.append(to)
        program = torch.onnx.export(module, (x,), dynamo=True, input_names=["x"], verbose=False)
        program.save(str(to))

    for seed in (0, 1, 2):
        module, out = Small(seed).eval(), tmp_path / f"{seed}.onnx"
        graph_template.fill(tmp_path / "templates/small.onnx", module, out, trace)
        session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        answer = session.run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(answer, module(x).detach().numpy(), atol=1e-5)
    assert len(traced) == 1
