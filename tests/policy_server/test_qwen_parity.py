"""The server's numpy preprocessing against transformers' Qwen-VL classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_bundle import make_observation, save_bundle, tiny_manifest

from contracts.bundle import BackboneInfo, CameraInput, Manifest
from policy_server.preprocess import Preprocessor, rotary_positions, square_picture

FAMILIES = {
    # Patch size and normalisation of the released models.
    "qwen2_5_vl": (14, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "qwen3_vl": (16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def manifest_for(family: str, patches: int) -> Manifest:
    patch, mean, std = FAMILIES[family]
    tiny = tiny_manifest()
    info = BackboneInfo(
        **vars(tiny.backbone)
        | {"family": family, "patch_size": patch, "image_mean": mean, "image_std": std}
    )
    size = patch * patches
    cameras = (CameraInput("front", size), CameraInput("wrist", size))
    return Manifest(**vars(tiny) | {"backbone": info, "cameras": cameras})


def processor_for(manifest: Manifest, tokenizer_file: Path):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    info, size = manifest.backbone, manifest.cameras[0].size
    parents = {
        "qwen2_5_vl": transformers.Qwen2_5_VLProcessor,
        "qwen3_vl": transformers.Qwen3VLProcessor,
    }

    class WithoutVideo(parents[info.family]):
        """The video processor needs torchvision."""

        def __init__(self, image_processor, tokenizer):
            super().__init__(image_processor, tokenizer, None)

    pictures = Qwen2VLImageProcessorPil(
        patch_size=info.patch_size,
        merge_size=info.merge_size,
        temporal_patch_size=info.temporal_patch_size,
        image_mean=list(info.image_mean),
        image_std=list(info.image_std),
        size={"shortest_edge": 1, "longest_edge": size * size},
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file))
    return WithoutVideo(pictures, tokenizer)


def rope_index(family: str, batch) -> np.ndarray:
    """get_rope_index of the family's model, which reads nothing but these two settings."""
    from types import SimpleNamespace

    model = {"qwen2_5_vl": transformers.Qwen2_5_VLModel, "qwen3_vl": transformers.Qwen3VLModel}[
        family
    ]
    stand_in = SimpleNamespace(
        config=SimpleNamespace(
            vision_config=SimpleNamespace(spatial_merge_size=2, tokens_per_second=4)
        )
    )
    stand_in.get_vision_position_ids = model.get_vision_position_ids.__get__(stand_in)
    positions, _ = model.get_rope_index(
        stand_in,
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    return positions.numpy()


@pytest.mark.parametrize("patches", [2, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_equal_those_of_the_processor(family: str, patches: int, tmp_path: Path) -> None:
    manifest = manifest_for(family, patches)
    save_bundle(tmp_path)
    observation = make_observation()
    ours = Preprocessor(tmp_path, manifest)(observation)

    image = "<|vision_start|><|image_pad|><|vision_end|>"
    prompt = manifest.backbone.prompt.format(image=image, instruction=observation.instruction)
    size = manifest.cameras[0].size
    pictures = [square_picture(observation.frames[c.name].image, size) for c in manifest.cameras]
    theirs = processor_for(manifest, tmp_path / "tokenizer.json")(
        text=[prompt], images=pictures, return_tensors="pt"
    )

    np.testing.assert_array_equal(ours["input_ids"], theirs["input_ids"].numpy())
    np.testing.assert_array_equal(ours["attention_mask"], theirs["attention_mask"].numpy())
    np.testing.assert_array_equal(ours["position_ids"], rope_index(family, theirs))
    ours_flat = ours["pixel_values"].reshape(-1, ours["pixel_values"].shape[-1])
    assert ours_flat.shape == theirs["pixel_values"].shape
    np.testing.assert_allclose(ours_flat, theirs["pixel_values"].numpy(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_of_pictures_without_text_around_them(family: str) -> None:
    """A prompt may begin or end with a picture."""
    is_image = np.array([1] * 9 + [0] * 2 + [1] * 9, bool)
    batch = {
        "input_ids": torch.zeros(1, 20, dtype=torch.long),
        "mm_token_type_ids": torch.from_numpy(is_image[None].astype(np.int64)),
        "image_grid_thw": torch.tensor([[1, 6, 6]] * 2),
        "attention_mask": torch.ones(1, 20, dtype=torch.long),
    }
    np.testing.assert_array_equal(rotary_positions(is_image, 3)[:, None], rope_index(family, batch))
