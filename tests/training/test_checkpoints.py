"""Checkpoints come back as they were written, and a failed write leaves the last good one."""

import errno
import json
import shutil

import numpy as np
import pytest
import torch
from tiny_checkpoint import CONFIG, make_checkpoint, make_fast
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from training import checkpoints
from training.backbones import lab_tokenizer, to_patches
from training.rewards import response_text


@pytest.fixture(scope="module")
def checkpoint():
    return make_checkpoint()


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "model"
    checkpoints.save(checkpoint, folder)
    return folder


def test_a_checkpoint_comes_back_as_it_was(checkpoint, folder):
    loaded = checkpoints.load(folder)
    before, after = checkpoint.model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    text = response_text("left of the cube, 12", [0, 5, 63]) + "<|im_end|>"
    ids = checkpoint.tokenizer.encode(text)
    assert loaded.tokenizer.encode(text) == ids
    assert loaded.tokenizer.decode(ids) == text
    assert len([i for i in ids if i >= len(loaded.tokenizer) - 64]) == 3, "one id an action token"
    assert loaded.processor.chat_template == checkpoint.processor.chat_template
    assert loaded.lab == CONFIG
    chunks = np.random.default_rng(1).normal(size=(3, 4, 7)) * 0.01
    assert loaded.fast.encode(chunks) == checkpoint.fast.encode(chunks)
    assert loaded.readout_weights.keys() == checkpoint.readout_weights.keys()


def test_the_lab_processor_makes_the_patches_of_the_prefix(folder):
    pictures = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    found = checkpoints.load(folder).processor.image_processor(
        images=list(pictures), return_tensors="pt"
    )
    wanted = to_patches(torch.from_numpy(pictures), CONFIG.patch_size).flatten(0, 1)
    torch.testing.assert_close(found["pixel_values"], wanted)
    assert found["image_grid_thw"].tolist() == [[1, CONFIG.grid, CONFIG.grid]] * 2


def test_a_full_disk_leaves_the_last_good_checkpoint(checkpoint, folder, tmp_path, monkeypatch):
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_companions", full)
    with pytest.raises(checkpoints.CheckpointError, match=r"No space left.*last good"):
        checkpoints.save(checkpoint, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_new_checkpoint_takes_the_old_one_s_place(tmp_path):
    target = tmp_path / "model"
    for seed in (0, 1):
        made = make_checkpoint(seed)
        checkpoints.save(made, target)
    weight = made.model.get_input_embeddings().weight
    assert torch.equal(checkpoints.load(target).model.get_input_embeddings().weight, weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_of_another_checkpoint_is_refused(folder, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    tokenizer = checkpoints.load(target).tokenizer
    tokenizer.add_tokens(["<one_more>"])
    tokenizer.save_pretrained(target)
    with pytest.raises(checkpoints.CheckpointError, match="belong to different checkpoints"):
        checkpoints.load(target)


def test_a_fast_tokenizer_of_another_checkpoint_is_refused(folder, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    make_fast(vocabulary=50).save(target / checkpoints.FAST)
    with pytest.raises(checkpoints.CheckpointError, match="50 tokens and the vocabulary 64"):
        checkpoints.load(target)


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint here"):
        checkpoints.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(checkpoints.CheckpointError, match="'llama' is not supported"):
        checkpoints.load(tmp_path)


def test_qwen2_5_vl_is_loaded_with_its_own_processor(tmp_path):
    tokenizer = lab_tokenizer(300)
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
            "out_hidden_size": 32, "fullatt_block_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    processor = checkpoints.make_processor(
        model, tokenizer, Qwen2VLImageProcessorPil(), checkpoints.LAB_CHAT_TEMPLATE
    )
    checkpoints.save(checkpoints.Checkpoint(model, processor), tmp_path / "model")
    loaded = checkpoints.load(tmp_path / "model")
    assert isinstance(loaded.processor, checkpoints.PictureProcessor25)
    assert loaded.fast is None
    assert loaded.lab is None
    picture = np.zeros((56, 84, 3), np.uint8)
    inputs = loaded.processor(
        text=["<|vision_start|><|image_pad|><|vision_end|>what?"],
        images=[[picture]],
        return_tensors="pt",
    )
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 6]]
    with torch.no_grad():
        assert torch.isfinite(loaded.model(**inputs).logits).all()
