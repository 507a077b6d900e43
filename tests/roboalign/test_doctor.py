"""The doctor's probes: this machine, one behind ssh, a policy server, and the whole command."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from threading import Thread

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from contracts import wire
from roboalign import doctor, doctor_facts
from roboalign.doctor import Remote
from roboalign.doctor_checks import Machine, ServedPolicy
from roboalign.preflight_findings import Unavailable

METADATA = {"protocol_version": wire.PROTOCOL_VERSION, "policy": "still", "bundle_hash": "abc"}


@pytest.fixture
def server() -> Iterator[str]:
    """URL of a policy server that says what it is and no more."""

    def greet(connection: ServerConnection) -> None:
        connection.send(wire.pack(METADATA))
        for _ in connection:
            return

    def health(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus.OK, "") if request.path == "/healthz" else None

    with serve(greet, "127.0.0.1", 0, compression=None, process_request=health) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()


@pytest.fixture
def reachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation on a machine to which `ssh` leads; it is this one."""
    ssh = tmp_path / "bin/ssh"
    python = tmp_path / "there/.venv/bin/python"
    for path, text in (
        (ssh, 'for last; do :; done\ncase "$*" in *unreachable*) echo "no route" >&2; exit 255;; '
              'esac\nexec sh -c "$last"'),
        (python, f'exec {sys.executable} "$@"'),
    ):  # fmt: skip
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    return tmp_path / "there"


def test_facts_of_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        facts = json.loads(json.dumps(doctor_facts.gather(doctor.REPOSITORY)))
        assert ["127.0.0.1", listener.getsockname()[1]] in facts["listening"]
    assert facts["packages"]["numpy"]
    assert facts["disk"]["total"] >= facts["disk"]["free"] > 0
    assert facts["memory_bytes"] > 0


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 580.82.07, 23034, 1024'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert doctor_facts.gpus() == [
        {
            "name": "NVIDIA L4", "driver": "580.82.07",
            "memory_total": 23034 * 2**20, "memory_used": 1024 * 2**20,
        }
    ]  # fmt: skip


def test_a_machine_behind_ssh_tells_its_facts_and_its_time(reachable: Path) -> None:
    machine = doctor.look_at_remote("server", Remote("gpu", str(reachable)))
    assert isinstance(machine, Machine)
    assert machine.facts["packages"]["numpy"]
    assert machine.offset is not None
    assert abs(machine.offset.offset_s) <= machine.offset.uncertainty_s


def test_a_machine_that_ssh_does_not_reach_is_said_plainly(reachable: Path) -> None:
    found = doctor.look_at_remote("server", Remote("unreachable", str(reachable)))
    assert found == Unavailable("unreachable: no route")
    gone = doctor.look_at_remote("server", Remote("gpu", "/nowhere"))
    assert isinstance(gone, Unavailable)


def test_a_directory_cannot_smuggle_a_command(reachable: Path, tmp_path: Path) -> None:
    doctor.look_at_remote("server", Remote.parse(f"gpu:/x; touch {tmp_path}/made"))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["gpu", "gpu:relative", "-oProxyCommand=x:/d", ":/d"])
def test_a_remote_has_a_host_and_a_directory(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        Remote.parse(text)


def test_the_policy_server_is_asked_over_its_own_protocol(server: str) -> None:
    found = doctor.ask_server(server, None, timeout_s=60.0)
    assert isinstance(found, ServedPolicy)
    assert (found.policy, found.bundle_hash) == ("still", "abc")
    assert found.round_trip_ms > 0.0


def test_pins_are_read_from_constraints(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    assert doctor.read_pins(path) == {}
    path.write_text("# note\nnumpy==2.4.6\n\nmsgpack==1.2.4\n")
    assert doctor.read_pins(path) == {"numpy": "2.4.6", "msgpack": "1.2.4"}


def test_the_whole_command(
    server: str, reachable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    code = doctor.main(
        [
            "--json", "--policy-url", server, "--workstation", f"lab:{reachable}",
            "--bundle", str(bundle),
        ]
    )  # fmt: skip
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == (0 if said["healthy"] else 1)
    assert "server/policy" in said["passed"]
    assert "robot/bundle" in said["failed"]
    assert "server/facts" in said["skipped"]
    assert set(said["machines"]) == {"robot", "workstation"}


def test_a_named_server_that_is_away_is_essential(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "NAMED_TIMEOUT_S", 1.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{closed.getsockname()[1]}"
        assert doctor.main(["--json", "--policy-url", url]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "server/policy" in said["blocking"]


def test_wrong_arguments_get_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--server", "gpu"]) == 2
    assert doctor.main(["--token-file", "/nowhere/token"]) == 2
    assert doctor.main(["--policy-url", "not a url"]) == 2
    assert capsys.readouterr().err.count("doctor: ") == 3
