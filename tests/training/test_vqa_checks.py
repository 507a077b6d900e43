"""Each check passes a good pair and refuses a spoilt one."""

import json
from collections import Counter
from typing import Any

import pytest
from example_scene import GOOD, scene

from training.vqa_checks import checked_pairs, named

VOCABULARY = frozenset({"cup", "left drawer", "bowl", "drawer"})


def judge(category: str, /, **changes: Any) -> str:
    """The reason why the good pair of a category is refused after these changes, or "good"."""
    pair = {"category": category, **GOOD[category], **changes}
    reply = json.dumps({"pairs": [{k: v for k, v in pair.items() if v is not None}]})
    good, refused = checked_pairs(reply, scene(), VOCABULARY)
    assert len(good) + refused.total() == 1
    return next(iter(refused), "good")


@pytest.mark.parametrize("category", GOOD)
def test_good_pairs_pass(category: str) -> None:
    assert judge(category) == "good"


@pytest.mark.parametrize(
    ("reason", "category", "changes"),
    [
        ("schema", "box", {"comment": "an extra field"}),
        ("schema", "box", {"box": None}),
        ("schema", "box", {"box": [0.1, 0.1, 0.3]}),
        ("schema", "box", {"box": [10, 10, 30, 30]}),
        ("schema", "box", {"box": ["0.1", 0.1, 0.3, 0.3]}),
        ("schema", "state", {"state": [float("nan"), 0, 0.2, 3.14, 0, 0, 1]}),
        ("schema", "move", {"direction": "sideways"}),
        ("schema", "move", {"category": "dance"}),
        ("schema", "task", {"question": "  "}),
        ("unknown_camera", "box", {"camera": "side"}),
        ("unknown_object", "box", {"object": "bowl", "question": "Where is the bowl?"}),
        ("unknown_object", "caption", {"objects": ["cup", "bowl"], "answer": "A cup and a bowl."}),
        ("unknown_object", "caption", {"answer": "The cup, the left drawer and a bowl."}),
        ("unknown_object", "move", {"question": "Does the bowl matter?"}),
        ("not_in_picture", "relation", {"camera": "wrist"}),
        ("question_disagrees", "box", {"question": "Where is the left drawer?"}),
        ("question_disagrees", "point", {"question": "Point at the cupboard."}),
        ("box_iou", "box", {"box": [0.2, 0.1, 0.4, 0.3]}),
        ("box_iou", "box", {"box": [0.3, 0.3, 0.1, 0.1]}),
        ("point_outside", "point", {"point": [0.31, 0.2]}),
        ("point_outside", "point", {"camera": "wrist"}),
        (
            "wrong_relation",
            "relation",
            {"relation": "right of", "answer": "The cup is right of the left drawer."},
        ),
        # The centres lie nearly on one height.
        (
            "wrong_relation",
            "relation",
            {"relation": "above", "answer": "The cup is above the left drawer."},
        ),
        ("answer_disagrees", "relation", {"answer": "The cup is right of the left drawer."}),
        ("answer_disagrees", "relation", {"answer": "The cup is at the left drawer."}),
        ("wrong_direction", "move", {"direction": "up", "answer": "The hand moves up."}),
        ("wrong_direction", "move", {"direction": "stay", "answer": "The hand stays."}),
        ("answer_disagrees", "move", {"answer": "The hand moves up, not down."}),
        ("answer_disagrees", "move", {"answer": "The hand goes on."}),
        ("wrong_gripper", "gripper", {"change": "open", "answer": "The gripper opens."}),
        ("answer_disagrees", "gripper", {"answer": "The gripper opens."}),
        ("wrong_state", "state", {"state": [0.41, 0.0, 0.2, 3.14, 0.0, -3.13, 1.0]}),
        ("wrong_state", "state", {"state": [0.4, 0.0, 0.2, 3.14, 0.1, -3.13, 1.0]}),
        ("wrong_state", "state", {"state": [0.4, 0.0, 0.2, 3.14, 0.0, -3.13, 0.8]}),
        ("wrong_state", "state", {"state": [0.4, 0.0, 0.2, 3.14, 0.0, 9.0, 1.0]}),
        ("wrong_task", "task", {"answer": "Wipe the table."}),
        ("answer_disagrees", "caption", {"answer": "A cup stands here."}),
    ],
)
def test_spoilt_pairs_are_refused_for_their_reason(
    reason: str, category: str, changes: dict[str, Any]
) -> None:
    assert judge(category, **changes) == reason


@pytest.mark.parametrize(
    "reply",
    ["", "Sure! Here are", "[]", "{}", '{"pairs": {}}', '{"pairs": 1}', "null", "[" * 100_000],
)
def test_a_reply_that_is_no_json_object_with_pairs_is_refused_whole(reply: str) -> None:
    assert checked_pairs(reply, scene()) == ([], Counter({"not_json": 1}))


def test_one_bad_pair_does_not_take_the_others_with_it_and_none_comes_twice() -> None:
    pair = {"category": "box", **GOOD["box"]}
    again = {**pair, "box": [0.1, 0.1, 0.3, 0.3], "question": "where is the CUP? "}
    other = {**pair, "camera": "wrist", "box": [0.4, 0.4, 0.8, 0.8]}
    reply = json.dumps({"pairs": [pair, 5, again, other]})
    good, refused = checked_pairs(reply, scene())
    assert [p.cameras(scene()) for p in good] == [("front",), ("wrist",)]
    assert refused == {"schema": 1, "duplicate": 1}


def test_claims_are_read_as_whole_words() -> None:
    assert named("It moves UP.", ["up", "down"]) == {"up"}
    assert named("The cup is upright.", ["up", "down"]) == set()
    assert named("The left drawer opens", ["left of", "open"], without=["left drawer"]) == {"open"}
