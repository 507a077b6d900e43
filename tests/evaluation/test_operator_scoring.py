"""A person's session at the terminal: answers, mistakes, interruptions, and no word about names."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from evaluation import start_pictures
from evaluation.operator_robot import OperatorRobot
from evaluation.operator_scoring import ScoringSession, ask_verdict
from evaluation.plan import PlanError, RunConfig
from evaluation.policies import PolicyChoice
from evaluation.policy_switch import PolicySwitch
from evaluation.results import load_results
from evaluation.runner import write_results
from evaluation.start_pictures import StartPictures
from evaluation.trial_log import TrialLog
from evaluation.trial_plan import prepare
from simulation.placement import sample_placement

Session = Callable[..., tuple[int, str]]


@pytest.fixture
def real(pair_config: RunConfig) -> RunConfig:
    return dataclasses.replace(
        pair_config, backend="real", trials=1, tasks=("box_to_bowl",), objects=("cup", "sponge")
    )


@pytest.fixture
def session(
    tmp_path: Path, real: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> Session:  # fmt: skip
    """Runs a session with these answers; returns how many were scored and what was shown."""
    monkeypatch.setattr(StartPictures, "draw", lambda *_: Path("start.png"))

    def run(
        *answers: str, switch: PolicySwitch | None = None, robot: OperatorRobot | None = None
    ) -> tuple[int, str]:
        screen = io.StringIO()
        console = Console(file=screen, width=120)
        left = iter(answers)

        def ask(question: str) -> str:
            screen.write(question)
            try:
                return next(left)
            except StopIteration:
                raise EOFError from None

        plan = prepare(tmp_path, real)
        with TrialLog(tmp_path, real.as_json(), plan.specs) as log:
            log.begin(plan.hash)
            scored = ScoringSession(plan, log, ask, console, switch, robot).run()
            write_results(tmp_path, real, plan, log, 1.0)
        return scored, screen.getvalue()

    return run


def test_a_session_goes_on_where_the_last_one_stopped(tmp_path: Path, session: Session) -> None:
    scored, screen = session("", "s", "", "l", "", "", "q")
    assert scored == 2
    assert "trial 1 of 4 · policy " in screen
    assert "the same command goes on" in screen
    scored, screen = session("", "s", "", "n", "w")
    assert scored == 2
    assert "trial 3 of 4" in screen
    assert "trial 2 of 4" not in screen
    results = load_results(tmp_path)
    assert results.complete
    assert not results.blind
    by_number = {r.spec.key: r for r in results.records}
    records = [by_number[trial.spec.key] for trial in results.trials]
    assert [(r.success, r.stage, r.reason) for r in records] == [
        (True, "placed", "success"), (False, "lifted", "operator"),
        (True, "placed", "success"), (False, "none", "wrong_object"),
    ]  # fmt: skip


def test_no_name_and_no_score_is_shown(session: Session) -> None:
    _, screen = session("", "s", "", "l", "", "", "s")
    assert "one" not in screen.replace("one policy", "").replace("none", "")
    assert "two" not in screen
    assert "%" not in screen


def test_wrong_answers_are_asked_again(session: Session) -> None:
    scored, screen = session("", "x", "", "l", "z", "l", "c", "q")
    assert scored == 1
    assert "'x' is none of" in screen
    assert "'z' is none of" in screen


def test_a_spoilt_trial_comes_again(tmp_path: Path, session: Session) -> None:
    scored, screen = session("", "v", "", "v", "somebody ran into the table", "", "s", "q")
    assert scored == 1
    assert screen.count("trial 1 of 4") == 2
    assert "only with a reason" in screen
    (voided,) = load_results(tmp_path).voided
    assert voided.reason == "somebody ran into the table"
    assert voided.record is None


@pytest.mark.parametrize(
    ("letter", "stage"), [("r", "reached"), ("g", "grasped"), ("m", "moved"), ("p", "placed")]
)
def test_answers_are_letters_of_the_stages(letter: str, stage: str) -> None:
    answers = iter([letter, "o"])
    verdict = ask_verdict(lambda _: next(answers), Console(file=io.StringIO()))
    assert (verdict.success, verdict.stage, verdict.reason) == (False, stage, "operator_stop")


def test_the_start_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_pictures, "PICTURE_PIXELS", 32)
    pictures = StartPictures(tmp_path)
    placement = sample_placement("box_to_bowl", "cup", 3)
    path = pictures.draw(placement)
    first = path.stat().st_mtime_ns
    assert path.read_bytes().startswith(b"\x89PNG")
    assert pictures.draw(placement).stat().st_mtime_ns == first
    pictures.close()


def test_the_scene_is_laid_over_what_the_first_policy_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_pictures, "PICTURE_PIXELS", 32)
    pictures, placement = StartPictures(tmp_path), sample_placement("box_to_bowl", "cup", 3)
    white, black = np.full((48, 64, 3), 255, np.uint8), np.zeros((48, 64, 3), np.uint8)
    drawn = np.asarray(Image.open(pictures.draw(placement)), float)
    over_drawn = np.asarray(Image.open(pictures.overlay(placement, white)), float)
    np.testing.assert_allclose(over_drawn, (drawn + 255) / 2, atol=1.0)
    pictures.keep(placement, white)
    pictures.keep(placement, black)
    over_seen = np.asarray(Image.open(pictures.overlay(placement, black)))
    assert over_seen.shape == (48, 64, 3)
    assert set(np.unique(over_seen)) == {127}
    pictures.close()


class FakeLink:
    """A graph that notes what it is asked, with one picture in its front camera."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.looked = threading.Event()

    def home(self) -> None:
        self.asked.append("home")

    def pictures(self) -> dict[str, np.ndarray]:
        self.looked.set()
        return {"front": np.zeros((48, 64, 3), np.uint8)}

    def take_stage_times(self) -> dict[str, list[float]]:
        return {"picture_to_setpoint": [80.0]}

    def start_task(self, task: str, obj: str, timeout_s: float) -> FakeLink:
        self.asked.append(f"start {task} {obj}")
        self.looked.clear()
        return self

    def cancel(self) -> None:
        # A person takes at least as long as it takes to film one picture.
        self.asked.append("cancel")


def test_a_robot_is_sent_home_started_filmed_and_stopped(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.operator_robot.INTERVAL_S", 0.01)
    link = FakeLink()
    with OperatorRobot(link, 60.0) as robot:
        start = robot.start

        def start_and_wait(task: str, obj: str) -> None:
            start(task, obj)
            assert link.looked.wait(60.0)

        monkeypatch.setattr(robot, "start", start_and_wait)
        monkeypatch.setattr(StartPictures, "overlay", lambda *_: Path("overlay.png"))
        scored, screen = session("p", "", "s", "q", robot=robot)
    assert scored == 1
    assert "overlay: overlay.png" in screen
    assert link.asked[0] == "home"
    assert link.asked[1].startswith("start box_to_bowl ")
    assert link.asked[2:] == ["cancel", "home"]
    (record,) = load_results(tmp_path).records
    assert record.stage_times_ms == {"picture_to_setpoint": [80.0]}
    assert record.film == "films/trial-0001.jpg"
    assert (tmp_path / record.film).read_bytes().startswith(b"\xff\xd8")
    assert len(list((tmp_path / "starts").glob("*-seen.png"))) == 1


def test_a_session_that_breaks_off_stops_the_robot(session: Session) -> None:
    link = FakeLink()
    scored, _ = session("", "q", robot=OperatorRobot(link, 60.0))
    assert scored == 0
    assert link.asked[-1] == "cancel"


class Server(HTTPServer):
    """Answers `POST /bundle` as the policy server does."""

    asked: list[str]
    served_hash: str
    status: int


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body["bundle"])
        answer = json.dumps({"bundle_hash": self.server.served_hash}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.served_hash, server.status = [], "hash", 200
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def switch(server: Server) -> PolicySwitch:
    policies = {"A": PolicyChoice("A", "secret-a", "hash", 128),
                "B": PolicyChoice("B", "secret-b", "hash", 128)}  # fmt: skip
    return PolicySwitch(f"http://127.0.0.1:{server.server_address[1]}", policies)


def test_the_server_is_told_only_of_changes(server: Server, switch: PolicySwitch) -> None:
    for label in ("A", "A", "B", "A"):
        switch.serve(label)
    assert server.asked == ["secret-a", "secret-b", "secret-a"]


@pytest.mark.parametrize(
    ("served_hash", "status", "message"),
    [("hash", 422, "refused policy A"), ("other", 200, "bundle of policy A was changed")],
)
def test_a_server_that_does_not_follow_is_named_without_the_bundle(
    server: Server, switch: PolicySwitch, served_hash: str, status: int, message: str
) -> None:
    server.served_hash, server.status = served_hash, status
    with pytest.raises(PlanError, match=message) as caught:
        switch.serve("A")
    assert "secret" not in str(caught.value)


def test_no_server(switch: PolicySwitch, server: Server) -> None:
    with pytest.raises(PlanError, match="like http"):
        PolicySwitch("127.0.0.1:8000", {})
    gone = PolicySwitch("http://127.0.0.1:1", {"A": PolicyChoice("A", "a", "hash", 128)})
    with pytest.raises(PlanError, match="no policy server answers"):
        gone.serve("A")
