"""From an observation to the backbone's inputs, as Qwen-VL's processor makes them, in numpy.

Held to transformers by parity tests, so that the server needs neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from contracts.bundle import TOKENIZER, BackboneInfo, BundleError, Manifest
from contracts.observation import Observation
from policy_server.engines.engine import Tensor
from policy_server.refusal import PolicyRefused, Reason

Picture = NDArray[np.uint8]


def square_picture(image: Picture, size: int) -> Picture:
    """The centre square of `image` (height, width, 3) as (size, size, 3).

    Shrunk by averaging areas, grown bilinearly; an image of the right size is returned as it is.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return square
    method = Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(square).resize((size, size), method))


def patch_values(picture: Picture, info: BackboneInfo) -> NDArray[np.float32]:
    """Normalised patches (patches, 3 * temporal * patch * patch) of a square picture (s, s, 3).

    Patches that the backbone merges stand next to each other; the single picture is repeated for
    the temporal patch, since Qwen-VL treats it as a film of equal frames.
    """
    levels = np.arange(256)[:, None] / 255.0
    table = ((levels - info.image_mean) / info.image_std).astype(np.float32)
    planes = table[picture, np.arange(3)]
    grid = picture.shape[0] // info.patch_size
    blocks, merge, patch = grid // info.merge_size, info.merge_size, info.patch_size
    tiles = planes.reshape(blocks, merge, patch, blocks, merge, patch, 3)
    tiles = tiles.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
    film = np.broadcast_to(tiles, (*tiles.shape[:5], info.temporal_patch_size, patch, patch))
    return film.reshape(grid * grid, -1)


def rotary_positions(is_image: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    """Time, row and column (3, L) of each token for Qwen-VL's rotary embedding.

    Text counts on in all three. A picture of side * side tokens (True in `is_image` (L,)) stands at
    one time and spreads over rows and columns; the text after it goes on from its larger side.
    Qwen2.5-VL and Qwen3-VL agree on this for still pictures.
    """
    positions = np.empty((3, len(is_image)), np.int64)
    rows, columns = np.divmod(np.arange(side * side), side)
    picture = np.stack([np.zeros_like(rows), rows, columns])
    token = position = 0
    while token < len(is_image):
        if is_image[token]:
            positions[:, token : token + side * side] = picture + position
            token, position = token + side * side, position + side
        else:
            positions[:, token] = position
            token, position = token + 1, position + 1
    return positions


def left_padded(rows: Sequence[Mapping[str, Tensor]], padding: int) -> dict[str, Tensor]:
    """Inputs of several prompts (batch 1 each) as one batch, padded to the longest.

    On the left, as the backbone and the head's readout were trained: pictures keep their distance
    from the end. `padding` is a token that is no picture; attention never sees it.
    """
    if len(rows) == 1:
        return dict(rows[0])
    longest = max(row["input_ids"].shape[1] for row in rows)

    def stacked(name: str, axis: int, value: int) -> Tensor:
        padded = []
        for row in rows:
            width = [(0, 0)] * row[name].ndim
            width[-1] = (longest - row[name].shape[-1], 0)
            padded.append(np.pad(row[name], width, constant_values=value))
        return np.concatenate(padded, axis=axis)

    return {
        "input_ids": stacked("input_ids", 0, padding),
        "attention_mask": stacked("attention_mask", 0, 0),
        "position_ids": stacked("position_ids", 1, 0),
        "pixel_values": np.concatenate([row["pixel_values"] for row in rows]),
    }


class Preprocessor:
    """Makes the backbone's inputs for one bundle."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Read the tokenizer of the bundle in `directory`.

        Raises:
            BundleError: the tokenizer cannot be read or lacks the image token.
        """
        self._manifest = manifest
        info = manifest.backbone
        self._side = manifest.cameras[0].size // (info.patch_size * info.merge_size)
        try:
            self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))
        # The library raises bare Exception.
        except Exception as error:
            raise BundleError(f"{directory / TOKENIZER}: not a tokenizer ({error})") from error
        image_id = self._tokenizer.token_to_id(info.image_token)
        if image_id is None:
            raise BundleError(f"{directory / TOKENIZER}: has no token {info.image_token!r}")
        self._image_id: int = image_id
        self.padding = 0 if image_id else 1
        """A token for `left_padded`: any that is no picture will do."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._control_text = re.compile("|".join(re.escape(t.content) for t in added) or r"(?!)")

    def __call__(self, observation: Observation) -> dict[str, Tensor]:
        """Inputs of backbone.onnx, batch 1, named as in `engines.engine`.

        Raises:
            PolicyRefused: a camera is missing, or the instruction holds a control token.
        """
        tokens = self._tokens(observation.instruction)
        return {
            "input_ids": tokens[None],
            "attention_mask": np.ones((1, len(tokens)), np.int64),
            "position_ids": rotary_positions(tokens == self._image_id, self._side)[:, None],
            "pixel_values": self._pixels(observation)[None],
        }

    def prompt_length(self, instruction: str) -> int:
        """Tokens of the prompt with `instruction`, pictures included."""
        return len(self._tokens(instruction))

    def _tokens(self, instruction: str) -> NDArray[np.int64]:
        found = self._control_text.search(instruction)
        if found:
            raise PolicyRefused(
                Reason.BAD_OBSERVATION, f"the instruction holds the token {found[0]!r}"
            )
        info = self._manifest.backbone
        image = info.vision_start + self._side**2 * info.image_token + info.vision_end
        # The instruction comes last: it may hold "{image}" and mean it.
        prompt = info.prompt.replace("{image}", image).replace("{instruction}", instruction)
        return np.array(self._tokenizer.encode(prompt, add_special_tokens=False).ids, np.int64)

    def _pixels(self, observation: Observation) -> NDArray[np.float32]:
        cameras = self._manifest.cameras
        missing = [camera.name for camera in cameras if camera.name not in observation.frames]
        if missing:
            there = ", ".join(observation.frames)
            text = f"no frame of {', '.join(missing)}; the observation has {there}"
            raise PolicyRefused(Reason.MISSING_CAMERA, text)
        pictures = [square_picture(observation.frames[c.name].image, c.size) for c in cameras]
        return np.stack([patch_values(picture, self._manifest.backbone) for picture in pictures])
