"""Action tokens in the language model's vocabulary (paper, section 4.1)."""

from __future__ import annotations

from typing import Final

import torch
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase

ACTION_START: Final = "<ACTION_START>"
ACTION_END: Final = "<ACTION_END>"
NOISE_SHARE = 0.1
"""Noise on new embeddings, as a share of the old ones' standard deviation in each dimension."""


def action_token(index: int) -> str:
    """Text of FAST token `index`."""
    return f"<action_{index}>"


def extend(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, count: int, seed: int = 0
) -> range:
    """Add the two markers and `count` FAST tokens to both; returns the FAST tokens' ids.

    New rows start at the mean of the old ones with a little noise: from the mean, a new token is as
    likely as the average old one, so that the text distribution is hardly disturbed (Hewitt 2021);
    the noise lets equal rows grow apart.

    Raises:
        ValueError: the tokenizer has action tokens already.
    """
    if ACTION_START in tokenizer.get_vocab():
        raise ValueError("the tokenizer has action tokens already")
    old = len(tokenizer)
    names = [ACTION_START, ACTION_END, *(action_token(i) for i in range(count))]
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    matrices = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not matrices[0]:
        matrices.append(head.weight)
    with torch.no_grad():
        for matrix in matrices:
            mean, spread = matrix[:old].mean(0), matrix[:old].std(0)
            noise = torch.randn(len(names), matrix.shape[1], generator=generator)
            matrix[old:] = (mean + NOISE_SHARE * spread * noise.to(matrix)).to(matrix.dtype)
    start = tokenizer.convert_tokens_to_ids(action_token(0))
    return range(start, start + count)


def check(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raises ValueError: tokenizer and checkpoint have different vocabularies."""
    rows = model.get_input_embeddings().num_embeddings
    if rows != len(tokenizer):
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings: they "
            "belong to different checkpoints"
        )
