"""From training to serving: the exported bundle answers as eager PyTorch does."""

import json
from dataclasses import asdict

import numpy as np
import onnxruntime as ort
import pytest
import torch

from contracts import bundle
from contracts.observation import CameraFrame, Observation, RobotState
from contracts.robot import FR3
from contracts.task import OBJECTS, TASKS
from policy_server.policy import Policy
from training import grounding
from training.action_head import ActionHead, HeadConfig
from training.backbones import LabBackboneConfig
from training.export import DENOISING_STEPS, export, load_head, round_weights
from training.grounding import STATE_RANGE, GroundedBackbone

TINY = LabBackboneConfig(
    hidden=48,
    heads=2,
    key_value_heads=1,
    layers=2,
    layer=2,
    vision_hidden=32,
    vision_heads=2,
    vision_depth=3,
)
TASK, OBJECT = "basket_to_bowl", "cup"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    backbone = GroundedBackbone(TINY)
    grounding.save(backbone, root)
    config = HeadConfig(
        hidden=48, width=32, depth=2, heads=2, image_tail=backbone.readout.span, dropout=0.0
    )
    content = {
        "config": asdict(config),
        "weights": ActionHead(config).state_dict(),
        "action_low": [-0.1] * 6 + [0.0],
        "action_high": [0.1] * 6 + [1.0],
    }
    torch.save(content, root / "head.pt")
    for name in ("grounding.json", "readout.json", "head.json"):
        (root / name).write_text(json.dumps({"stage": name}))
    export(root, root, "tiny", "made by a test", root / "bundle")
    return root


def observation() -> Observation:
    rng = np.random.default_rng(0)
    frames = {
        name: CameraFrame(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8), 1.0)
        for name in ("front", "wrist")
    }
    pose = np.array([0.45, 0.05, 0.2, 1.0, 0.0, 0.0, 0.0])
    state = RobotState(pose, FR3.home_joints, np.zeros(7), 0.7, 1.0)
    return Observation(TASKS[TASK].instruction(OBJECT), frames, state, 1.0)


def eager_actions(backbone, head, seen: Observation, steps: int = DENOISING_STEPS):
    """Normalised actions (1, 16, 7) of eager PyTorch with the bundle's rounded weights."""
    for module in (backbone, head):
        round_weights(module)
    prompt = torch.tensor([list(TASKS).index(TASK) * len(OBJECTS) + OBJECTS.index(OBJECT)])
    images = torch.from_numpy(np.stack([frame.image for frame in seen.frames.values()]))[None]
    vector = bundle.state_vector(seen.state.pose, seen.state.gripper_opening)
    state = torch.from_numpy(STATE_RANGE.normalise(vector).astype(np.float32))[None]
    noise = np.random.default_rng(7).standard_normal((1, 16, 7), np.float32)
    with torch.no_grad():
        hidden = backbone.hidden(prompt, images)
        readout, _ = backbone.readout(hidden, state)
        mask = backbone.prompts.mask[prompt]
        return head.sample(torch.from_numpy(noise), hidden, mask, state, readout, steps)


def test_served_waypoints_equal_eager_ones(folders):
    seen = observation()
    chunk, _ = Policy.load(folders / "bundle").infer(seen, seed=7)
    backbone = grounding.load(folders / "backbone.pt")
    head, action_range = load_head(folders / "head.pt")
    actions = eager_actions(backbone, head, seen)
    poses, gripper = bundle.to_absolute(
        seen.state.pose, action_range.denormalise(actions[0].double().numpy())
    )
    assert np.abs(chunk.poses - poses).max() < 1e-4
    assert np.abs(chunk.gripper - np.clip(gripper, 0, 1)).max() < 1e-3


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_steps_are_an_option_of_the_one_graph(folders, steps):
    policy = Policy.load(folders / "bundle")
    assert not policy.metadata()["fixed_steps"]
    chunk, _ = policy.infer(observation(), steps=steps, seed=7)
    backbone = grounding.load(folders / "backbone.pt")
    head, action_range = load_head(folders / "head.pt")
    expected = eager_actions(backbone, head, observation(), steps=steps)
    poses, _ = bundle.to_absolute(
        observation().state.pose, action_range.denormalise(expected[0].double().numpy())
    )
    assert np.abs(chunk.poses - poses).max() < 1e-4


def test_bundle_tells_where_it_came_from_and_holds_its_reference(folders):
    manifest = bundle.read_manifest(folders / "bundle")
    assert manifest.provenance["notes"] == "made by a test"
    assert manifest.provenance["head"] == {"stage": "head.json"}
    reference = np.load(folders / "bundle" / "reference.npz")
    session = ort.InferenceSession(str(folders / "bundle" / "head.onnx"))
    inputs = {i.name: reference[f"head_in_{i.name}"] for i in session.get_inputs()}
    actions = session.run(["actions"], inputs)[0]
    assert np.abs(actions - reference["head_out_actions"]).max() < 1e-4
