"""The doctor's checks over facts of machines that this test describes."""

from __future__ import annotations

import pytest

from contracts import wire
from contracts.bundle import BundleError
from roboalign import doctor_checks as checks
from roboalign.doctor_checks import Machine, ServedPolicy
from roboalign.preflight_clocks import ClockOffset
from roboalign.preflight_findings import Finding, Outcome, Unavailable

GIB = 2**30
GPU = {"name": "L4", "driver": "580.1", "memory_total": 24 * GIB, "memory_used": GIB}
SERVED = ServedPolicy("lab", "abc123", wire.PROTOCOL_VERSION, 0.4)


def machine(name: str = "robot", offset: ClockOffset | None = None, **facts: object) -> Machine:
    given = {
        "commit": "aaaa", "changed": False, "packages": {"numpy": "2.4.6"}, "gpus": [],
        "disk": {"free": 100 * GIB, "total": 200 * GIB}, "listening": [], "environment": {},
        **facts,
    }  # fmt: skip
    return Machine(name, given, offset)


def finding(of: Machine, what: str) -> Finding:
    return next(f for f in checks.check_machine(of) if f.check == f"{of.name}/{what}")


def test_a_nearly_full_disk_is_bad_and_a_full_one_worse() -> None:
    low = finding(machine(disk={"free": 10 * GIB, "total": 200 * GIB}), "disk")
    full = finding(machine(disk={"free": GIB, "total": 200 * GIB}), "disk")
    assert low.outcome is full.outcome is Outcome.FAILED
    assert not low.blocks and full.blocks
    assert finding(machine(), "disk").outcome is Outcome.PASSED


def test_ports_that_the_whole_network_reaches_are_named() -> None:
    quiet = finding(machine(listening=[["127.0.0.1", 8000], ["0.0.0.0", 22]]), "ports")
    assert quiet.outcome is Outcome.PASSED
    assert "the policy server on 127.0.0.1:8000" in quiet.found
    loud = finding(machine(listening=[["0.0.0.0", 9090]]), "ports")
    assert loud.outcome is Outcome.FAILED
    assert "Prometheus listens on 0.0.0.0:9090" in loud.found


def test_only_the_machines_that_compute_need_a_gpu() -> None:
    assert "robot/gpu" not in {f.check for f in checks.check_machine(machine())}
    assert finding(machine("server"), "gpu").outcome is Outcome.FAILED
    assert "23 of 24 GiB free" in finding(machine("server", gpus=[GPU]), "gpu").found


def test_another_machines_clock_is_compared() -> None:
    far = finding(machine("server", ClockOffset(2.0, 0.1)), "clock")
    near = finding(machine("server", ClockOffset(0.05, 0.1)), "clock")
    assert (far.outcome, near.outcome) == (Outcome.FAILED, Outcome.PASSED)


def test_versions_agree_with_each_other_and_with_the_pins() -> None:
    pins = {"numpy": "2.4.6"}
    here = machine()
    assert checks.check_versions([here], pins).outcome is Outcome.PASSED
    apart = checks.check_versions([here, machine("server", commit="bbbb")], pins)
    assert "robot runs aaaa, server runs bbbb" in apart.found
    old = checks.check_versions([machine(packages={"numpy": "2.0.0"})], pins)
    assert "robot has numpy 2.0.0, pinned is 2.4.6" in old.found
    assert (
        "uncommitted changes on robot" in checks.check_versions([machine(changed=True)], {}).found
    )
    assert "no git checkout" in checks.check_versions([machine(commit="")], {}).found


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, "cyclonedds"),
        ({"ROS_DOMAIN_ID": "200"}, "200"),
    ],
)
def test_a_middleware_that_the_profile_does_not_fit_is_seen(
    environment: dict[str, str], word: str
) -> None:
    found = checks.check_middleware(machine(environment=environment))
    assert found.blocks and word in found.found
    assert checks.check_middleware(machine()).outcome is Outcome.PASSED


def test_a_server_that_nobody_named_may_be_away() -> None:
    gone = Unavailable("no answer")
    assert checks.check_served(gone, named=False).outcome is Outcome.SKIPPED
    assert checks.check_served(gone, named=True).blocks
    other = ServedPolicy("lab", "abc123", wire.PROTOCOL_VERSION + 1, 0.4)
    assert checks.check_served(other, named=True).blocks
    assert checks.check_served(SERVED, named=True).outcome is Outcome.PASSED


def test_a_bundle_is_whole_and_said_to_be_served_or_not() -> None:
    assert "which is the one served" in checks.check_bundle(("lab", "abc123"), SERVED).found
    assert "the server serves lab" in checks.check_bundle(("other", "def456"), SERVED).found
    broken = checks.check_bundle(BundleError("head.onnx: hash differs"), Unavailable("away"))
    assert broken.outcome is Outcome.FAILED
