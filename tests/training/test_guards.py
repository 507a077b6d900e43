"""The guards go back to good weights, and speak once of what goes wrong."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import TrainerControl

from training.guards import (
    MemoryWatch,
    NonFiniteError,
    NonFiniteGuard,
    RolloutWatch,
    WatchLimits,
    resident_gb,
)


class Loop:
    """A trainer's calls of a guard, on one weight."""

    def __init__(self, **options):
        self.weight = nn.Parameter(torch.ones(3))
        self.optimiser = torch.optim.AdamW([self.weight], 0.1)
        self.guard = NonFiniteGuard([self.weight], **options)
        self.state = SimpleNamespace(global_step=0)
        self.guard.on_train_begin(None, self.state, None)

    def step(self, factor=1.0, loss_only=False):
        loss = (self.weight * factor).sum()
        self.optimiser.zero_grad()
        (self.weight.sum() if loss_only else loss).backward()
        self.guard.see_loss(loss.detach())
        self.guard.on_pre_optimizer_step(None, self.state, None, optimizer=self.optimiser)
        self.optimiser.step()
        self.state.global_step += 1
        self.guard.on_step_end(None, self.state, None)


@pytest.mark.parametrize("loss_only", [False, True])
def test_a_bad_update_is_undone_and_training_goes_on(loss_only):
    loop = Loop(every=1)
    loop.step()
    good = loop.weight.detach().clone()
    loop.step(float("nan"), loss_only)
    assert torch.equal(loop.weight, good)
    assert loop.guard.rolled_back == 1
    assert not loop.optimiser.state, "moments start anew"
    loop.step()
    assert (loop.weight < good).all()


def test_it_goes_back_past_the_weights_since_the_last_good_ones():
    loop = Loop(every=3)
    for _ in range(3):
        loop.step()
    good = loop.weight.detach().clone()
    loop.step()
    assert not torch.equal(loop.weight, good)
    loop.step(float("inf"))
    assert torch.equal(loop.weight, good)


def test_weights_that_are_not_finite_are_never_kept():
    loop = Loop(every=1)
    loop.step()
    good = loop.weight.detach().clone()
    with torch.no_grad():
        loop.weight[0] = float("nan")
    loop.state.global_step += 1
    loop.guard.on_step_end(None, loop.state, None)
    loop.guard.roll_back(loop.optimiser)
    assert torch.equal(loop.weight, good)


def test_patience_ends_and_a_good_update_renews_it():
    loop = Loop(patience=2)
    loop.step(float("nan"))
    loop.step()
    loop.step(float("nan"))
    with pytest.raises(NonFiniteError, match="2 updates in a row"):
        loop.step(float("nan"))


def test_sharded_weights_are_left_to_the_checkpoint():
    loop = Loop()
    loop.guard.see_loss(torch.tensor(1.0), sharded=True)
    with pytest.raises(NonFiniteError, match="last checkpoint"):
        loop.guard.see_loss(torch.tensor(float("nan")), sharded=True)


def test_a_healthy_run_is_not_warned_of():
    watch = RolloutWatch(WatchLimits(window=3))
    assert [watch.see(1.0, 50, 0.0) for _ in range(20)] == [[]] * 20


@pytest.mark.parametrize(
    ("later", "word"),
    [
        ((0.1, 50, 0.0), "entropy collapse"),
        ((1.0, 150, 0.0), "responses grow"),
        ((1.0, 50, 0.9), "do not end"),
    ],
)
def test_each_danger_is_told_once(later, word):
    watch = RolloutWatch(WatchLimits(window=3))
    for _ in range(3):
        assert watch.see(1.0, 50, 0.0) == []
    told = [text for _ in range(10) for text in watch.see(*later)]
    assert len(told) == 1
    assert word in told[0]


def test_memory_over_its_limit_saves_and_ends_the_run():
    state = SimpleNamespace(global_step=3)
    control = MemoryWatch(resident_gb() / 2).on_step_end(None, state, TrainerControl())
    assert control.should_save
    assert control.should_training_stop
    for limit in (None, 1e6):
        control = MemoryWatch(limit).on_step_end(None, state, TrainerControl())
        assert not control.should_training_stop
