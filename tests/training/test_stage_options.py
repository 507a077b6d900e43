"""The two stages from the command line, on a Qwen2.5-VL of a few thousand weights."""

import json

import numpy as np
import pytest
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from training import checkpoints, grpo, mixture, sft
from training.backbones import lab_tokenizer
from training.samples import ACTION_PROMPT, Sample, SampleError


class Chunks:
    """A mixture row of pictures with action chunks, of which one does not decode."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == 5:
            raise SampleError("bridge#5: the picture does not decode")
        rng = np.random.default_rng(index)
        picture = rng.integers(0, 255, (56, 84, 3), dtype=np.uint8)
        chunk = np.cumsum(rng.normal(size=(4, 7)), axis=0) * 0.01
        return Sample(
            f"bridge#{index}", "action", (picture,),
            ACTION_PROMPT.format(instruction="lift it"), "", chunk=chunk,
        )  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint as it is downloaded: without action tokens."""
    tokenizer = lab_tokenizer(300)
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer) + 10, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "bos_token_id": None, "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
        "out_hidden_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision,
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    processor = checkpoints.make_processor(
        model, tokenizer, Qwen2VLImageProcessorPil(), checkpoints.LAB_CHAT_TEMPLATE
    )
    folder = tmp_path_factory.mktemp("published") / "model"
    checkpoints.save(checkpoints.Checkpoint(model, processor), folder)
    return folder


@pytest.fixture
def bridge(monkeypatch):
    row = mixture.Row("bridge_fast", "action", 1.0, Chunks())
    monkeypatch.setattr(mixture, "paper_rows", lambda folder, names=None: [row])


def run(monkeypatch, stage, *options):
    monkeypatch.setattr("sys.argv", ["stage", *map(str, options)])
    stage.main()


def test_both_stages_run_on_a_published_model(published, bridge, tmp_path, monkeypatch, capsys):
    run(
        monkeypatch, sft, "--checkpoint", published, "--data", tmp_path, "--out", tmp_path / "sft",
        "--fast", tmp_path / "fast.json", "--batch", 2, "--accumulation", 2, "--workers", 0,
        "--max-steps", 2, "--learning-rate", 1e-3,
    )  # fmt: skip
    assert "1 of 24 chunks are left out, the first: bridge#5" in capsys.readouterr().out
    made = checkpoints.load(tmp_path / "sft/checkpoint")
    assert made.fast.vocabulary > 0
    assert len((tmp_path / "sft/curve.jsonl").read_text().splitlines()) == 1
    rl_options = (
        "--checkpoint", tmp_path / "sft/checkpoint", "--data", tmp_path, "--group", 2,
        "--rollout-prompts", 2, "--update-prompts", 1, "--batch", 2, "--new-tokens", 5,
        "--max-steps", 2, "--prompts", 22, "--held-out", 2,
    )  # fmt: skip
    run(monkeypatch, grpo, *rl_options, "--out", tmp_path / "rl")
    assert "1 of 24 samples are left out, the first: bridge#5" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rl/curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    run(monkeypatch, grpo, *rl_options, "--validate")
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads((tmp_path / "rl/validation.json").read_text())["before"]


def test_errors_end_the_program_with_their_text(published, bridge, tmp_path, monkeypatch, capsys):
    options = ("--checkpoint", published, "--data", tmp_path)
    with pytest.raises(SystemExit, match="no action tokens; give --fast"):
        run(monkeypatch, sft, *options, "--out", tmp_path / "run")
    with pytest.raises(SystemExit):
        run(monkeypatch, sft, *options)
    assert "a run needs --out" in capsys.readouterr().err
