"""Quality: each defect is found, named and weighed; good data pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from made_episodes import calibration, header, image_at, make_dataset, outcome, pose_at

from contracts import episode as layout
from contracts.calibration import Calibration
from contracts.robot import FR3
from contracts.task import get_task
from teleop import jpeg
from teleop.dataset import DemonstrationDataset
from teleop.qa import check, main
from teleop.quality import checks
from teleop.quality.checks import ERROR, WARNING, Limits, robust_distance
from teleop.quality.codec import action_range, codec_error
from teleop.quality.measures import motion
from teleop.quality.pictures import project
from teleop.quality.trim import MARGIN, trim
from teleop.recorder import EpisodeWriter, calibration_document

PERIOD = 0.02


def unsteady(time: float) -> float:
    """Time on the line: faster and slower, so that pictures and motion can be compared."""
    return time + 0.25 * np.sin(4 * time)


def grip(time: float) -> float:
    return float(not 0.8 <= time < 2.0)


@dataclass(frozen=True)
class Recipe:
    """How an episode is made; the defaults have no defect."""

    seconds: float = 3.0
    along: Callable[[float], float] = unsteady
    gripper: Callable[[float], float] = grip
    jump_at: float = np.inf
    lost_pictures: tuple[int, ...] = ()
    repeated_picture: int = -1
    front_until: float = np.inf
    stamps_late: float = 0.0
    receipt: Callable[[float], float] = float
    label: str = "success"
    image: Callable[[str, float], np.ndarray] = image_at
    start: tuple[float, float] = (0.45, 0.1)


def make(dataset: Path, number: int, recipe: Recipe = Recipe()) -> None:
    """Write an episode as `recipe` says."""
    r = recipe
    dataset.mkdir(exist_ok=True)
    task, obj = "box_to_bowl", "cup"
    start = {"objects": {obj: (*r.start, 0.02, 0.0)}, "containers": {"bowl": (0.5, -0.1, 0.0, 0.0)}}
    text = get_task(task).instruction(obj)
    head = header(number, task=task, object=obj, instruction=text, start=start)
    with EpisodeWriter(dataset, head, calibration_document(made_calibration())) as writer:
        for i in range(round(r.seconds / PERIOD) + 1):
            now = i * PERIOD
            pose = pose_at(r.along(now)) + (np.eye(7)[1] * 0.2 if now >= r.jump_at else 0.0)
            writer.state_row(now, pose, FR3.home_joints, np.zeros(7), r.gripper(now))
            writer.command(now, pose, r.gripper(now), received=r.receipt(now))
            writer.filtered(now, pose, FR3.home_joints, r.gripper(now), limited=False)
            if i % 5 == 0 and i // 5 not in r.lost_pictures:
                for camera in head.cameras:
                    if now + r.stamps_late < 0.0 or (camera == "front" and now > r.front_until):
                        continue
                    shown = (i - 5) * PERIOD if i // 5 == r.repeated_picture else now
                    picture = jpeg.encode(r.image(camera, r.along(shown)))
                    writer.picture(camera, now + r.stamps_late, picture)
        writer.commit(outcome(r.label))


def made_calibration() -> Calibration:
    """A front camera 0.7 m above the table, looking down."""
    return calibration()


def problems(dataset: Path) -> set[tuple[str, str]]:
    _, _, found, _ = check(dataset, Limits(), lambda: None)
    # The made pictures show no object, and one start is no coverage.
    return {(f.check, f.severity) for f in found if f.check not in ("label", "coverage")}


def test_good_episodes_have_no_finding(tmp_path: Path) -> None:
    for number in range(2):
        make(tmp_path, number)
    assert problems(tmp_path) == set()


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (Recipe(along=lambda t: unsteady(min(t, 1.0))), ("idle", ERROR)),
        (Recipe(along=lambda t: unsteady(min(t, 2.0))), ("idle", WARNING)),
        (Recipe(jump_at=1.5), ("jump", ERROR)),
        (Recipe(gripper=lambda t: float(round(t * 5) % 2)), ("gripper", ERROR)),
        (Recipe(gripper=lambda t: float(int(t / 0.42) % 2)), ("gripper", WARNING)),
        (Recipe(lost_pictures=(7,)), ("dropped", ERROR)),
        (Recipe(repeated_picture=4), ("repeated", WARNING)),
        (Recipe(front_until=1.5), ("short", ERROR)),
        (Recipe(front_until=-1.0), ("missing", ERROR)),
        (Recipe(stamps_late=0.2), ("clock", ERROR)),
        (Recipe(stamps_late=-0.1), ("clock", WARNING)),
        (Recipe(receipt=lambda t: t + 0.3), ("clock", ERROR)),
        (Recipe(receipt=lambda t: 1.05 * t), ("clock", WARNING)),
    ],
)
def test_each_defect_is_found(tmp_path: Path, recipe: Recipe, problem: tuple[str, str]) -> None:
    make(tmp_path, 0, recipe)
    assert problem in problems(tmp_path)


def test_a_calibration_of_other_cameras_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> Calibration:
        right = calibration()
        front = replace(right.cameras["front"], width=640, height=480, cx=320.0, cy=240.0)
        return replace(right, cameras={"front": front})

    monkeypatch.setitem(make.__globals__, "made_calibration", wrong)
    make(tmp_path, 0)
    _, _, found, _ = check(tmp_path, Limits(), lambda: None)
    texts = [f.text for f in found if f.check == "calibration" and f.severity == ERROR]
    assert texts == [
        "front is calibrated for 640x480 pixels, its pictures have 48x48",
        "wrist is not in the calibration",
    ]


def with_object(at: tuple[float, float]) -> Callable[[str, float], np.ndarray]:
    """A still table on which the object moves from its start to `at` halfway."""
    camera = made_calibration().cameras["front"]

    def draw(name: str, time: float) -> np.ndarray:
        image = image_at(name, time)
        if name != "front":
            return image
        image[8:] = 90
        x, y = (0.45, 0.1) if time < 1.5 else at
        u, v, _ = project(camera, np.array([x, y, 0.02]))
        rows = slice(max(round(v) - 2, 0), round(v) + 3)
        image[rows, max(round(u) - 2, 0) : round(u) + 3] = (200, 20, 20)
        return image

    return draw


@pytest.mark.parametrize(
    ("label", "at", "expected"),
    [
        ("success", (0.5, -0.1), set()),
        ("success", (0.45, 0.1), {ERROR}),
        ("success", (0.6, 0.2), {ERROR}),
        ("failure", (0.5, -0.1), {WARNING}),
        ("failure", (0.45, 0.1), set()),
    ],
)
def test_the_label_is_held_against_the_last_picture(
    tmp_path: Path, label: str, at: tuple[float, float], expected: set[str]
) -> None:
    make(tmp_path, 0, Recipe(label=label, image=with_object(at)))
    _, _, found, _ = check(tmp_path, Limits(), lambda: None)
    assert {f.severity for f in found if f.check == "label"} == expected


def test_an_outlier_is_told_from_the_others(tmp_path: Path) -> None:
    for number in range(9):
        make(tmp_path, number, Recipe(seconds=2.0 + 0.05 * number if number != 4 else 8.0))
    _, _, found, _ = check(tmp_path, Limits(), lambda: None)
    assert {f.episode for f in found if f.check == "outlier"} == {4}
    assert any("duration 8.00" in f.text for f in found)


def test_starts_on_one_spot_are_named(tmp_path: Path) -> None:
    for number in range(4):
        make(tmp_path, number, Recipe(seconds=0.6))
    _, _, found, _ = check(tmp_path, Limits(), lambda: None)
    assert any(f.check == "coverage" and "4 episodes start in 1 of" in f.text for f in found)
    for number in range(4, 16):
        place = (0.39 + 0.07 * (number % 3), -0.2 + 0.1 * (number // 3 - 1))
        make(tmp_path, number, Recipe(seconds=0.6, start=place))
    _, _, found, _ = check(tmp_path, Limits(), lambda: None)
    assert not any(f.check == "coverage" for f in found)


def test_a_spread_of_nothing_makes_no_outlier() -> None:
    assert robust_distance(np.full(10, 3.0), 0.5).max() == 0.0
    assert robust_distance(np.array([1.0, 1.0, 1.0, 9.0]), 0.5)[3] == 16.0


def test_the_codec_loses_less_where_the_motion_is_smooth() -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 16)[None, :, None] * rng.uniform(-0.1, 0.1, (200, 1, 7))
    rough = ramp + rng.uniform(-0.1, 0.1, ramp.shape)
    ranges = action_range(rough.reshape(-1, 7))
    smooth_error, rough_error = codec_error(ramp, ranges), codec_error(rough, ranges)
    assert 0.0 < smooth_error.position_mm < rough_error.position_mm
    # Rounding leaves at most half a step in each coefficient.
    bound = 1000 * 0.5 / checks.HORIZON**0.5 * np.ptp(rough) * 3**0.5
    assert rough_error.position_mm < bound


def test_trimming_cuts_rest_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make(source, 0, Recipe(seconds=4.0, along=lambda t: unsteady(min(max(t - 1.0, 0.0), 1.5))))
    before = (source / "episodes/000000.mcap").read_bytes()
    dataset = DemonstrationDataset(source)
    cut = trim(dataset, tmp_path / "out", lambda _: None)
    (old,), (new,) = dataset, DemonstrationDataset(tmp_path / "out")
    # The gripper closes at 0.8 s and is back at 2.0 s; the arm rests from 2.5 s on.
    first, last = new.state_times[0], new.state_times[-1]
    assert first == pytest.approx(0.78 - MARGIN) and last == pytest.approx(2.5 + MARGIN)
    assert cut == pytest.approx(4.0 - (last - first))
    inside = (old.state_times > first - 1e-6) & (old.state_times < last + 1e-6)
    assert np.array_equal(new.states["pose"], old.states["pose"][inside])
    assert np.array_equal(new.image("wrist", 1.5), old.image("wrist", 1.5))
    assert np.array_equal(new.image("wrist", first), old.image("wrist", first))
    assert new.header == old.header and motion(new, 1.0).idle_end <= MARGIN + 1e-6
    assert (source / "episodes/000000.mcap").read_bytes() == before


def test_the_command_writes_page_and_numbers_and_its_code_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    make(good, 0, Recipe(image=with_object((0.5, -0.1))))
    make(bad, 0, Recipe(image=with_object((0.5, -0.1))))
    make(bad, 1, Recipe(jump_at=1.0, image=with_object((0.5, -0.1))))
    assert main([str(good), "--json", "--trim-idle"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert (tmp_path / "good-trimmed/episodes/000000.mcap").exists()
    assert main([str(bad)]) == 1
    assert "jump: episode 1: the command jumps by 2" in capsys.readouterr().err
    numbers = json.loads((bad / "quality.json").read_text())
    assert numbers["errors"] == 2 and len(numbers["per_episode"]) == 2
    page = (bad / "quality.html").read_text()
    assert page.count("data:image/jpeg") == 4 and "the measured pose jumps" in page
    assert "http://" not in page and "https://" not in page
    assert main([str(good), "--trim-idle"]) == 1
    assert "nothing is overwritten" in capsys.readouterr().err


def test_damaged_and_missing_data_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "demos", episodes=2)
    path = dataset / layout.EPISODES / "000001.mcap"
    path.write_bytes(path.read_bytes()[:5000])
    assert main([str(dataset)]) == 1
    assert "damaged:" in (error := capsys.readouterr().err) and "000001.mcap" in error
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "no data set" in capsys.readouterr().err
