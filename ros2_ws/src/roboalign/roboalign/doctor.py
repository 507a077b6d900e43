"""`python -m roboalign.doctor`: the three machines of one lab, looked at from the robot PC.

This machine counts as the robot PC. The policy server is asked over its own protocol; it and the
workstation are looked at from within where ssh leads to them (`--server gpu:/opt/roboalign`).
Exit codes: 0 nothing essential is wrong, 1 something is, 2 wrong arguments, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from rich.console import Console

import contracts
from contracts.bundle import BundleError, bundle_hash, read_manifest
from policy_server.client import PolicyClient, PolicyRefused, PolicyUnavailable
from roboalign import doctor_checks as checks
from roboalign import doctor_facts
from roboalign import preflight_clocks as clocks
from roboalign import preflight_machine as robot
from roboalign.doctor_checks import Machine, ServedPolicy
from roboalign.preflight_arm import tcp_round_trips
from roboalign.preflight_findings import Finding, Outcome, Unavailable, summary, table

DEFAULT_URL = "ws://127.0.0.1:8000"
REPOSITORY = Path(contracts.__file__).resolve().parents[1]
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
SSH_TIMEOUT_S = 60.0
TIMEOUT_S, NAMED_TIMEOUT_S = 2.0, 10.0
"""For the policy server's first word."""


@dataclass(frozen=True)
class Remote:
    """A machine behind ssh: where ssh leads, and the installation's directory there."""

    host: str
    directory: str

    @classmethod
    def parse(cls, text: str) -> Remote:
        """From `host:/directory` or `user@host:/directory`. Raises ValueError."""
        host, separator, directory = text.partition(":")
        if not separator or not host or host.startswith("-") or not directory.startswith("/"):
            raise ValueError(f"{text!r} is not of the form user@host:/directory")
        return cls(host, directory)

    def command(self) -> list[str]:
        """Runs doctor_facts.py, which comes on standard input, in the installation's Python."""
        words = [f"{self.directory}/.venv/bin/python", "-", self.directory]
        return [*SSH, self.host, shlex.join(words)]


def look_at_remote(name: str, remote: Remote) -> Machine | Unavailable:
    """Facts of a machine behind ssh, with its clock against ours."""
    script = Path(doctor_facts.__file__).read_text()
    sent = time.time()
    try:
        done = subprocess.run(
            remote.command(),
            input=script,
            capture_output=True,
            text=True,
            timeout=SSH_TIMEOUT_S,
            check=True,
        )
        facts = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or [f"code {error.returncode}"]
        return Unavailable(f"{remote.host}: {last[0]}")
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        return Unavailable(f"{remote.host}: {error}")
    received = time.time()
    offset = clocks.ClockOffset(
        facts["time"] - (sent + received) / 2.0, uncertainty_s=(received - sent) / 2.0
    )
    return Machine(name, facts, offset)


def ask_server(url: str, token: str | None, timeout_s: float) -> ServedPolicy | Unavailable:
    """The policy server's own words, over the websocket that the robot uses."""
    try:
        with PolicyClient(url, token, timeout_s) as client:
            said = client.metadata()
    except (PolicyUnavailable, PolicyRefused) as error:
        return Unavailable(str(error))
    parts = urlsplit(url)
    trips = tcp_round_trips(parts.hostname or "", parts.port or 80)
    return ServedPolicy(
        policy=str(said["policy"]),
        bundle_hash=str(said.get("bundle_hash", "")),
        protocol_version=int(said["protocol_version"]),
        round_trip_ms=median(trips.times_ms) if trips.times_ms else float("nan"),
    )


def local_bundle(directory: Path) -> tuple[str, str] | BundleError:
    """Name and hash of the bundle in `directory`, every file checked."""
    try:
        return read_manifest(directory).name, bundle_hash(directory)
    except BundleError as error:
        return error


def read_pins(path: Path) -> Mapping[str, str]:
    """Version by package, as constraints.txt has it; empty without that file."""
    if not path.is_file():
        return {}
    pairs = (line.partition("==") for line in path.read_text().splitlines())
    return {name.strip(): pinned.strip() for name, separator, pinned in pairs if separator}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = _parser().parse_args(arguments)
    try:
        remotes = {
            name: Remote.parse(text)
            for name, text in (("server", options.server), ("workstation", options.workstation))
            if text
        }
        token = options.token_file.read_text().strip() if options.token_file else None
        with Console(stderr=True).status("looking at the machines"):
            findings, machines = examine(options, remotes, token)
    except (ValueError, OSError) as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    blocking = any(f.blocks for f in findings)
    Console(width=None if sys.stdout.isatty() else 110).print(table("Doctor", findings))
    if options.json:
        facts = {machine.name: machine.facts for machine in machines}
        said = {"healthy": not blocking, **summary(findings), "machines": facts}
        print(json.dumps(said), flush=True)
    return 1 if blocking else 0


def examine(
    options: argparse.Namespace, remotes: Mapping[str, Remote], token: str | None
) -> tuple[list[Finding], list[Machine]]:
    """All findings, and the machines that could be looked at, this one first."""
    here = Machine("robot", doctor_facts.gather(REPOSITORY))
    machines, findings = [here], []
    for name in ("server", "workstation"):
        if name not in remotes:
            text, remedy = "not looked at from within", f"--{name} user@host:/directory"
            findings.append(Finding(f"{name}/facts", False, Outcome.SKIPPED, text, remedy))
            continue
        seen = look_at_remote(name, remotes[name])
        if isinstance(seen, Unavailable):
            remedy = "an ssh key without a password prompt, and `make setup` over there"
            findings.append(Finding(f"{name}/facts", False, Outcome.FAILED, seen.reason, remedy))
        else:
            machines.append(seen)
    for machine in machines:
        findings += checks.check_machine(machine)
    findings += _robot_findings(here)
    url = options.policy_url or DEFAULT_URL
    # One that nobody named is probably not there.
    served = ask_server(url, token, NAMED_TIMEOUT_S if options.policy_url else TIMEOUT_S)
    findings += [
        checks.check_versions(machines, read_pins(REPOSITORY / "constraints.txt")),
        checks.check_served(served, named=bool(options.policy_url)),
        checks.check_bundle(local_bundle(options.bundle), served),
    ]
    if isinstance(served, ServedPolicy):
        findings.append(clocks.check_clock_offset(clocks.probe_clock_offset(url)))
    return findings, machines


def _robot_findings(here: Machine) -> list[Finding]:
    return [
        clocks.check_clock(clocks.probe_clock()),
        checks.check_middleware(here),
        robot.check_dds(robot.probe_dds(os.environ)),
        robot.check_shared_memory(robot.probe_space(Path("/dev/shm"))),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m roboalign.doctor", description=__doc__)
    parser.add_argument(
        "--policy-url", default="", help=f"of the policy server (default: {DEFAULT_URL}, if any)"
    )
    parser.add_argument("--token-file", type=Path, help="file with the policy server's token")
    parser.add_argument(
        "--server", default="", metavar="USER@HOST:/DIR", help="the policy server behind ssh"
    )
    parser.add_argument(
        "--workstation", default="", metavar="USER@HOST:/DIR", help="the workstation behind ssh"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        default=REPOSITORY / "policy_server/bundles/shipped",
        help="bundle on this machine to check (default: the shipped one)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON line last")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
