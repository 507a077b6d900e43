"""Collection: an even plan, progress that survives crashes, one collector, the last taken back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_episodes import calibration, header, outcome, write_moments

from contracts.episode import Outcome
from contracts.task import OBJECTS, TASKS
from teleop import plan
from teleop.collect import MOST_TRIES, collect
from teleop.collection import Collection, CollectionError
from teleop.dataset import DemonstrationDataset
from teleop.lock import DatasetBusy
from teleop.recorder import EpisodeWriter

SEED = 5


class MadeBackend:
    """Performs a fraction of a second and ends as it is told."""

    name, robot = "made", "none"
    cameras = ("front", "wrist")
    state_rate, camera_rate = 50.0, 10.0
    device = SimpleNamespace(name="ruler")

    def __init__(self, labels: list[str] | None = None) -> None:
        self.labels = labels or []
        self.starts: list[Any] = []

    def home(self, placement: Any) -> Any:
        self.starts.append(placement)
        return calibration()

    def perform(self, writer: EpisodeWriter) -> Outcome:
        write_moments(writer, 0.1)
        label = self.labels.pop(0) if self.labels else "success"
        if label == "interrupt":
            raise KeyboardInterrupt
        return outcome(label)


def run(directory: Path, target: int, backend: MadeBackend, tasks: list[str]) -> list[str]:
    with Collection(directory, SEED) as collection:
        return [o.label for o in collect(collection, backend, tasks, target, "anna")]


def test_objects_and_starts_are_covered_evenly() -> None:
    for task in TASKS:
        wanted = list(plan.slots(task, 60, SEED))
        assert Counter(slot.object for slot in wanted) == dict.fromkeys(OBJECTS, 15)
        pairs = Counter((slot.object, slot.cell) for slot in wanted)
        assert len(pairs) == 4 * plan.CELLS and set(pairs.values()) == {1}


def test_a_larger_target_only_adds() -> None:
    assert list(plan.slots("box_to_bowl", 60, SEED))[:20] == list(
        plan.slots("box_to_bowl", 20, SEED)
    )
    assert list(plan.slots("box_to_bowl", 8, SEED)) != list(plan.slots("box_to_bowl", 8, SEED + 1))


def test_every_try_starts_in_the_wanted_cell_and_elsewhere_in_it() -> None:
    for slot in plan.slots("plate_to_basket", 5, SEED):
        starts = [plan.placement(slot, attempt, SEED) for attempt in range(2)]
        assert [plan.cell_of(start) for start in starts] == [slot.cell] * 2
        assert starts[0].seed != starts[1].seed
        assert {start.object for start in starts} == {slot.object}


def test_collected_is_what_was_planned(tmp_path: Path) -> None:
    backend = MadeBackend()
    assert run(tmp_path, 5, backend, ["box_to_bowl", "box_to_plate"]) == ["success"] * 10
    headers = DemonstrationDataset(tmp_path).headers
    assert [h.number for h in headers] == list(range(10))
    assert [(h.task, h.slot) for h in headers] == [
        (task, i) for task in ("box_to_bowl", "box_to_plate") for i in range(5)
    ]
    for head, start in zip(headers, backend.starts, strict=True):
        at = start.objects[head.object]
        assert head.start["objects"][head.object] == (at.x, at.y, at.z, at.yaw)
        assert head.operator == "anna" and head.software["numpy"]


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 4, MadeBackend(["success", "interrupt"]), ["box_to_bowl"])
    backend = MadeBackend()
    assert run(tmp_path, 4, backend, ["box_to_bowl"]) == ["success"] * 3
    assert [h.slot for h in DemonstrationDataset(tmp_path).headers] == [0, 1, 2, 3]
    assert run(tmp_path, 4, backend, ["box_to_bowl"]) == []
    assert run(tmp_path, 5, backend, ["box_to_bowl"]) == ["success"]


def test_what_a_crash_left_is_recovered_when_it_goes_on(tmp_path: Path) -> None:
    run(tmp_path, 1, MadeBackend(), ["box_to_bowl"])
    with EpisodeWriter(tmp_path, header(1)) as writer:
        write_moments(writer, 3.0)
    with Collection(tmp_path, SEED) as collection:
        assert [r.part for r in collection.recovered] == ["000001.mcap.part"]
        assert collection.next_number() == 2
        assert len(collection.episodes) == 1
    assert (tmp_path / "recovered/000001.mcap").exists()


def test_a_failure_is_kept_and_its_slot_tried_from_another_start(tmp_path: Path) -> None:
    backend = MadeBackend(["success", "failure", "discard", "success"])
    labels = run(tmp_path, 2, backend, ["box_to_bowl"])
    assert labels == ["success", "failure", "discard", "success"]
    first, again, after = backend.starts[1:]
    assert first.seed != again.seed == after.seed
    assert plan.cell_of(first) == plan.cell_of(again)
    data = DemonstrationDataset(tmp_path, labels=("success", "failure"))
    assert [(h.number, h.slot, h.attempt) for h in data.headers] == [
        (0, 0, 0),
        (1, 1, 0),
        (3, 1, 1),
    ]


def test_failing_again_and_again_ends_it(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=f"{MOST_TRIES} tries and no success"):
        run(tmp_path, 1, MadeBackend(["failure"] * 9), ["box_to_bowl"])


def test_the_last_can_be_taken_back_and_is_not_lost(tmp_path: Path) -> None:
    run(tmp_path, 3, MadeBackend(), ["box_to_bowl"])
    with Collection(tmp_path, SEED) as collection:
        assert collection.undo_last().header.number == 2
        assert collection.undo_last().header.number == 1
        assert collection.next_slot(["box_to_bowl"], 3) == (
            list(plan.slots("box_to_bowl", 3, SEED))[1],
            0,
        )
    assert sorted(p.name for p in (tmp_path / "set_aside").iterdir()) == [
        "000001.mcap",
        "000002.mcap",
    ]
    run(tmp_path, 3, MadeBackend(), ["box_to_bowl"])
    assert [h.number for h in DemonstrationDataset(tmp_path).headers] == [0, 3, 4]
    with Collection(tmp_path, SEED) as collection:
        for _ in range(3):
            collection.undo_last()
        with pytest.raises(CollectionError, match="no episode to undo"):
            collection.undo_last()


def test_progress_counts_each_object(tmp_path: Path) -> None:
    run(tmp_path, 3, MadeBackend(), ["box_to_bowl"])
    with Collection(tmp_path, SEED) as collection:
        progress = collection.progress(["box_to_bowl"], 8)["box_to_bowl"]
    assert progress == {"teddy bear": (1, 2), "box": (1, 2), "cup": (1, 2), "sponge": (0, 2)}


def test_a_second_collector_is_refused(tmp_path: Path) -> None:
    with Collection(tmp_path, SEED), pytest.raises(DatasetBusy, match="another collector"):
        Collection(tmp_path, SEED)
    Collection(tmp_path, SEED).close()


def test_foreign_directories_and_seeds_are_refused(tmp_path: Path) -> None:
    Collection(tmp_path / "own", SEED).close()
    with pytest.raises(CollectionError, match="was begun with seed 5, not 6; use --seed 5"):
        Collection(tmp_path / "own", 6)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    with pytest.raises(CollectionError, match=r"holds thesis\.tex"):
        Collection(tmp_path / "other", SEED)
    (tmp_path / "file").touch()
    with pytest.raises(CollectionError, match="choose another --out"):
        Collection(tmp_path / "file", SEED)


def test_a_nearly_full_disk_is_said_before_an_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=50 * 2**20))
    with pytest.raises(CollectionError, match="50 MB free"):
        run(tmp_path, 1, MadeBackend(), ["box_to_bowl"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "fly"], "unknown task 'fly'; known tasks"),
        (["--task", "all", "--target", "0"], "must be 1..120"),
        (["--task", "all", "--image-size", "9"], "--image-size must be"),
        (["--task", "all", "--undo"], "no episode to undo"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from teleop.collect import main

    assert main([*arguments, "--out", str(tmp_path / "demos")]) == 1
    assert message in (error := capsys.readouterr().err)
    assert len(error.strip().splitlines()) == 1


def test_the_command_collects_in_the_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from teleop.collect import main

    out = tmp_path / "demos"
    arguments = ["--task", "box_to_bowl", "--target", "1", "--out", str(out), "--json"]
    assert main([*arguments, "--image-size", "32", "--disturbed", "1.0"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["episodes"] == last["success"] == 1
    (episode,) = DemonstrationDataset(out)
    assert episode.outcome.labelled_by == "scorer"
    assert len(episode.scene) == len(episode.pictures("front"))
    phases = [text for _, name, text in episode.events if name == "phase"]
    assert phases[0] == "reach" and phases[-1] == "hold"
    # Noise is on what was executed, not on what was asked for.
    asked = episode.commands["pose"][4::5, :3]
    followed = episode.filtered["pose"][4::5, :3]
    assert 0.002 < abs(asked - followed).max() < 0.1
    capsys.readouterr()
    assert main([*arguments, "--undo"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 0
