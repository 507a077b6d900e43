"""The order of a mixture: the same from the same seed, each share in full, no sample twice, and a
resumed or sharded run sees what an uninterrupted one sees."""

import itertools
import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training import mixture
from training.fast_tokenizer import FastTokenizer
from training.mixture import PAPER, Mixture, Row, paper_rows, with_fast_answers
from training.rewards import action_tokens
from training.samples import Sample, SampleError
from training.sources.records import Reason, RejectedSample

PICTURE = np.zeros((2, 3, 3), np.uint8)


class Source:
    """`size` samples named `name#i`, of which those in `bad` are rejected."""

    def __init__(self, name: str, size: int, bad: tuple[int, ...] = ()) -> None:
        self.name, self.size, self.bad = name, size, bad

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        if index in self.bad:
            raise RejectedSample(f"{self.name}#{index}", Reason.BAD_PICTURE, "is cut")
        return Sample(f"{self.name}#{index}", "test", (PICTURE,), "q", "a")


def rows_of(sizes: list[int], bad: tuple[int, ...] = (), weight: float = 1.0) -> list[Row]:
    return [Row(f"r{i}", "test", weight, Source(f"r{i}", n, bad)) for i, n in enumerate(sizes)]


def names(samples: Mixture) -> list[str]:
    return [sample.name for sample in samples]


sizes = st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any)
bad_samples = st.lists(st.integers(0, 11), max_size=4, unique=True).map(tuple)
seeds = st.integers(0, 1000)


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, seed=seeds, epochs=st.integers(1, 3))
def test_every_sample_comes_once_an_epoch_in_an_order_of_the_seed(
    sizes: list[int], seed: int, epochs: int
) -> None:
    rows = rows_of(sizes)
    order = names(Mixture(rows, seed, epochs=epochs))
    assert order == names(Mixture(rows, seed, epochs=epochs))
    everything = sorted(f"r{i}#{k}" for i, size in enumerate(sizes) for k in range(size))
    total = sum(sizes)
    for epoch in range(epochs):
        assert sorted(order[epoch * total : (epoch + 1) * total]) == everything


def test_seeds_and_epochs_give_other_orders() -> None:
    rows = rows_of([40, 40])
    order = names(Mixture(rows, 1, epochs=2))
    assert order[:80] != order[80:]
    other = names(Mixture(rows, 2))
    assert order[:80] != other
    places = [[name[:2] for name in part] for part in (order[:80], order[80:], other)]
    assert places[0] != places[1] and places[0] != places[2]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 20), weight=st.floats(0.05, 3.5), seed=seeds)
def test_a_weight_gives_its_share_and_no_sample_twice_before_all_came(
    size: int, weight: float, seed: int
) -> None:
    row = Row("r", "test", weight, Source("r", size))
    if row.draws == 0:
        with pytest.raises(ValueError, match="nothing to draw"):
            Mixture([row], seed)
        return
    counts = Counter(names(Mixture([row], seed)))
    assert sum(counts.values()) == round(weight * size)
    full = [counts.get(f"r#{i}", 0) for i in range(size)]
    assert max(full) - min(full) <= 1


def test_rows_are_spread_over_the_epoch_in_proportion() -> None:
    rows = rows_of([3000, 1000])
    order = names(Mixture(rows, 0))
    for start in range(0, 4000, 1000):
        share = sum(name.startswith("r0") for name in order[start : start + 1000]) / 1000
        assert share == pytest.approx(0.75, abs=0.06)


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, seed=seeds, workers=st.integers(1, 5), bad=bad_samples)
def test_workers_divide_the_order_among_them(
    sizes: list[int], seed: int, workers: int, bad: tuple[int, ...]
) -> None:
    rows = rows_of(sizes, bad)
    whole = names(Mixture(rows, seed, epochs=2))
    parts = [
        names(Mixture(rows, seed, epochs=2, worker=i, workers=workers)) for i in range(workers)
    ]
    assert Counter(name for part in parts for name in part) == Counter(whole)
    if not bad:
        one = [names(Mixture(rows, seed, worker=i, workers=workers)) for i in range(workers)]
        taken_in_turn = [one[i % workers][i // workers] for i in range(sum(sizes))]
        assert taken_in_turn == names(Mixture(rows, seed))


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, seed=seeds, bad=bad_samples, stop=st.integers(0, 60), workers=st.integers(1, 3))
def test_a_resumed_run_equals_an_uninterrupted_one(
    sizes: list[int], seed: int, bad: tuple[int, ...], stop: int, workers: int
) -> None:
    rows = rows_of(sizes, bad)
    straight = Mixture(rows, seed, epochs=2, workers=workers)
    expected = names(straight)

    first = Mixture(rows, seed, epochs=2, workers=workers)
    before = [sample.name for sample in itertools.islice(first, stop)]
    state = json.loads(json.dumps(first.state()))

    second = Mixture.from_state(rows_of(sizes, bad), state)
    assert before + names(second) == expected
    assert _counts(second) == _counts(straight)


def _counts(samples: Mixture) -> dict[str, tuple[int, dict[str, int]]]:
    return {name: (row["used"], row["rejected"]) for name, row in samples.report().items()}


def test_iterating_again_goes_on() -> None:
    rows = rows_of([10])
    samples = Mixture(rows, 3)
    started = [next(iter(samples)).name for _ in range(4)]
    assert started + names(samples) == names(Mixture(rows, 3))
    assert names(samples) == []


def test_a_changed_mixture_does_not_resume() -> None:
    state = Mixture(rows_of([4, 5]), 0).state()
    with pytest.raises(ValueError, match=r"was \[\['r1', 5, 1.0\]\], is \[\['r1', 6, 1.0\]\]"):
        Mixture.from_state(rows_of([4, 6]), state)
    with pytest.raises(ValueError, match="mixture changed"):
        Mixture.from_state(rows_of([4, 5])[::-1], state)


def test_rejections_are_counted_and_named_and_the_run_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = (0, 2, 4, 6, 8)
    samples = Mixture(rows_of([10, 3], bad), 0, epochs=2)
    with caplog.at_level(logging.WARNING):
        assert len(names(samples)) == 2 * (5 + 1)
    report = samples.report()
    assert report["r0"]["rejected"] == {Reason.BAD_PICTURE: 10}
    assert report["r1"]["rejected"] == {Reason.BAD_PICTURE: 4}
    assert (report["r0"]["samples"], report["r0"]["used"]) == (10, 10)
    assert len(report["r0"]["examples"]) == mixture.EXAMPLES
    for message in report["r0"]["examples"]:
        assert message.startswith("r0#") and message in caplog.text
    assert len(caplog.records) == 2 * mixture.EXAMPLES


def test_empty_sources_are_passed_over_unless_all_are_empty() -> None:
    assert len(names(Mixture(rows_of([0, 3]), 0))) == 3
    with pytest.raises(ValueError, match="nothing to draw"):
        Mixture(rows_of([0, 0]), 0)
    with pytest.raises(ValueError, match="nothing to draw"):
        Mixture([], 0)
    with pytest.raises(ValueError, match="nothing to draw"):
        Mixture(rows_of([3], weight=0.0), 0)


def test_wrong_settings_are_errors() -> None:
    with pytest.raises(ValueError, match="named twice: r0"):
        Mixture([*rows_of([2]), *rows_of([3])], 0)
    for wrong in ({"worker": 2, "workers": 2}, {"worker": -1}, {"epochs": 0}):
        with pytest.raises(ValueError, match="worker"):
            Mixture(rows_of([3]), 0, **wrong)
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is no share"):
            Row("r", "test", weight, Source("r", 3))


def test_more_workers_than_samples_leave_some_with_nothing() -> None:
    rows = rows_of([2])
    parts = [names(Mixture(rows, 0, worker=i, workers=4)) for i in range(4)]
    assert sorted(map(len, parts)) == [0, 0, 1, 1]


def test_samples_in_memory_and_iterables_are_rows_too() -> None:
    samples = [Sample(f"m#{i}", "test", (PICTURE,), "q", "a") for i in range(3)]
    listed = Mixture([Row("m", "test", 1.0, samples)], 0)
    streamed = Mixture([Row("m", "test", 1.0, iter(samples))], 0)
    assert names(listed) == names(streamed)


class Ordered(Source):
    def order(self, rng: np.random.Generator) -> np.ndarray:
        return np.arange(self.size)[::-1]


def test_a_source_may_order_its_samples_itself() -> None:
    rows = [*rows_of([5]), Row("o", "test", 1.0, Ordered("o", 6))]
    order = names(Mixture(rows, 0))
    assert [name for name in order if name.startswith("o")] == [f"o#{i}" for i in range(6)][::-1]


@pytest.fixture(scope="module")
def fast() -> FastTokenizer:
    rng = np.random.default_rng(0)
    return FastTokenizer.fit(rng.normal(0, 0.02, (200, 4, 7)), vocabulary=512)


def with_chunk(chunk: np.ndarray | None) -> Sample:
    return Sample("c#0", "fast", (PICTURE,), "q", "" if chunk is not None else "text", chunk=chunk)


def test_fast_answers_hold_the_tokens_of_the_chunk(fast: FastTokenizer) -> None:
    chunk = np.random.default_rng(1).normal(0, 0.02, (4, 7))
    answered = with_fast_answers(with_chunk(chunk), fast)
    assert answered.answer.startswith("<ACTION_START><action_")
    assert answered.answer.endswith("><ACTION_END>")
    assert action_tokens(answered.answer) == fast.encode(chunk[None])[0]
    plain = with_chunk(None)
    assert with_fast_answers(plain, fast) is plain


def test_a_chunk_of_another_horizon_is_rejected_by_name(fast: FastTokenizer) -> None:
    with pytest.raises(SampleError, match=r"^c#0: chunks must be \(samples, 4, 7\)"):
        with_fast_answers(with_chunk(np.zeros((5, 7))), fast)
    rows = [Row("c", "fast", 1.0, [with_chunk(np.zeros((n, 7))) for n in (4, 5)])]
    samples = Mixture(rows, 0, finish=lambda sample: with_fast_answers(sample, fast))
    assert [sample.answer != "" for sample in samples] == [True]
    assert samples.report()["c"]["rejected"] == {mixture.OTHER_REASON: 1}


def vqa_folder(folder: Path, lines: int) -> None:
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    line = {"name": "n", "images": ["a.png"], "question": "q", "answer": "a"}
    written = [line | {"images": ["b.png"]}] + [line] * (lines - 1)
    (folder / "vqa.jsonl").write_text("\n".join(map(json.dumps, written)))


def test_the_papers_table_adds_up() -> None:
    assert len({row.name for row in PAPER}) == len(PAPER)
    questions = sum(row.samples for row in PAPER if row.category != "action")
    assert round(questions / 1e6, 2) == 1.88
    assert sum(row.samples for row in PAPER if row.category == "action") == 400_000


def test_paper_rows_name_what_is_missing_and_never_oversample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vqa_folder(tmp_path / "roboalign_vqa", 6)
    with pytest.raises(FileNotFoundError, match="lacks bridge, droid, egoplan"):
        paper_rows(tmp_path)
    with pytest.raises(ValueError, match=r"unknown rows \['nonsense'\]"):
        paper_rows(tmp_path, ["nonsense"])
    (row,) = paper_rows(tmp_path, ["roboalign_vqa"])
    assert (row.draws, row.weight, len(names(Mixture([row], 0)))) == (6, 1.0, 5)


def test_check_walks_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vqa_folder(tmp_path / "roboalign_vqa", 4)
    (tmp_path / "reasoning").mkdir()
    report = mixture.check(tmp_path)
    assert report["rows"]["roboalign_vqa"]["used"] == 3
    assert report["rows"]["roboalign_vqa"]["rejected"] == {Reason.BAD_PICTURE: 1}
    assert "roboalign_vqa/vqa.jsonl#0" in report["rows"]["roboalign_vqa"]["examples"][0]
    assert "no file of the layout" in report["rows"]["reasoning"]["error"]
    assert "droid_qa" in report["missing"] and "reasoning" not in report["missing"]
    assert json.loads(json.dumps(report)) == report
    with pytest.raises(FileNotFoundError, match="holds none of"):
        mixture.check(tmp_path / "nowhere")


def test_the_commands_print_the_table_and_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vqa_folder(tmp_path / "roboalign_vqa", 2)
    monkeypatch.setattr("sys.argv", ["mixture", "--folder", str(tmp_path), "--table"])
    mixture.main()
    printed = capsys.readouterr().out
    for row in PAPER:
        assert f"{row.samples:,}" in printed and row.name in printed
    assert printed.count(" yes ") == 1
    monkeypatch.setattr("sys.argv", ["mixture", "--folder", str(tmp_path), "--check"])
    mixture.main()
    assert json.loads(capsys.readouterr().out)["rows"]["roboalign_vqa"]["samples"] == 2
    monkeypatch.setattr("sys.argv", ["mixture", "--folder", str(tmp_path / "no"), "--check"])
    with pytest.raises(SystemExit, match="holds none of"):
        mixture.main()


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3), seed=seeds)
def test_another_row_leaves_the_order_within_the_rows_alone(sizes: list[int], seed: int) -> None:
    alone = names(Mixture(rows_of(sizes), seed))
    more = names(Mixture(rows_of([*sizes, 7]), seed))
    for i in range(len(sizes)):
        assert _of_row(alone, i) == _of_row(more, i)


def test_rows_of_one_size_have_orders_of_their_own() -> None:
    order = names(Mixture(rows_of([30, 30]), 0))
    assert _of_row(order, 0) != _of_row(order, 1)


def _of_row(order: list[str], row: int) -> list[str]:
    return [name.partition("#")[2] for name in order if name.startswith(f"r{row}#")]
