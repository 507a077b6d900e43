"""The preflight as a whole: on this machine, against a simulated arm, and as bringup calls it."""

from __future__ import annotations

import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roboalign import preflight, preflight_machine
from roboalign import preflight_arm as arm
from roboalign import preflight_clocks as clocks
from roboalign.graph import GraphArguments
from roboalign.preflight import CHECKS, PreflightConfig, PreflightError
from roboalign.preflight_findings import Outcome, Unavailable
from tests.roboalign.program import Program

HERE = Path(__file__).parent
PATIENCE_S = 60.0
"""For an answer on a busy machine."""


def config(**changes: object) -> PreflightConfig:
    given: dict = {
        "robot_ip": "", "cameras": {"front": ""}, "stream": (640, 480, 30), "policy_url": "",
        "environment": {}, **changes,
    }  # fmt: skip
    return PreflightConfig(**given)


def last_line(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


def test_a_bare_machine_is_told_everything_that_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = preflight.main(["--json"])
    said = last_line(capsys.readouterr().out)
    assert [check["check"] for check in said["checks"]] == list(CHECKS)
    assert {"arm_network", "system_image"} <= set(said["blocking"])
    assert not said["may_move"] and code == 1
    assert all(check["remedy"] for check in said["checks"] if check["check"] in said["blocking"])


def test_the_simulation_needs_no_hardware(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = preflight.main(["--sim", "--json", "--directory", str(tmp_path / "not" / "yet")])
    said = last_line(capsys.readouterr().out)
    assert set(said["skipped"]) >= preflight.NEEDS_HARDWARE
    assert {"dds_profile", "shared_memory", "disk"} & set(said["passed"] + said["failed"])
    assert code == (0 if said["may_move"] else 1)


@pytest.mark.parametrize(
    "arguments", [["--waive", "luck"], ["--cameras", "9:9"], ["--color-profile", "big"]]
)
def test_wrong_arguments_get_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert preflight.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("preflight: ") and said.count("\n") == 1


def test_an_essential_failure_forbids_motion_unless_it_is_waived() -> None:
    bare = config(robot_ip="")
    with pytest.raises(PreflightError, match=r"arm_network: no address.*give --robot-ip"):
        preflight.check_before_motion(bare)
    waived = config(waived=frozenset(CHECKS))
    findings = preflight.check_before_motion(waived)
    assert any(f.found.startswith("waived: ") for f in findings)


def test_launch_arguments_say_what_to_check() -> None:
    graph = GraphArguments(robot_ip="172.16.0.2", cameras="front:1,wrist:2")
    made = PreflightConfig.from_graph(graph)
    assert made.robot_ip == "172.16.0.2"
    assert made.cameras == {"front": "1", "wrist": "2"}
    assert not made.simulated
    assert (
        preflight_machine.check_dds(preflight_machine.probe_dds(made.environment)).outcome
        is Outcome.PASSED
    )
    assert PreflightConfig.from_graph(GraphArguments(sim=True)).simulated


def test_dds_profiles_are_read_as_the_middleware_would(tmp_path: Path) -> None:
    probe, variable = preflight_machine.probe_dds, preflight_machine.DDS_VARIABLE
    assert probe({"FASTDDS_DEFAULT_PROFILES_FILE": "newer.xml"}).variable == ""
    broken = tmp_path / "broken.xml"
    broken.write_text("<dds><profiles>")
    assert "cannot be read" in probe({variable: str(broken)}).problem
    assert "cannot be read" in probe({variable: str(tmp_path / "none.xml")}).problem
    plain = tmp_path / "plain.xml"
    plain.write_text("<dds><transport><segment_size>1024</segment_size></transport></dds>")
    assert probe({variable: str(plain)}).segment_bytes == 1024


def test_governors_are_read_by_core(tmp_path: Path) -> None:
    assert isinstance(preflight_machine.probe_governors(tmp_path), Unavailable)
    for core, governor in (("cpu0", "performance"), ("cpu1", "powersave")):
        folder = tmp_path / core / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
    found = preflight_machine.probe_governors(tmp_path)
    assert found == {"cpu0": "performance", "cpu1": "powersave"}


def test_a_refused_connection_is_an_answer() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        trips = arm.tcp_round_trips("127.0.0.1", closed.getsockname()[1], count=5)
    assert (trips.sent, len(trips.times_ms)) == (5, 5)


@pytest.fixture
def fci() -> Iterator[Callable[[bytes], int]]:
    """Starts a server that answers one request with these bytes and hangs up; returns its port."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                request = connection.recv(64)
                assert len(request) == 16
                connection.sendall(answer)

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


def test_the_arms_version_is_read_even_if_it_refuses_ours(fci: Callable[[bytes], int]) -> None:
    refusal = arm.HEADER.pack(0, 0, 16) + arm.CONNECT.pack(1, 8)
    assert arm.probe_fci_protocol("127.0.0.1", fci(refusal), PATIENCE_S) == 8


def test_an_arm_that_hangs_up_is_unknown(fci: Callable[[bytes], int]) -> None:
    found = arm.probe_fci_protocol("127.0.0.1", fci(b""), PATIENCE_S)
    assert isinstance(found, Unavailable)


class MadeArm:
    """Holds, and says what it was told; `failure` is raised when its state is read."""

    success_rate = 0.97

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.told: list[str] = []

    def connect(self) -> None:
        self.told.append("connect")

    def start_tracking(self) -> None:
        self.told.append("track")

    def read(self) -> MadeArm:
        if self.failure is not None:
            raise self.failure
        return self

    def begin_stop(self) -> None:
        self.told.append("stop")

    def moving(self) -> bool:
        return False


def test_the_arm_holds_while_it_is_measured_and_stops_afterwards() -> None:
    made = MadeArm()
    held = arm.probe_success_rate(made, seconds=0.1)
    assert isinstance(held, arm.SuccessRate)
    assert held.share == pytest.approx(0.97)
    assert made.told == ["connect", "track", "stop"]


def test_an_arm_that_cannot_hold_gives_its_reason() -> None:
    made = MadeArm(RuntimeError("reflex: joint velocity limits violation"))
    found = arm.probe_success_rate(made, seconds=0.1)
    assert found == Unavailable("reflex: joint velocity limits violation")


def test_ctrl_c_stops_the_arm() -> None:
    made = MadeArm(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        arm.probe_success_rate(made, seconds=0.1)
    assert made.told[-1] == "stop"


def test_a_simulated_arm_passes_all_that_it_can_show(start: Callable[..., Program]) -> None:
    host = f"127.0.91.{os.getpid() % 250 + 1}"
    start(str(HERE / "franky_sim_server.py"), host).wait_for("ready", timeout_s=120.0)
    assert arm.probe_fci_protocol(host, timeout_s=PATIENCE_S) == arm.FCI_PROTOCOL
    trips = arm.probe_round_trips(host)
    assert isinstance(trips, arm.RoundTrips)
    assert trips.times_ms
    from roboalign.arm_driver import ArmDriver

    # On a busy machine the simulator may miss the first connection's deadlines.
    deadline = time.monotonic() + 60.0
    held = arm.probe_success_rate(ArmDriver(host), seconds=0.5)
    while isinstance(held, Unavailable) and time.monotonic() < deadline:
        held = arm.probe_success_rate(ArmDriver(host), seconds=0.5)
    assert arm.check_success_rate(held).outcome is Outcome.PASSED, held


def test_a_policy_servers_clock_is_within_its_bounds() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"ws://127.0.0.1:{server.server_address[1]}"
        found = clocks.probe_clock_offset(url, PATIENCE_S)
        assert clocks.check_clock_offset(found).outcome is Outcome.PASSED
    finally:
        server.shutdown()
        server.server_close()
    gone = clocks.probe_clock_offset(url)
    assert isinstance(gone, Unavailable)
