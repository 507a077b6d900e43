"""The doctor's checks over the facts of all machines. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts import wire
from contracts.bundle import BundleError
from roboalign.preflight_clocks import ClockOffset, check_clock_offset
from roboalign.preflight_findings import Finding, Outcome, Unavailable, judge
from roboalign.preflight_machine import ADVISED_DISK, LEAST_DISK

Facts = Mapping[str, Any]
"""As doctor_facts prints them."""
WIRE_PACKAGES = ("numpy", "msgpack", "websockets")
NEED_GPU = ("server", "workstation")
OUR_PORTS = {
    3000: "Grafana",
    8000: "the policy server",
    8765: "the simulation",
    9090: "Prometheus",
    9101: "the graph's metrics",
}
FAST_DDS = "rmw_fastrtps_cpp"


@dataclass(frozen=True)
class Machine:
    """One of the machines; offset: its clock minus ours, for machines other than this one."""

    name: str
    facts: Facts
    offset: ClockOffset | None = None


@dataclass(frozen=True)
class ServedPolicy:
    """What the policy server says about itself."""

    policy: str
    bundle_hash: str
    protocol_version: int
    round_trip_ms: float


def check_machine(machine: Machine) -> list[Finding]:
    """Everything that one machine's facts tell alone."""
    findings = [_disk(machine), _ports(machine)]
    if machine.name in NEED_GPU:
        findings.append(_gpu(machine))
    if machine.offset is not None:
        found = check_clock_offset(machine.offset)
        name = f"{machine.name}/clock"
        findings.append(Finding(name, False, found.outcome, found.found, found.remedy))
    return findings


def check_versions(machines: list[Machine], pins: Mapping[str, str]) -> Finding:
    """Same commit everywhere, and the packages that speak over the wire as constraints.txt pins."""
    problems = []
    commits = {m.name: str(m.facts["commit"]) for m in machines if m.facts["commit"]}
    if len(set(commits.values())) > 1:
        problems.append(", ".join(f"{name} runs {commit}" for name, commit in commits.items()))
    problems += [
        f"{m.name} has {package} {m.facts['packages'][package]}, pinned is {pins[package]}"
        for m in machines
        for package in WIRE_PACKAGES
        if package in m.facts["packages"] and package in pins
        if m.facts["packages"][package] != pins[package]
    ]
    changed = [m.name for m in machines if m.facts["changed"]]
    note = f"; uncommitted changes on {', '.join(changed)}" if changed else ""
    return judge(
        "all/versions",
        essential=False,
        problems=problems,
        found=(", ".join(sorted(set(commits.values()))) or "no git checkout") + note,
        remedy="check out the same commit and run `make setup` on each machine",
    )


def check_middleware(machine: Machine) -> Finding:
    """The DDS settings of the shell that the doctor was started from."""
    environment = machine.facts["environment"]
    middleware = environment.get("RMW_IMPLEMENTATION", FAST_DDS)
    problems = [] if middleware == FAST_DDS else [f"RMW_IMPLEMENTATION is {middleware}"]
    domain = environment.get("ROS_DOMAIN_ID", "0")
    if not domain.isdigit() or int(domain) > 101:
        problems.append(f"ROS_DOMAIN_ID {domain!r} is not in 0..101")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    return judge(
        f"{machine.name}/dds",
        essential=True,
        problems=problems,
        found=f"{middleware}, domain {domain}, discovery {reach}",
        remedy="unset RMW_IMPLEMENTATION: the DDS profile is for Fast DDS; "
        "a domain above 101 collides with the ports that Linux gives to clients",
    )


def check_served(served: ServedPolicy | Unavailable, *, named: bool) -> Finding:
    """named: somebody asked for this server; otherwise it may be away."""
    name, remedy = "server/policy", "`python -m policy_server --bundle shipped`; its log says why"
    if isinstance(served, Unavailable):
        outcome = Outcome.UNKNOWN if named else Outcome.SKIPPED
        return Finding(name, named, outcome, served.reason, remedy)
    other = served.protocol_version != wire.PROTOCOL_VERSION
    said = f"it speaks protocol {served.protocol_version}, we {wire.PROTOCOL_VERSION}"
    return judge(
        name,
        essential=named,
        problems=[said] if other else [],
        found=f"{served.policy} ({served.bundle_hash[:12]}), {served.round_trip_ms:.1f} ms away",
        remedy="run the same version on both machines",
    )


def check_bundle(
    found: tuple[str, str] | BundleError, served: ServedPolicy | Unavailable
) -> Finding:
    """Name and hash of the bundle on this disk, whole; whether it is the one served is said."""
    name = "robot/bundle"
    if isinstance(found, BundleError):
        return Finding(name, False, Outcome.FAILED, str(found), "fetch or export the bundle again")
    policy, digest = found
    text = f"{policy} ({digest[:12]})"
    if isinstance(served, ServedPolicy):
        same = served.bundle_hash == digest
        text += ", which is the one served" if same else f"; the server serves {served.policy}"
    return Finding(name, False, Outcome.PASSED, text)


def _disk(machine: Machine) -> Finding:
    free, total = machine.facts["disk"]["free"], machine.facts["disk"]["total"]
    found = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    remedy = "move old runs/ away; `docker system df`; logrotate (docs/operation/logs.md)"
    return judge(
        f"{machine.name}/disk",
        essential=free < LEAST_DISK,
        problems=["little room"] if free < ADVISED_DISK else [],
        found=found,
        remedy=remedy,
    )


def _gpu(machine: Machine) -> Finding:
    gpus = machine.facts["gpus"]
    seen = "; ".join(
        f"{g['name']}, driver {g['driver']}, "
        f"{(g['memory_total'] - g['memory_used']) / 2**30:.0f} of "
        f"{g['memory_total'] / 2**30:.0f} GiB free"
        for g in gpus
    )
    return judge(
        f"{machine.name}/gpu",
        essential=False,
        problems=[] if gpus else ["nvidia-smi shows no GPU"],
        found=seen,
        remedy="install NVIDIA's driver; in a container the NVIDIA container toolkit",
    )


def _ports(machine: Machine) -> Finding:
    listening = [tuple(pair) for pair in machine.facts["listening"]]
    ours = [(address, port) for address, port in listening if port in OUR_PORTS]
    exposed = [
        f"{OUR_PORTS[port]} listens on {address}:{port}"
        for address, port in ours
        if not address.startswith("127.")
    ]
    return judge(
        f"{machine.name}/ports",
        essential=False,
        problems=exposed,
        found=", ".join(f"{OUR_PORTS[port]} on {address}:{port}" for address, port in ours)
        or "nothing of ours listens",
        remedy="bind 127.0.0.1, or let a firewall admit the lab's machines alone; with a token",
    )
