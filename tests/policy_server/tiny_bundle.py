"""A bundle of a few kilobytes: graphs made by hand, so that tests can compute what they answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from contracts.bundle import BackboneInfo, CameraInput, Manifest, Normalisation, write_manifest
from contracts.observation import CameraFrame, Observation, RobotState

SIZE, PATCH, MERGE, HIDDEN, HORIZON, STEPS = 28, 7, 2, 8, 6, 4
IMAGE_TOKENS = (SIZE // PATCH // MERGE) ** 2
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PROMPT = "<|im_start|>user\nfront: {image}\nwrist: {image}\n{instruction}<|im_end|>\n"


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE with Qwen's normaliser and special tokens, learned from one sentence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(
        ["pick up the teddy bear from the box and place it in the bowl"] * 9, trainer
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return tokenizer


def weights() -> dict[str, np.ndarray]:
    """The random weights that both tiny graphs use."""
    random = np.random.default_rng(0)
    return {
        "embedding": random.standard_normal((400, HIDDEN), np.float32),
        "from_hidden": random.standard_normal((HIDDEN, 7), np.float32) * 0.1,
        "from_state": random.standard_normal((11, 7), np.float32) * 0.1,
    }


def _save(
    path: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    constants: dict[str, np.ndarray],
) -> None:
    initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def save_backbone(path: Path) -> None:
    """hidden = (embedding[ids] + mean(pixels) + mean(positions) / 100) * mask."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("ReduceMean", ["pixel_values", "all_but_batch"], ["mean"], keepdims=1),
        helper.make_node("Squeeze", ["mean", "last"], ["brightness"]),
        helper.make_node("Cast", ["position_ids"], ["floating"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floating", "first"], ["place"], keepdims=0),
        helper.make_node("Mul", ["place", "hundredth"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "last"], ["shift"]),
        helper.make_node("Cast", ["attention_mask"], ["mask_2d"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask_2d", "last"], ["mask"]),
        helper.make_node("Add", ["embedded", "brightness"], ["lit"]),
        helper.make_node("Add", ["lit", "shift"], ["moved"]),
        helper.make_node("Mul", ["moved", "mask"], ["hidden"]),
    ]
    inputs = [
        info("input_ids", TensorProto.INT64, ["batch", "length"]),
        info("attention_mask", TensorProto.INT64, ["batch", "length"]),
        info("position_ids", TensorProto.INT64, [3, "batch", "length"]),
        info(
            "pixel_values", TensorProto.FLOAT, ["batch", 2, (SIZE // PATCH) ** 2, 3 * 2 * PATCH**2]
        ),
    ]
    constants = {
        "embedding": weights()["embedding"],
        "all_but_batch": np.array([1, 2, 3]),
        "first": np.array([0]),
        "last": np.array([-1]),
        "hundredth": np.array(0.01, np.float32),
    }
    _save(
        path,
        "backbone",
        nodes,
        inputs,
        info("hidden", TensorProto.FLOAT, ["batch", "length", HIDDEN]),
        constants,
    )


def save_head(path: Path, *, dynamic_steps: bool, continues: bool = False) -> None:
    """actions = tanh(mean(hidden) W + state V + noise / (1 + steps)); steps is 4 if not dynamic.

    The mean is over the tokens that the mask shows. With `continues`, actions of weight w are
    w * previous + (1 - w) * those.
    """
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["mask"], ["mask_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask_float", "last"], ["mask_3d"]),
        helper.make_node("ReduceSum", ["mask_3d", "tokens"], ["count"], keepdims=1),
        helper.make_node("Mul", ["hidden", "mask_3d"], ["visible"]),
        helper.make_node("ReduceSum", ["visible", "tokens"], ["sum"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "from_hidden"], ["seen"]),
        helper.make_node("Unsqueeze", ["state", "tokens"], ["state_3d"]),
        helper.make_node("MatMul", ["state_3d", "from_state"], ["felt"]),
        helper.make_node("Cast", ["steps"], ["steps_float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["steps_float", "one"], ["divisor"]),
        helper.make_node("Div", ["noise", "divisor"], ["quiet"]),
        helper.make_node("Add", ["seen", "felt"], ["aim"]),
        helper.make_node("Add", ["quiet", "aim"], ["raw"]),
        helper.make_node("Tanh", ["raw"], ["free" if continues else "actions"]),
    ]
    inputs = [
        info("hidden", TensorProto.FLOAT, ["batch", "length", HIDDEN]),
        info("mask", TensorProto.INT64, ["batch", "length"]),
        info("state", TensorProto.FLOAT, ["batch", 11]),
        info("noise", TensorProto.FLOAT, ["batch", HORIZON, 7]),
    ]
    constants = {key: weights()[key] for key in ("from_hidden", "from_state")}
    constants |= {
        "tokens": np.array([1]),
        "last": np.array([-1]),
        "one": np.array(1.0, np.float32),
    }
    if continues:
        nodes += [
            helper.make_node("Unsqueeze", ["weight", "last"], ["weight_3d"]),
            helper.make_node("Sub", ["previous", "free"], ["difference"]),
            helper.make_node("Mul", ["difference", "weight_3d"], ["correction"]),
            helper.make_node("Add", ["free", "correction"], ["actions"]),
        ]
        inputs += [
            info("previous", TensorProto.FLOAT, ["batch", HORIZON, 7]),
            info("weight", TensorProto.FLOAT, ["batch", HORIZON]),
        ]
    if dynamic_steps:
        inputs.append(info("steps", TensorProto.INT64, []))
    else:
        constants["steps"] = np.array(STEPS)
    _save(
        path,
        "head",
        nodes,
        inputs,
        info("actions", TensorProto.FLOAT, ["batch", HORIZON, 7]),
        constants,
    )


def tiny_manifest() -> Manifest:
    return Manifest(
        name="tiny",
        horizon=HORIZON,
        time_step=0.1,
        execute_steps=3,
        denoising_steps=STEPS,
        cameras=(CameraInput("front", SIZE), CameraInput("wrist", SIZE)),
        backbone=BackboneInfo(
            family="qwen3_vl",
            layer=2,
            hidden_size=HIDDEN,
            final_norm=False,
            patch_size=PATCH,
            merge_size=MERGE,
            temporal_patch_size=2,
            image_mean=(0.48, 0.46, 0.41),
            image_std=(0.27, 0.26, 0.28),
            prompt=PROMPT,
            image_token="<|image_pad|>",
            vision_start="<|vision_start|>",
            vision_end="<|vision_end|>",
        ),
        state=Normalisation((-1.0,) * 11, (2.0,) * 11),
        action=Normalisation(
            (-0.02,) * 3 + (-0.1,) * 3 + (0.0,), (0.03,) * 3 + (0.1,) * 3 + (1.0,)
        ),
        provenance={"made": "by the tests"},
    )


def save_bundle(directory: Path, *, dynamic_steps: bool = True, continues: bool = False) -> Path:
    """Write the tiny bundle into `directory` and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save(str(directory / "tokenizer.json"))
    save_backbone(directory / "backbone.onnx")
    save_head(directory / "head.onnx", dynamic_steps=dynamic_steps, continues=continues)
    save_reference(directory)
    write_manifest(directory, tiny_manifest())
    return directory


def save_reference(directory: Path) -> None:
    """One run of both graphs, as training's export keeps one of eager PyTorch."""
    random = np.random.default_rng(1)
    rows, length = 2, 3 * IMAGE_TOKENS
    backbone = {
        "input_ids": random.integers(0, 300, (rows, length)),
        "attention_mask": np.ones((rows, length), np.int64),
        "position_ids": random.integers(0, 9, (3, rows, length)),
        "pixel_values": random.standard_normal(
            (rows, 2, (SIZE // PATCH) ** 2, 3 * 2 * PATCH**2), np.float32
        ),
    }
    hidden = run_graph(directory / "backbone.onnx", backbone)
    head = {
        "hidden": hidden,
        "mask": backbone["attention_mask"],
        "state": random.standard_normal((rows, 11), np.float32),
        "noise": random.standard_normal((rows, HORIZON, 7), np.float32),
        "steps": np.array(STEPS),
        "previous": random.standard_normal((rows, HORIZON, 7), np.float32),
        "weight": random.random((rows, HORIZON), np.float32),
    }
    actions = run_graph(directory / "head.onnx", head)
    content = {f"backbone_in_{name}": value for name, value in backbone.items()}
    content |= {f"head_in_{name}": value for name, value in head.items()}
    np.savez(
        directory / "reference.npz",
        **content,
        backbone_out_hidden=hidden,
        head_out_actions=actions,
    )


def run_graph(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})[0]


def make_observation(seed: int = 0, cameras: tuple[str, ...] = ("front", "wrist")) -> Observation:
    random = np.random.default_rng(seed)
    frames = {
        name: CameraFrame(random.integers(0, 256, (48, 64, 3), dtype=np.uint8), 7.0)
        for name in cameras
    }
    pose = np.array([0.5, 0.1, 0.3, 1.0, 0.0, 0.0, 0.0])
    state = RobotState(pose, np.zeros(7), np.zeros(7), 0.5, 7.0)
    return Observation("pick up the cup from the box and place it in the bowl", frames, state, 7.25)
