"""The lab backbone is transformers' own Qwen3-VL, and the prefix computes what it computes."""

import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from contracts.task import OBJECTS, TASKS
from training.backbones import (
    IMAGE_TOKEN,
    LabBackboneConfig,
    Prefix,
    encode_prompts,
    lab_backbone,
    lab_tokenizer,
    to_patches,
)

CONFIG = LabBackboneConfig(
    hidden=96, heads=3, key_value_heads=1, vision_hidden=64, vision_depth=3, layers=4
)


@pytest.fixture(scope="module")
def tokenizer():
    return lab_tokenizer(CONFIG.ranks)


@pytest.fixture(scope="module")
def model(tokenizer):
    return lab_backbone(CONFIG, tokenizer).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer, model):
    instructions = [task.instruction(obj) for task in TASKS.values() for obj in OBJECTS[:2]]
    return encode_prompts(instructions, tokenizer, model, CONFIG.grid)


@pytest.mark.parametrize("layer", [3, 4])
def test_prefix_equals_the_hidden_states_of_transformers(model, prompts, layer):
    torch.manual_seed(1)
    images = torch.randint(0, 256, (len(prompts.ids), 2, 128, 128, 3), dtype=torch.uint8)
    pixels = to_patches(images, CONFIG.patch_size)
    with torch.no_grad():
        ours = Prefix(model, CONFIG.grid, layer)(
            prompts.ids, prompts.mask, prompts.positions, pixels
        )
        if layer == CONFIG.layers:  # transformers applies the final norm to the last ones
            ours = model.model.language_model.norm(ours)
        theirs = model(
            input_ids=prompts.ids,
            attention_mask=prompts.mask,
            pixel_values=pixels.flatten(0, 2),
            image_grid_thw=torch.tensor([[1, CONFIG.grid, CONFIG.grid]] * 2 * len(prompts.ids)),
            mm_token_type_ids=(prompts.ids == model.config.image_token_id).int(),
            output_hidden_states=True,
        ).hidden_states[layer]
    real = prompts.mask.bool()
    assert (ours - theirs)[real].abs().max() < 1e-4


def test_patches_equal_transformers_image_processor():
    image = torch.randint(0, 256, (128, 128, 3), dtype=torch.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        temporal_patch_size=1,
        merge_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_resize=False,
    )
    theirs = processor(images=[image.numpy()], return_tensors="pt")["pixel_values"]
    assert (to_patches(image, 16) - theirs).abs().max() < 1e-6


def test_tokenizer_is_a_lossless_byte_level_bpe(tokenizer):
    for task in TASKS.values():
        for obj in OBJECTS:
            text = task.instruction(obj)
            assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode("größe 🤖")) < CONFIG.ranks
    assert len(tokenizer.encode(IMAGE_TOKEN)) == 1


def test_prompts_differ_and_end_alike(prompts):
    assert len({tuple(row.tolist()) for row in prompts.ids}) == len(prompts.ids)
    # Left padding: the image tokens stand at fixed distances from the end.
    tails = prompts.ids[:, -42:]
    assert bool((tails == tails[0]).all())
