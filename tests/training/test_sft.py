"""Stage 1 learns, stops, goes on where it stopped, and says what it left out."""

import dataclasses
import json

import pytest
import torch
from tiny_checkpoint import Scenes, StopsAt, make_checkpoint, make_sample, make_samples, weights

from training import checkpoints, sft
from training.checkpoints import CheckpointError
from training.guards import NonFiniteError
from training.memory_plan import Load, plan, published
from training.run_folder import Budget, RunError, RunFolder, Stopped, rate_factor
from training.run_trainer import RunTrainer
from training.samples import SampleError


def config(**changes):
    preset = {
        "max_steps": 4, "batch": 4, "learning_rate": 1e-2, "report_steps": 1, "augmented": False,
        "memory_gb": None,
    }  # fmt: skip
    return sft.lab_config(**(preset | changes))


def test_it_learns_and_writes_result_and_curve(tmp_path):
    start = make_checkpoint()
    before = weights(start.model)
    rows = sft.train(start, make_samples(16), config(max_steps=12), tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert {"learning_rate", "samples_per_second", "wait_share", "memory_gb"} <= rows[0].keys()
    result = checkpoints.load(tmp_path / "checkpoint")
    assert all(torch.equal(v, weights(result.model)[k]) for k, v in weights(start.model).items())
    changed = [k for k, v in before.items() if not torch.equal(v, start.model.state_dict()[k])]
    assert any("visual" in name for name in changed), "the lab trains its vision tower"
    assert not list(tmp_path.glob("checkpoint-*"))
    assert sft.train(tmp_path, [], config(max_steps=12), tmp_path) == rows, "not run again"


def test_a_frozen_vision_tower_stays_as_it_is(tmp_path):
    start = make_checkpoint()
    before = weights(start.model.model.visual)
    sft.train(start, make_samples(8), config(train_vision=False, max_steps=2), tmp_path)
    after = start.model.model.visual.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("by_length", [False, True])
def test_a_stopped_run_goes_on_and_ends_where_an_unbroken_one_does(tmp_path, by_length):
    samples = [make_sample(i, answer="yes " * (1 + i % 3)) for i in range(24)]
    settings = config(max_steps=5, group_by_length=by_length)
    unbroken = make_checkpoint()
    rows = sft.train(unbroken, samples, settings, tmp_path / "unbroken")
    broken = tmp_path / "broken"
    with pytest.raises(Stopped, match="stopped at step"):
        sft.train(make_checkpoint(), StopsAt(samples, 10), settings, broken)
    (saved,) = broken.glob("checkpoint-*")
    assert 0 < int(saved.name.rpartition("-")[2]) < 5
    assert not list(saved.glob("*.bin")), "nothing pickled by transformers"
    again = make_checkpoint()
    resumed = sft.train(again, samples, settings, broken)
    assert [row["step"] for row in resumed] == [row["step"] for row in rows]
    for name, value in weights(unbroken.model).items():
        torch.testing.assert_close(again.model.state_dict()[name], value)


def test_another_config_is_refused_by_the_changed_field(tmp_path):
    RunFolder(tmp_path, config(learning_rate=1e-3))
    with pytest.raises(RunError, match=r"learning_rate=0.001, now it is 0.002"):
        sft.train(make_checkpoint(), make_samples(4), config(learning_rate=2e-3), tmp_path)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    samples, settings = make_samples(8), config(max_steps=4)
    with pytest.raises(Stopped):
        sft.train(make_checkpoint(), StopsAt(samples, 1), settings, tmp_path)
    (good,) = tmp_path.glob("checkpoint-*")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunTrainer, "_save_optimizer_and_scheduler", full, raising=False)
    with pytest.raises(CheckpointError, match="No space left"):
        sft.train(make_checkpoint(), StopsAt(samples, 5), settings, tmp_path)
    assert [path.name for path in tmp_path.glob("checkpoint*")] == [good.name]
    monkeypatch.undo()
    sft.train(make_checkpoint(), samples, settings, tmp_path)
    assert (tmp_path / "checkpoint").is_dir()


def test_rehearsal_trains_the_readout_along(tmp_path):
    start = make_checkpoint()
    before = {name: value.clone() for name, value in start.readout_weights.items()}
    rehearsal = sft.Rehearsal(start, Scenes(), sft.RehearsalConfig(scenes=2, held_out=4))
    rows = sft.train(start, make_samples(8), config(max_steps=3), tmp_path, rehearsal)
    assert all(row["rehearsal"] > 0 for row in rows)
    assert rows[0]["loss"] < 10, "the curve's loss is that of the answers alone"
    after = torch.load(tmp_path / "checkpoint/readout.pt", weights_only=True)
    assert not all(torch.equal(value, after[name]) for name, value in before.items())
    with pytest.raises(ValueError, match="4 scenes, of which 4"):
        sft.Rehearsal(start, Scenes(4), sft.RehearsalConfig(held_out=4))


class Poison:
    """A rehearsal whose loss is not finite in some of its calls."""

    def __init__(self, checkpoint, bad):
        self.inner = sft.Rehearsal(checkpoint, Scenes(), sft.RehearsalConfig(2, held_out=4))
        self.readout, self.store = self.inner.readout, self.inner.store
        self.bad, self.calls = bad, 0

    def loss(self):
        self.calls += 1
        return self.inner.loss() * (float("nan") if self.calls in self.bad else 1.0)


def test_a_loss_that_is_not_finite_is_rolled_back(tmp_path):
    start = make_checkpoint()
    rows = sft.train(start, make_samples(8), config(), tmp_path, Poison(start, {2}))
    assert [row["rolled_back"] for row in rows] == [0, 1, 1, 1]
    assert all(torch.isfinite(value).all() for value in start.model.state_dict().values())


def test_losses_that_stay_not_finite_end_the_run(tmp_path):
    start = make_checkpoint()
    with pytest.raises(NonFiniteError, match="5 updates in a row"):
        sft.train(
            start, make_samples(8), config(max_steps=20), tmp_path, Poison(start, set(range(99)))
        )


def test_unusable_samples_are_counted(tmp_path, caplog):
    class Broken(StopsAt):
        def __getitem__(self, index):
            if index == 3:
                raise SampleError("broken#3: the picture does not decode")
            return self.samples[index]

    rows = sft.train(make_checkpoint(), Broken(make_samples(8), 0), config(max_steps=2), tmp_path)
    assert rows[-1]["skipped"] == 1
    assert "broken#3" in caplog.text


def test_a_stream_in_parts_is_read_by_workers(tmp_path):
    parts = sft.Parts([lambda: iter(make_samples(8)), lambda: iter(make_samples(8))])
    rows = sft.train(make_checkpoint(), parts, config(max_steps=2, workers=2), tmp_path)
    assert rows[-1]["step"] == 2
    with pytest.raises(ValueError, match="minutes or max_steps"):
        sft.train(make_checkpoint(), parts, config(max_steps=None), tmp_path / "other")


def test_wall_time_ends_a_run(tmp_path):
    rows = sft.train(
        make_checkpoint(), make_samples(8), config(max_steps=None, minutes=0.02), tmp_path
    )
    assert rows[-1]["seconds"] >= 1.2
    assert (tmp_path / "checkpoint").is_dir()


def test_lora_without_its_package_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    settings = dataclasses.replace(config(train_vision=False), lora_rank=8)
    with pytest.raises(ImportError, match="pip install peft"):
        sft._lora(settings, tied=True)


def test_options_that_contradict_each_other_fail_at_once():
    with pytest.raises(ValueError, match="not both"):
        sft.SftConfig(minutes=1, max_steps=1)
    with pytest.raises(ValueError, match="LoRA"):
        sft.SftConfig(lora_rank=8, train_vision=True)


def test_the_schedule_is_the_paper_s():
    warm_up = 0.03
    assert rate_factor(0.0, warm_up, "cosine") == 0
    assert rate_factor(0.015, warm_up, "cosine") == pytest.approx(0.5)
    assert rate_factor(warm_up, warm_up, "cosine") == pytest.approx(1.0)
    assert rate_factor((1 + warm_up) / 2, warm_up, "cosine") == pytest.approx(0.5)
    assert rate_factor(1.0, warm_up, "cosine") == pytest.approx(0.0)
    assert {rate_factor(share, 0.0, "constant") for share in (0, 0.5, 1)} == {1.0}


def test_a_budget_of_time_counts_what_earlier_parts_took():
    budget = Budget(minutes=1.0, steps=10)
    budget.spent = 45.0
    assert 0.75 <= budget.share(0) < 0.9
    assert Budget(None, 10).share(5) == 0.5


@pytest.mark.parametrize(
    ("name", "billions"), [("Qwen2.5-VL-7B", 8.29), ("Qwen3-VL-8B", 8.77)]
)
def test_the_memory_plan_counts_the_published_models(name, billions):
    shapes = published(name)
    one, eight = plan(shapes, Load(gpus=1)), plan(shapes, Load(gpus=8))
    assert one.parameters / 1e9 == pytest.approx(billions, abs=0.005)
    assert one.weights == 2 * one.parameters
    assert eight.adam == pytest.approx(one.adam / 8, rel=1e-6)
    assert one.trained < one.parameters, "the vision tower is frozen"
    assert eight.total < 80e9 < one.total


def test_the_plan_is_printed(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sft", "--plan", "--batch", "2"])
    sft.main()
    out = capsys.readouterr().out
    assert "SFT, 2 a GPU" in out
    assert "Qwen3-VL-8B" in out


def test_the_config_is_saved_whole(tmp_path):
    RunFolder(tmp_path, config())
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved.keys() == dataclasses.asdict(config()).keys()
