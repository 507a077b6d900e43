"""Action tokens: one id each, sensible rows, kept through saving and loading."""

import pytest
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from training import vocabulary
from training.backbones import LabBackboneConfig, lab_backbone, lab_tokenizer

CONFIG = LabBackboneConfig(
    ranks=512, hidden=48, heads=2, key_value_heads=1, layers=2, vision_hidden=32, vision_depth=3
)
COUNT = 64


@pytest.fixture(scope="module")
def extended():
    tokenizer = lab_tokenizer(CONFIG.ranks)
    model = lab_backbone(CONFIG, tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    return tokenizer, model, before, vocabulary.extend(tokenizer, model, COUNT)


def test_each_action_token_is_one_id_in_order(extended) -> None:
    tokenizer, _, _, ids = extended
    text = "go" + vocabulary.ACTION_START + "".join(map(vocabulary.action_token, (0, 5, 63)))
    assert tokenizer.encode(text)[-3:] == [ids[0], ids[5], ids[63]]
    assert len(ids) == COUNT


def test_old_rows_stay_and_new_ones_are_near_their_mean(extended) -> None:
    _, model, before, _ = extended
    after = model.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    new, spread = after[len(before) :], before.std(0)
    assert ((new - before.mean(0)).abs() < 0.6 * spread).all()
    assert torch.pdist(new).min() > 0
    assert model.get_output_embeddings().weight is after  # tied


def test_they_survive_saving_and_loading(extended, tmp_path) -> None:
    tokenizer, model, _, ids = extended
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary.check(loaded, again)
    assert loaded.convert_tokens_to_ids(vocabulary.action_token(7)) == ids[7]
    rows = again.get_input_embeddings().weight
    assert torch.equal(rows, model.get_input_embeddings().weight)


def test_a_tokenizer_of_another_checkpoint_is_refused(extended) -> None:
    _, model, _, _ = extended
    with pytest.raises(ValueError, match="different checkpoints"):
        vocabulary.check(lab_tokenizer(CONFIG.ranks), model)


def test_extending_twice_is_an_error(extended) -> None:
    tokenizer, model, _, _ = extended
    with pytest.raises(ValueError, match="already"):
        vocabulary.extend(tokenizer, model, COUNT)
