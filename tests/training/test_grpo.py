"""Stage 2 asks what SFT asked, rewards by Eq. 2, and keeps curve, responses and validation."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny_checkpoint import Scenes, StopsAt, make_checkpoint, make_samples, weights
from trl import GRPOTrainer

from training import checkpoints, grpo, sft
from training.alternatives import Score
from training.collation import LAB_STYLE, Collator
from training.responses import Judge, Kept, response_of
from training.run_folder import RunFolder, Stopped

SAMPLES = make_samples(8)


def config(**changes):
    preset = {
        "max_steps": 2, "rollout_prompts": 2, "update_prompts": 2, "group": 3, "batch": 6,
        "new_tokens": 6, "learning_rate": 1e-3, "keep_every": 1, "watch": grpo.WatchLimits(),
    }  # fmt: skip
    return grpo.lab_config(**(preset | changes))


def by_tokens(response, sample):
    """Rewards action tokens, so that an untrained model's groups differ."""
    share = min(1.0, response.count("<action_") / 4)
    return Score(share, 0.0, share)


def test_a_run_leaves_curve_responses_validation_and_result(tmp_path):
    start = make_checkpoint()
    before = weights(start.model)
    held_out = SAMPLES[6:]
    rows = grpo.train(start, SAMPLES[:6], config(), tmp_path, reward=by_tokens, held_out=held_out)
    assert [row["step"] for row in rows] == [1, 2]
    wanted = {
        "reward", "format", "accuracy", "kl", "entropy", "length", "truncated", "clipped",
        "zero_spread", "seconds",
    }  # fmt: skip
    assert all(row[name] is not None for row in rows for name in wanted)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6), "the reference is the start"
    assert rows[1]["kl"] > 0
    assert rows[0]["learning_rate"] == rows[1]["learning_rate"] == 1e-3
    assert any(not torch.equal(v, start.model.state_dict()[k]) for k, v in before.items())
    kept = [json.loads(line) for line in (tmp_path / grpo.RESPONSES).read_text().splitlines()]
    assert len(kept) == 2
    assert all(len(record["responses"]) == 3 and record["truth"] for record in kept)
    validation = json.loads((tmp_path / grpo.VALIDATION).read_text())
    assert validation["before"]["count"] == validation["after"]["count"] == 2
    assert (tmp_path / "validation-after.jsonl").read_text().count("\n") == 2
    result = checkpoints.load(tmp_path / "checkpoint")
    assert all(torch.equal(v, weights(result.model)[k]) for k, v in weights(start.model).items())
    assert grpo.train(tmp_path, SAMPLES, config(), tmp_path) == rows, "not run again"


def test_rollouts_ask_what_training_asked(tmp_path, monkeypatch):
    seen = {}
    original = GRPOTrainer._generate_single_turn

    def record(self, prompt_ids, images, fields, count, **options):
        seen.update(ids=prompt_ids, pixels=torch.as_tensor(fields["pixel_values"]))
        return original(self, prompt_ids, images, fields, count, **options)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", record)
    start = make_checkpoint()
    grpo.train(start, SAMPLES[:2], config(max_steps=1), tmp_path, reward=by_tokens)
    collator = Collator(start.processor, LAB_STYLE, 512)
    prompts = {tuple(ids): i for i, ids in enumerate(collator.prompt_ids(SAMPLES[:2]))}
    asked = [prompts[tuple(ids)] for ids in seen["ids"]]
    assert asked in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    wanted = collator.pixels([SAMPLES[i] for i in asked])["pixel_values"]
    torch.testing.assert_close(seen["pixels"], wanted)


def test_the_paper_s_numbers_reach_trl(tmp_path):
    settings = grpo.GrpoConfig(gradient_checkpointing=False)
    found = grpo._arguments(settings, RunFolder(tmp_path, settings))
    assert found.generation_batch_size == 512 * 5
    assert found.per_device_train_batch_size * found.gradient_accumulation_steps == 128 * 5
    assert found.steps_per_generation == 4 * found.gradient_accumulation_steps
    assert (found.num_generations, found.num_iterations) == (5, 1)
    assert (found.epsilon, found.epsilon_high, found.delta) == (0.2, 0.3, 3.0)
    assert (found.beta, found.learning_rate, found.weight_decay) == (1e-2, 1e-6, 1e-2)
    assert (found.loss_type, found.scale_rewards) == ("grpo", "group")
    assert (found.temperature, found.top_p, found.max_completion_length) == (1.0, 1.0, 2048)
    assert found.max_grad_norm == 1.0


def test_the_reward_sees_the_action_tokens(tmp_path):
    tokenizer, sample = make_checkpoint().tokenizer, SAMPLES[1]
    logged = {}
    judge = Judge(
        tokenizer, SAMPLES, grpo.scorer("fast"), Kept(tmp_path / "kept.jsonl", every=2, group=1)
    )
    right = tokenizer.encode(sample.answer + "<|im_end|>") + [tokenizer.pad_token_id] * 3
    wrong = tokenizer.encode(sample.answer.replace("<action_3>", "<action_9>") + "<|im_end|>")
    rewards = judge(
        completion_ids=[right, wrong],
        row=[1, 1],
        trainer_state=SimpleNamespace(global_step=4),
        log_metric=logged.__setitem__,
    )
    assert rewards == [1.0, pytest.approx((1 + 1 / 3) / 2)]
    assert logged == {"format": 1.0, "accuracy": pytest.approx(2 / 3)}
    assert response_of(tokenizer, right) == sample.answer
    record = json.loads((tmp_path / "kept.jsonl").read_text())
    assert record["responses"][0]["text"] == sample.answer


def test_a_stopped_run_goes_on(tmp_path):
    settings = config(max_steps=3, save_minutes=1000)
    # Each sample is read twice for each of its responses: to ask and to score.
    with pytest.raises(Stopped):
        grpo.train(make_checkpoint(), StopsAt(SAMPLES, 5), settings, tmp_path, reward=by_tokens)
    assert list(tmp_path.glob("checkpoint-1"))
    rows = grpo.train(make_checkpoint(), SAMPLES, settings, tmp_path, reward=by_tokens)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[1]["kl"] > 0, "the reference is still the start"


def test_rehearsal_joins_this_stage_too(tmp_path):
    start = make_checkpoint()
    rehearsal = sft.Rehearsal(start, Scenes(), sft.RehearsalConfig(2, held_out=4))
    rows = grpo.train(
        start, SAMPLES, config(max_steps=1), tmp_path, reward=by_tokens, rehearsal=rehearsal
    )
    assert rows[0]["rehearsal"] > 0


def test_a_model_that_answers_right_is_validated_as_right(tmp_path):
    start, samples = make_checkpoint(), SAMPLES[:1]
    sft.train(
        start, samples * 4,
        sft.lab_config(max_steps=40, batch=4, learning_rate=1e-2, augmented=False, memory_gb=None),
        tmp_path,
    )  # fmt: skip
    means, records = grpo.validate(start, samples, config(new_tokens=60))
    assert records[0]["responses"][0]["text"] == samples[0].answer
    assert (means.reward, means.format, means.accuracy, means.truncated) == (1, 1, 1, 0)
    assert means.length == len(start.tokenizer.encode(samples[0].answer)) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update_prompts": 3, "rollout_prompts": 4}, "whole number of updates"),
        ({"reward": "style"}, "no reward 'style'"),
        ({"minutes": 1.0}, "not both"),
    ],
)
def test_configs_that_cannot_be_fail_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_what_does_not_divide_or_lacks_a_gpu_is_refused(tmp_path):
    for settings, message in (
        (config(batch=4), "does not divide into forward passes of 4"),
        (config(vllm=True), "vLLM need a GPU"),
    ):
        if settings.vllm and torch.cuda.is_available():
            continue
        with pytest.raises(ValueError, match=message):
            grpo._arguments(settings, RunFolder(tmp_path / message[:4], settings))
