"""The action head: masks, shapes, and that the flow it learns leads to the data."""

import pytest
import torch

from contracts.bundle import ACTION_DIMENSION, STATE_DIMENSION
from training.action_head import ActionHead, HeadConfig
from training.readout import READOUT_DIMENSION, GroundingReadout

SMALL = HeadConfig(hidden=32, width=48, depth=2, heads=4, horizon=8, pack=4, dropout=0.0)


def inputs(batch: int, length: int = 10) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden": torch.randn(batch, length, SMALL.hidden, generator=generator),
        "mask": torch.ones(batch, length, dtype=torch.int64),
        "state": torch.rand(batch, STATE_DIMENSION, generator=generator),
        "readout": torch.rand(batch, READOUT_DIMENSION, generator=generator) * 0.1,
    }


def test_padding_does_not_change_the_action():
    torch.manual_seed(0)
    head, given = ActionHead(SMALL).eval(), inputs(2)
    given["mask"][:, :3] = 0
    noise = torch.randn(2, SMALL.horizon, ACTION_DIMENSION)
    with torch.no_grad():
        before = head.sample(noise, steps=4, **given)
        given["hidden"][:, :3] = 100.0
        after = head.sample(noise, steps=4, **given)
        given["hidden"][:, 5] *= -1.0  # a shift would vanish in the layer norm
        changed = head.sample(noise, steps=4, **given)
    assert torch.equal(before, after)
    assert not torch.allclose(before, changed)


def going_on(weight: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Free actions, those with `weight` (horizon,), and the previous ones."""
    torch.manual_seed(1)
    head, given = ActionHead(SMALL).eval(), inputs(3)
    noise, previous = torch.randn(2, 3, SMALL.horizon, ACTION_DIMENSION).unbind(0)
    with torch.no_grad():
        free = head.sample(noise, steps=steps, **given)
        guided = head.sample(
            noise, steps=steps, previous=previous, weight=weight.expand(3, -1), **given
        )
    return free, guided, previous


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_actions_of_full_weight_follow_the_previous_chunk(steps):
    weight = torch.zeros(SMALL.horizon)
    weight[:3] = 1.0
    free, guided, previous = going_on(weight, steps)
    assert (guided[:, :3] - previous[:, :3]).abs().max() < 1e-5
    assert (free[:, :3] - previous[:, :3]).abs().max() > 0.5
    if steps > 1:  # the others answer to what is held, and do not run away from it
        rest = (guided - free)[:, 3:].abs()
        assert 1e-5 < rest.max() < 1.0


@pytest.mark.parametrize("steps", [1, 4])
def test_no_weight_changes_no_bit(steps):
    free, guided, _ = going_on(torch.zeros(SMALL.horizon), steps)
    assert torch.equal(free, guided)


def test_weights_between_blend():
    half = torch.full((SMALL.horizon,), 0.5)
    free, guided, previous = going_on(half, steps=4)
    assert (guided - previous).abs().mean() < 0.6 * (free - previous).abs().mean()


def test_flow_learns_a_constant_chunk():
    torch.manual_seed(0)
    head, given = ActionHead(SMALL), inputs(16)
    actions = (
        torch.linspace(-0.8, 0.8, SMALL.horizon * ACTION_DIMENSION)
        .view(1, SMALL.horizon, -1)
        .expand(16, -1, -1)
    )
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(700):
        loss = head.loss(
            actions,
            given["hidden"],
            given["mask"].bool(),
            given["state"],
            given["readout"],
            draws=2,
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    head.eval()
    with torch.no_grad():
        sampled = head.sample(torch.randn(16, SMALL.horizon, ACTION_DIMENSION), steps=4, **given)
    # Untrained, it is off by the noise's own size, 0.9 on average.
    assert (sampled - actions).abs().mean() < 0.2


def test_readout_points_where_its_attention_is():
    torch.manual_seed(0)
    readout = GroundingReadout(hidden=16, tokens=16, tail=3)
    torch.nn.init.zeros_(readout.offset.weight)
    torch.nn.init.zeros_(readout.offset.bias)
    hidden = torch.randn(1, 4 + 16 + 2 + 16 + 3, 16)
    marked = hidden.clone()
    # Token 5 of the second camera gets the feature that the first entity's query looks for.
    marked[0, 4 + 16 + 2 + 5] = 50 * readout.score.weight[0]
    with torch.no_grad():
        _, points = readout(marked, torch.zeros(1, STATE_DIMENSION))
    assert torch.allclose(points[0, 1, 0], readout.centres[5], atol=0.12)
