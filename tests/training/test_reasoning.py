"""The rule reward, the filters and the distillation of the reasoning dataset."""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import chat_server, completion
from example_scene import write_scenes
from hypothesis import given
from hypothesis import strategies as st

from training.jsonl_record import Record, RecordError
from training.multiple_choice import Mcq, read_questions, write_questions
from training.reasoning import (
    DistillationConfig,
    Rules,
    distill,
    main,
    mcq_reward,
    rule_fault,
    select,
)
from training.samples import REASONING_SYSTEM, messages
from training.sources import reasoning as source
from training.teacher import TeacherError, TeacherRefused
from training.vqa import from_truth, generate

THOUGHT = "The cup stands on the near side of the table, and the bowl is further to its right."
RULES = Rules()
letters = st.sampled_from(string.ascii_uppercase)
plain = st.text(st.characters(exclude_characters="<>"), min_size=1).filter(str.strip)


def response(thought: str, letter: str) -> str:
    return f"<think>{thought}</think><answer>{letter}</answer>"


@given(thought=plain, said=letters, right=letters)
def test_the_reward_is_half_for_the_form_and_half_for_the_letter(
    thought: str, said: str, right: str
) -> None:
    assert mcq_reward(response(thought, said), right) == 0.5 + 0.5 * (said == right)
    assert mcq_reward(f"<answer>{said}</answer>", right) == 0.5 * (said == right)


@given(thought=plain, letter=letters, extra=plain)
def test_anything_outside_the_tags_costs_the_form(thought: str, letter: str, extra: str) -> None:
    good = response(thought, letter)
    for spoilt in (
        extra + good,
        good + extra,
        f"<think>{thought}</think>{extra}<answer>{letter}</answer>",
    ):
        assert mcq_reward(spoilt, letter) == 0.5
        assert rule_fault(spoilt, RULES) == "format"


@pytest.mark.parametrize(
    ("completion_text", "reward"),
    [
        ("", 0.0),
        ("B", 0.0),
        ("<think></think><answer>B</answer>", 0.5),
        ("<think> \n</think><answer>B</answer>", 0.5),
        ("<think>so</think>\n<answer> B </answer>\n", 1.0),
        ("<think>so</think><answer>(B)</answer>", 0.5),
        ("<think>so</think><answer>b</answer>", 0.0),
        ("<think>so</think><answer>B or C</answer>", 0.0),
        ("<think>so</think><answer>A</answer><answer>B</answer>", 0.0),
        ("<think>so</think><answer>B</answer><answer>B</answer>", 0.0),
        ("<think>so<think></think><answer>B</answer>", 0.5),
        ("<think>so</think><answer>B", 0.0),
        ("<think>so</think><answer>A</answer>", 0.5),
    ],
)
def test_the_reward_of_other_forms(completion_text: str, reward: float) -> None:
    assert mcq_reward(completion_text, "B") == reward


@pytest.mark.parametrize("answer", ["", "b", "AB", "1", "(B)"])
def test_the_right_answer_is_one_letter(answer: str) -> None:
    with pytest.raises(ValueError, match="one letter"):
        mcq_reward("", answer)


@pytest.mark.parametrize(
    ("reason", "thought"),
    [
        (None, THOUGHT),
        (None, "A cup is here and I think that it stands to the left of the bowl."),
        (None, "The right choice depends on where the cup stands: I see it on the left."),
        ("too_short", "It is left."),
        ("too_long", " ".join(f"word{i}" for i in range(401))),
        ("repetition", "The cup is on the left side. " * 6),
        ("answer_leak", f"{THOUGHT} So the answer is A"),
        ("answer_leak", f"{THOUGHT} So the answer is (A)."),
        ("answer_leak", f"{THOUGHT} So it must be B."),
        ("answer_leak", f"{THOUGHT} Option A fits."),
        ("answer_leak", f"{THOUGHT} A is right."),
        ("answer_leak", f"{THOUGHT} This is \\boxed{{left}}."),
        ("answer_leak", f"{THOUGHT} The second choice says so."),
        ("answer_leak", f"Let us see.\nA: left.\n{THOUGHT}"),
    ],
)
def test_thoughts_are_filtered_by_rule(reason: str | None, thought: str) -> None:
    assert rule_fault(response(thought, "A"), RULES) == reason


QUESTION = Mcq("s#1", (), "Where is the cup?", ("left", "right", "above"), 1)


def test_selection_counts_each_filter_and_the_letter_follows_the_choices() -> None:
    other, third = f"Look: {THOUGHT}", f"Now: {THOUGHT}"
    responses = [
        response(THOUGHT, "B"),
        response(THOUGHT, "B"),
        response(other, "A"),
        "no form",
        response("short", "B"),
        response(f"{THOUGHT} So B.", "B"),
        response(other, "B"),
        response(third, "B"),
    ]
    chosen, counts = select(QUESTION, responses, DistillationConfig(keep=2, variations=3))
    assert counts == {
        "sampled": 8,
        "rules_passed": 5,
        "correct": 4,
        "kept": 2,
        "variations": 6,
        "refused_format": 1,
        "refused_too_short": 1,
        "refused_answer_leak": 1,
        "refused_wrong_answer": 1,
        "refused_duplicate": 1,
        "refused_surplus": 1,
    }
    assert [thought for _, thought in chosen[:2]] == [THOUGHT, other]
    assert len(chosen) == 8
    assert all(mcq.choices[mcq.answer] == "right" for mcq, _ in chosen)
    assert len({mcq.letter for mcq, _ in chosen}) > 1


@pytest.fixture
def questions(tmp_path: Path, capsys: Any) -> Path:
    folder = tmp_path / "lab"
    folder.mkdir()
    scenes, vqa, out = write_scenes(folder), folder / "vqa.jsonl", folder / "mcq.jsonl"
    generate(scenes, vqa, from_truth, settings={})
    main(["questions", "--vqa", str(vqa), "--metadata", str(scenes), "--out", str(out)])
    assert json.loads(capsys.readouterr().out)["questions"] == len(out.read_text().splitlines())
    return out


class Killed(Exception):
    pass


def answering(mcq: Mcq, count: int) -> Sequence[str]:
    wrong = "A" if mcq.letter != "A" else "B"
    good = [response(f"{i} {THOUGHT}", mcq.letter) for i in range(count - 1)]
    return [*good, response(THOUGHT, wrong)]


def test_the_dataset_is_read_as_samples_and_goes_on_after_a_kill(
    questions: Path, tmp_path: Path
) -> None:
    mcqs = list(read_questions(questions))
    config = DistillationConfig(samples=4, keep=2, variations=1)
    out, undisturbed = tmp_path / "reasoning.jsonl", tmp_path / "undisturbed"
    whole = distill(mcqs, undisturbed, answering, config, settings={})
    assert whole.counts["sampled"] == 4 * len(mcqs)
    assert whole.counts["correct"] == 3 * len(mcqs)
    assert whole.lines == 4 * len(mcqs)

    def dies(mcq: Mcq, count: int) -> Sequence[str]:
        if mcq.name == mcqs[5].name:
            raise Killed
        return answering(mcq, count)

    with pytest.raises(Killed):
        distill(mcqs, out, dies, config, settings={})
    out.write_bytes(out.read_bytes()[:-30])
    distill(mcqs, out, answering, config, settings={})
    assert out.read_bytes() == undisturbed.read_bytes()
    with pytest.raises(RecordError, match="was begun with"):
        distill(mcqs, out, answering, DistillationConfig(samples=5), settings={})
    samples = list(source.read(tmp_path))
    assert len(samples) == whole.lines
    names = [json.loads(line)["name"] for line in out.read_text().splitlines()]
    right = {mcq.name: mcq.choices[mcq.answer] for mcq in mcqs}
    for name, sample in zip(names, samples, strict=True):
        assert sample.system == REASONING_SYSTEM == messages(sample)[0]["content"][0]["text"]
        assert all(picture.shape == (8, 8, 3) for picture in sample.pictures)
        letter = sample.answer[-len("X</answer>")]
        assert mcq_reward(sample.answer, letter) == 1.0
        assert f"({letter}) {right[name.rpartition('#')[0]]}\n" in sample.question + "\n"


def test_distilling_from_an_endpoint(questions: Path, tmp_path: Path, capsys: Any) -> None:
    first = list(read_questions(questions))[:3]
    write_questions(first, questions)
    out = tmp_path / "reasoning.jsonl"
    replies = [response(f"{i} {THOUGHT}", "ABCD"[i % 4]) for i in range(4)]
    with chat_server(lambda _, i: completion(replies[i % 4], 1_000_000, 0)) as chat:
        options = ["--teacher", chat.url, "--model", "m", "--price-in", "2", "--samples", "4"]
        main(["distill", "--questions", str(questions), "--out", str(out), *options])
    report = json.loads(capsys.readouterr().out)
    assert report["usage"]["cost"] == pytest.approx(24.0)
    assert report["counts"]["sampled"] == 12
    assert report["counts"]["kept"] == 3
    assert len(source.read(tmp_path)) == report["lines"] == 6
    asked = chat.bodies[0]["messages"]
    assert asked[0] == {"role": "system", "content": REASONING_SYSTEM}
    assert asked[1]["content"][-1]["text"] == first[0].prompt


def test_refusals_are_counted_and_many_in_a_row_stop_the_run(tmp_path: Path) -> None:
    mcqs = [Mcq(f"s#{i}", (), "Which?", ("a", "b"), 0) for i in range(8)]

    def sometimes(mcq: Mcq, count: int) -> Sequence[str]:
        if mcq.name in ("s#1", "s#2"):
            raise TeacherRefused("no")
        return answering(mcq, count)

    def never(mcq: Mcq, count: int) -> Sequence[str]:
        raise TeacherRefused("no")

    config = DistillationConfig()
    record: Record = distill(mcqs, tmp_path / "a", sometimes, config, settings={})
    assert record.counts["teacher_refused"] == 2
    with pytest.raises(TeacherError, match="refused"):
        distill(mcqs, tmp_path / "b", never, config, settings={})


def test_damaged_files_are_named_by_line(questions: Path, tmp_path: Path) -> None:
    text = questions.read_text().splitlines()
    questions.write_text("\n".join([text[0], text[1][:40]]))
    with pytest.raises(ValueError, match=r"mcq.jsonl:2: .*write it anew"):
        list(read_questions(questions))
    vqa = tmp_path / "v.jsonl"
    vqa.write_text('{"name": "a#0"}\n')
    with pytest.raises(SystemExit, match=r"v.jsonl:1: lacks answer, category"):
        main(["questions", "--vqa", str(vqa), "--out", str(tmp_path / "q.jsonl")])
