"""The layout of an episode: what is written is what is read, and standard tools can read it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_episodes import header, outcome

from contracts import episode as layout
from contracts.episode import EpisodeError, EpisodeHeader, Outcome

stamps = st.integers(0, 2_000_000_000 * 10**6).map(lambda us: us / 1e6)
numbers = st.floats(-1e6, 1e6)
sevens = st.lists(numbers, min_size=7, max_size=7)


@settings(max_examples=40, deadline=None)
@given(stamp=stamps, pose=sevens, joints=sevens, gripper=numbers, limited=st.booleans())
def test_fixed_messages_survive(
    stamp: float, pose: list[float], joints: list[float], gripper: float, limited: bool
) -> None:
    message = layout.FILTERED_COMMAND
    data = message.encode(
        stamp, pose=pose, joint_positions=joints, gripper=gripper, limited=limited
    )
    row = message.decode(np.frombuffer(data, np.uint8)[None])[0]
    assert abs(float(layout.stamps_of(row)) - stamp) < 1e-6
    assert row["pose"].tolist() == pose and row["joint_positions"].tolist() == joints
    assert row["gripper"] == gripper and row["limited"] == limited


@settings(max_examples=40, deadline=None)
@given(stamp=stamps, name=st.text(max_size=20), text=st.text(max_size=80))
def test_events_survive(stamp: float, name: str, text: str) -> None:
    found = layout.decode_event(layout.encode_event(stamp, name, text))
    assert abs(found[0] - stamp) < 1e-6 and found[1:] == (name, text)


@settings(max_examples=40, deadline=None)
@given(stamp=stamps, frame=st.text(max_size=20), jpeg=st.binary(max_size=200))
def test_pictures_survive(stamp: float, frame: str, jpeg: bytes) -> None:
    found, data = layout.decode_image(layout.encode_image(stamp, frame, jpeg))
    assert abs(found - stamp) < 1e-6 and bytes(data) == jpeg


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 60))
def test_a_cut_message_is_refused(cut: int) -> None:
    whole = layout.encode_image(1.5, "front", b"x" * 20)
    if cut < len(whole):
        with pytest.raises(EpisodeError):
            layout.decode_image(whole[:cut])


def test_messages_lie_as_cdr_wants_them() -> None:
    """Eight-byte numbers start at a multiple of eight, counted behind the encapsulation."""
    for message in layout.FIXED_MESSAGES:
        for name, (kind, offset, *_) in (message.dtype.fields or {}).items():
            if kind.base == np.dtype("<f8"):
                assert (offset - 4) % 8 == 0, (message.name, name)


def test_header_and_outcome_survive_as_json() -> None:
    assert EpisodeHeader.from_json(header().to_json()).instruction == header().instruction
    assert Outcome.from_json(outcome().to_json()) == outcome()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"instruction": " "}, "instruction is empty"),
        ({"colour": "red"}, "colour"),
        ({"state_rate": 0.0}, "rates must be positive"),
    ],
)
def test_a_wrong_header_is_refused(change: dict[str, object], message: str) -> None:
    document = json.loads(header().to_json()) | change
    with pytest.raises(EpisodeError, match=message):
        EpisodeHeader.from_json(json.dumps(document))


def test_unknown_labels_are_refused() -> None:
    with pytest.raises(EpisodeError, match="'fine' is none of success"):
        outcome("fine")


def test_camera_topics_are_told_from_others() -> None:
    assert layout.camera_of_topic(layout.camera_topic("wrist")) == "wrist"
    assert layout.camera_of_topic("/robot_state") is None
