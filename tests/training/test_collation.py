"""One prompt for training, rollouts and validation; labels on answers; nothing cut in silence."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import CONFIG, make_checkpoint, make_sample, make_samples

from training.backbones import PROMPT, VISION_END, VISION_START
from training.collation import (
    ANSWER_END,
    IGNORED,
    LAB_STYLE,
    Collator,
    LengthGroups,
    PromptStyle,
    grouped,
    stream_grouped,
)
from training.samples import SYSTEM, Sample, SampleError


@pytest.fixture(scope="module")
def checkpoint():
    return make_checkpoint()


@pytest.fixture
def collator(checkpoint):
    return Collator(checkpoint.processor, LAB_STYLE, 512)


def features(samples):
    return [{"sample": sample} for sample in samples]


def test_the_loss_is_on_the_answer_and_its_end(checkpoint, collator):
    samples = [make_sample(0), make_sample(1, answer="yes")]
    batch = collator(features(samples))
    for i, sample in enumerate(samples):
        learned = batch["labels"][i] != IGNORED
        text = checkpoint.tokenizer.decode(batch["labels"][i][learned])
        assert text == sample.answer + ANSWER_END
        assert torch.equal(batch["labels"][i][learned], batch["input_ids"][i][learned])
        assert not learned[batch["attention_mask"][i] == 0].any()
    assert batch["skipped"] == []


def test_the_lab_prompt_is_the_prefix_s_prompt(checkpoint, collator):
    tokens = (CONFIG.grid // 2) ** 2
    picture = VISION_START + "<|image_pad|>" * tokens + VISION_END
    sample = make_sample(3)
    wanted = PROMPT.replace("{instruction}", sample.question).replace("{image}", picture)
    assert collator.prompt_text(sample) == wanted


def test_prompts_are_the_beginning_of_training_sequences(collator):
    samples = [make_sample(0), dataclasses.replace(make_sample(1), question="A longer one, is it?")]
    batch, prompts = collator(features(samples)), collator.prompts(samples)
    for i in range(2):
        prompt = prompts["input_ids"][i][prompts["attention_mask"][i].bool()]
        assert torch.equal(batch["input_ids"][i][: len(prompt)], prompt)
        assert prompts["attention_mask"][i, -1] == 1, "padding is on the left"
        assert batch["attention_mask"][i, 0] == 1, "padding is on the right"
    assert torch.equal(prompts["pixel_values"], batch["pixel_values"])


@pytest.mark.parametrize("style", [LAB_STYLE, PromptStyle()])
def test_trl_s_way_to_a_prompt_gives_the_collator_s(checkpoint, style):
    samples = make_samples(2)
    conversations = []
    for sample in samples:
        turns = style.messages(sample)
        pictures = iter(sample.pictures)
        for part in turns[-1]["content"]:
            if part["type"] == "image":
                part["image"] = next(pictures)
        conversations.append(turns)
    found = checkpoint.processor.apply_chat_template(
        conversation=conversations, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    collator = Collator(checkpoint.processor, style, 512)
    assert found["input_ids"] == collator.prompt_ids(samples)
    torch.testing.assert_close(
        torch.as_tensor(np.array(found["pixel_values"])), collator.prompts(samples)["pixel_values"]
    )


def test_qwen_s_own_style_has_the_system_message_and_pictures_first(checkpoint):
    text = Collator(checkpoint.processor, PromptStyle(), 512).prompt_text(make_sample(0))
    assert text.startswith(f"<|im_start|>system\n{SYSTEM}")
    assert text.index(VISION_START) < text.index("Task 0?")


def test_the_model_takes_a_batch_and_mixed_picture_sizes(checkpoint):
    style = PromptStyle()
    blind = dataclasses.replace(make_sample(2), pictures=())
    samples = [make_sample(0), make_sample(1, size=96), blind]
    collator = Collator(checkpoint.processor, style, 512)
    batch = collator(features(samples))
    batch.pop("skipped")
    assert batch["image_grid_thw"].shape == (4, 3)
    assert torch.isfinite(checkpoint.model(**batch).loss)


def test_pixels_of_the_short_way_are_the_processor_s(checkpoint, collator):
    samples = make_samples(3)
    images = [picture for sample in samples for picture in sample.pictures]
    wanted = checkpoint.processor.image_processor(images=images, return_tensors="pt")
    torch.testing.assert_close(collator.pixels(samples)["pixel_values"], wanted["pixel_values"])


def test_augmented_pictures_differ_and_plain_ones_do_not(checkpoint):
    samples = make_samples(1)
    plain = Collator(checkpoint.processor, LAB_STYLE, 512)
    varied = Collator(checkpoint.processor, LAB_STYLE, 512, augmented=True)
    first = plain.pixels(samples)["pixel_values"]
    assert torch.equal(first, plain.pixels(samples)["pixel_values"])
    drawn = varied.pixels(samples)["pixel_values"]
    assert not torch.equal(drawn, first)
    assert not torch.equal(drawn, varied.pixels(samples)["pixel_values"])


def test_too_long_samples_are_left_out_by_name_not_cut(checkpoint):
    samples = [make_sample(0, answer="yes"), make_sample(1, answer="no " * 300)]
    collator = Collator(checkpoint.processor, LAB_STYLE, 200)
    batch = collator(features(samples))
    assert len(batch["input_ids"]) == 1
    assert len(batch["skipped"]) == 1
    assert batch["skipped"][0].startswith("made#1: ")
    with pytest.raises(SampleError, match="made#1"):
        collator(features(samples[1:]))


def test_rows_that_cannot_be_read_are_left_out_by_name(checkpoint):
    class Broken:
        def __getitem__(self, row: int) -> Sample:
            if row == 1:
                raise SampleError("broken#1: the picture does not decode")
            return make_sample(row)

    collator = Collator(checkpoint.processor, LAB_STYLE, 512, Broken())
    batch = collator([{"row": 0}, {"row": 1}, {"row": 2}])
    assert len(batch["input_ids"]) == 2
    assert batch["skipped"] == ["broken#1: the picture does not decode"]
    assert collator.lengths([{"row": 1}]) == [0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 9), st.integers(0, 3))
def test_a_group_is_a_permutation_of_batches_of_like_lengths(lengths, batch, seed):
    order = grouped(lengths, batch, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(lengths)))
    whole = len(lengths) - len(lengths) % batch
    spans = [
        (min(part), max(part))
        for part in ([lengths[j] for j in order[i : i + batch]] for i in range(0, whole, batch))
    ]
    spans.sort()
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_epochs_have_orders_of_their_own_and_a_resumed_one_its_old(checkpoint):
    samples = [make_sample(i, answer="x" * (1 + i % 7)) for i in range(40)]
    collator = Collator(checkpoint.processor, LAB_STYLE, 512, samples)
    order = LengthGroups(collator, len(samples), 4, seed=1)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    order.set_epoch(0)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert list(order) == first


def test_a_stream_is_grouped_too(collator):
    samples = [make_sample(i, answer="x" * (1 + i % 5)) for i in range(37)]
    out = list(stream_grouped(iter(samples), collator, 4, seed=0))
    assert sorted(s.name for s in out) == sorted(s.name for s in samples)
    lengths = [len(sample.answer) for sample in out[:36]]
    spread = [max(lengths[i : i + 4]) - min(lengths[i : i + 4]) for i in range(0, 36, 4)]
    assert np.mean(spread) < 1.0
