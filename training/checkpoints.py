"""Checkpoints of the language model: folders in Hugging Face format with what RoboAlign adds.

A folder holds `config.json` and `model.safetensors` (several parts for a large model), the
tokenizer's files, `chat_template.jinja`, `preprocessor_config.json`, and

- `fast.json`: the FAST tokenizer (`FastTokenizer.save`), where the vocabulary has action tokens;
- `lab.json`: the fields of `LabBackboneConfig`, for lab models alone;
- `readout.pt`: the state dict of `readout.GroundingReadout`, for lab models alone.

`save` writes into a temporary folder beside the target and renames it, so that a crash or a full
disk leaves the last good checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from training import vocabulary
from training.backbones import LabBackboneConfig
from training.fast_tokenizer import FastTokenizer
from training.grounding import GroundedBackbone

FAST, LAB, READOUT = "fast.json", "lab.json", "readout.pt"
PARTIAL: Final = ".partial"
"""Suffix of a folder that is being written."""

LAB_CHAT_TEMPLATE: Final = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as Qwen's own templates write it, without their default system message."""


class CheckpointError(ValueError):
    """A folder that is no usable checkpoint, or one that could not be written."""


class _NoVideo:
    """Qwen's processors without a video processor, which would need torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **options) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template, **options)


class PictureProcessor3(_NoVideo, Qwen3VLProcessor):
    """Qwen3-VL's processor for text and pictures."""


class PictureProcessor25(_NoVideo, Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor for text and pictures."""


_FAMILIES = {
    "qwen3_vl": (Qwen3VLForConditionalGeneration, PictureProcessor3),
    "qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, PictureProcessor25),
}


@dataclass
class Checkpoint:
    """A model with all that belongs to it; `folder` is where it was loaded from or saved to."""

    model: PreTrainedModel
    processor: ProcessorMixin
    fast: FastTokenizer | None = None
    lab: LabBackboneConfig | None = None
    readout_weights: dict[str, Tensor] | None = None
    folder: Path | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.processor.tokenizer


def make_processor(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: Qwen2VLImageProcessorPil,
    chat_template: str,
) -> ProcessorMixin:
    """Processor of the model's family; padding on the left, as generation needs it."""
    _, kind = family(model.config.model_type)
    tokenizer.padding_side = "left"
    return kind(image_processor=image_processor, tokenizer=tokenizer, chat_template=chat_template)


def lab_image_processor(config: LabBackboneConfig) -> Qwen2VLImageProcessorPil:
    """For square pictures of one size and one temporal frame; agrees with `to_patches`."""
    return Qwen2VLImageProcessorPil(
        patch_size=config.patch_size,
        temporal_patch_size=1,
        merge_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": config.image_size**2, "longest_edge": config.image_size**2},
    )


def from_lab(backbone: GroundedBackbone, fast: FastTokenizer) -> Checkpoint:
    """Checkpoint of a lab backbone; the action tokens of `fast` are added to its vocabulary.

    The checkpoint shares the backbone's model and tokenizer.
    """
    vocabulary.extend(backbone.tokenizer, backbone.model, fast.vocabulary, backbone.config.seed)
    processor = make_processor(
        backbone.model,
        backbone.tokenizer,
        lab_image_processor(backbone.config),
        LAB_CHAT_TEMPLATE,
    )
    weights = {name: value.detach().clone() for name, value in _readout_state(backbone).items()}
    return Checkpoint(backbone.model, processor, fast, backbone.config, weights)


def _readout_state(backbone: GroundedBackbone) -> dict[str, Tensor]:
    return backbone.readout.state_dict()


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: no such folder, an unknown model type, tokenizer and model of different
            vocabularies, or a FAST tokenizer of another size than the vocabulary's action tokens.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no checkpoint here (config.json is missing)")
    model_class, processor_class = family(AutoConfig.from_pretrained(folder).model_type, folder)
    model = model_class.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    processor = processor_class(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder),
        tokenizer=tokenizer,
        chat_template=_chat_template(folder, tokenizer),
    )
    lab = folder / LAB
    readout = folder / READOUT
    fast = folder / FAST
    checkpoint = Checkpoint(
        model,
        processor,
        FastTokenizer.load(fast) if fast.exists() else None,
        LabBackboneConfig(**json.loads(lab.read_text())) if lab.exists() else None,
        torch.load(readout, weights_only=True) if readout.exists() else None,
        folder,
    )
    _check(checkpoint, folder)
    return checkpoint


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint; the one that was in `folder` is replaced once the new one is whole.

    Raises:
        CheckpointError: the disk is full or not writable; what was there before is untouched.
    """
    with replacing(Path(folder)) as partial:
        write(checkpoint, partial)
    checkpoint.folder = Path(folder)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the checkpoint's files into a folder, not atomically (see `replacing`)."""
    checkpoint.model.save_pretrained(folder)
    write_companions(checkpoint, folder)


def write_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """All of a checkpoint but the model's own files."""
    checkpoint.tokenizer.save_pretrained(folder)
    checkpoint.processor.image_processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(checkpoint.processor.chat_template)
    if checkpoint.fast is not None:
        checkpoint.fast.save(folder / FAST)
    if checkpoint.lab is not None:
        (folder / LAB).write_text(json.dumps(asdict(checkpoint.lab)) + "\n")
    if checkpoint.readout_weights is not None:
        torch.save(checkpoint.readout_weights, folder / READOUT)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes `folder`'s place when the block ends without an error.

    Raises:
        CheckpointError: writing failed; `folder` is as it was and the temporary one is gone.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        previous = folder.with_name(folder.name + ".previous")
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            folder.rename(previous)
        partial.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: the checkpoint could not be written ({error.strerror or error}); the last "
            "good one is untouched. Free some space and resume."
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def family(model_type: str, folder: Path | None = None) -> tuple[type, type]:
    """Model and processor class of a model type. Raises CheckpointError: an unknown one."""
    if model_type not in _FAMILIES:
        where = f"{folder}: " if folder else ""
        raise CheckpointError(
            f"{where}model type {model_type!r} is not supported; known are {sorted(_FAMILIES)}"
        )
    return _FAMILIES[model_type]


def _chat_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text()
    legacy = folder / "chat_template.json"  # as Qwen2.5-VL's repository has it
    if legacy.is_file():
        return json.loads(legacy.read_text())["chat_template"]
    if tokenizer.chat_template:
        return tokenizer.chat_template
    raise CheckpointError(f"{folder}: no chat template (chat_template.jinja is missing)")


def _check(checkpoint: Checkpoint, folder: Path) -> None:
    table = checkpoint.tokenizer.get_vocab()
    if vocabulary.ACTION_START in table:
        try:
            vocabulary.check(checkpoint.tokenizer, checkpoint.model)
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}") from error
    if checkpoint.fast is None:
        return
    actions = sum(name.startswith("<action_") for name in table)
    if actions != checkpoint.fast.vocabulary:
        raise CheckpointError(
            f"{folder}: {FAST} has {checkpoint.fast.vocabulary} tokens and the vocabulary "
            f"{actions} action tokens: they belong to different checkpoints"
        )
