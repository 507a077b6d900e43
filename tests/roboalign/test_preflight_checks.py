"""Each check of the preflight: what passes, what fails, and that it says what to do."""

from __future__ import annotations

from dataclasses import replace
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from roboalign import preflight_arm as arm
from roboalign import preflight_cameras as cameras
from roboalign import preflight_clocks as clocks
from roboalign import preflight_machine as machine
from roboalign.preflight_findings import Finding, Outcome, Unavailable, summary, table

GIB = 2**30
CAMERA = cameras.Camera("Intel RealSense D435", "1234", "3.2", "2-1-3", "5.16.0.1", "5.16.0.1")
INFINITE = float("inf")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (
            machine.check_kernel(machine.Kernel("6.8.1-rt", True)),
            machine.check_kernel(machine.Kernel("6.8.0-45-generic", False)),
        ),
        (
            machine.check_rights(machine.RealtimeRights(99, INFINITE, False)),
            machine.check_rights(machine.RealtimeRights(0, INFINITE, False)),
        ),
        (
            machine.check_rights(machine.RealtimeRights(0, INFINITE, True)),
            machine.check_rights(machine.RealtimeRights(99, 8 * 2**20, True)),
        ),
        (
            machine.check_governor({"cpu0": "performance"}),
            machine.check_governor({"cpu0": "performance", "cpu1": "powersave"}),
        ),
        (
            arm.check_network(arm.RoundTrips("icmp", 200, (0.2,) * 200)),
            arm.check_network(arm.RoundTrips("icmp", 200, (0.2,) * 198)),
        ),
        (
            arm.check_network(arm.RoundTrips("icmp", 200, (0.4,) * 200)),
            arm.check_network(arm.RoundTrips("icmp", 200, (0.2,) * 190 + (1.4,) * 10)),
        ),
        (arm.check_system_image(10), arm.check_system_image(9)),
        (
            arm.check_success_rate(arm.SuccessRate(0.99, 2.0)),
            arm.check_success_rate(arm.SuccessRate(0.91, 2.0)),
        ),
        (
            cameras.check_cameras((CAMERA,), {"front": "1234"}),
            cameras.check_cameras((CAMERA,), {"front": "9999"}),
        ),
        (
            cameras.check_cameras((CAMERA,), {"front": ""}),
            cameras.check_cameras((), {"front": ""}),
        ),
        (
            cameras.check_usb((CAMERA,), (640, 480, 30)),
            cameras.check_usb((replace(CAMERA, usb_type="2.1"),), (640, 480, 30)),
        ),
        (
            cameras.check_firmware((CAMERA,)),
            cameras.check_firmware((replace(CAMERA, firmware="5.9.14.0"),)),
        ),
        (
            clocks.check_clock(clocks.Clock("chrony", True, 0.0004)),
            clocks.check_clock(clocks.Clock("chrony", True, 0.02)),
        ),
        (
            clocks.check_clock(clocks.Clock("timesyncd", True, None)),
            clocks.check_clock(clocks.Clock("timesyncd", False, None)),
        ),
        (
            clocks.check_clock_offset(clocks.ClockOffset(0.9, 1.0)),
            clocks.check_clock_offset(clocks.ClockOffset(-5.0, 1.0)),
        ),
        (
            machine.check_dds(machine.DdsProfile("FASTRTPS", "a.xml", 32 * 2**20)),
            machine.check_dds(machine.DdsProfile("FASTRTPS", "a.xml", 512 * 2**10)),
        ),
        (
            machine.check_shared_memory(machine.Space("/dev/shm", GIB, GIB)),
            machine.check_shared_memory(machine.Space("/dev/shm", 50 * 2**20, 64 * 2**20)),
        ),
        (
            machine.check_disk(machine.Space("runs", 100 * GIB, 200 * GIB)),
            machine.check_disk(machine.Space("runs", GIB, 200 * GIB)),
        ),
    ],
)
def test_the_good_passes_and_the_bad_says_what_to_do(good: Finding, bad: Finding) -> None:
    assert good.check == bad.check
    assert (good.outcome, good.remedy) == (Outcome.PASSED, "")
    assert bad.outcome is Outcome.FAILED
    assert bad.remedy and bad.found


def test_nobody_at_the_arms_address_is_said_plainly() -> None:
    finding = arm.check_network(arm.RoundTrips("tcp", 3, ()))
    assert finding.blocks
    assert "none of 3 packets" in finding.found


def test_a_slow_network_that_passes_is_remarked() -> None:
    finding = arm.check_network(arm.RoundTrips("icmp", 200, (0.8,) * 200))
    assert finding.outcome is Outcome.PASSED
    assert "little margin" in finding.found and finding.remedy


@pytest.mark.parametrize(
    ("protocol", "remedy"), [(8, "update the arm to system image 5.9.0"), (11, "franky wheel")]
)
def test_the_older_side_of_fci_is_the_one_to_update(protocol: int, remedy: str) -> None:
    assert remedy in arm.check_system_image(protocol).remedy


def test_two_cameras_need_their_serial_numbers() -> None:
    other = replace(CAMERA, serial="5678")
    finding = cameras.check_cameras((CAMERA, other), {"front": "1234", "wrist": ""})
    assert finding.outcome is Outcome.FAILED
    assert "no serial number given for wrist" in finding.found


def test_cameras_share_what_their_controller_carries() -> None:
    many = tuple(replace(CAMERA, serial=str(i), port=f"2-{i}") for i in range(4))
    stream = (1920, 1080, 30)
    assert cameras.check_usb(many, stream).outcome is Outcome.FAILED
    spread = tuple(replace(camera, port=f"{i}-1") for i, camera in enumerate(many))
    assert cameras.check_usb(spread, stream).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("port", "controller"),
    [
        (
            "/sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/video4linux/video0",
            "0000:00:14.0",
        ),
        ("2-1-3", "2"),
    ],
)
def test_usb_controllers_of_both_backends(port: str, controller: str) -> None:
    assert cameras.usb_controller(port) == controller


def test_chrony_is_read_with_its_error_bound() -> None:
    line = (
        "C0A80001,192.168.0.1,3,1764099861.8,-0.000120,0.0001,0.0002,-12.3,0.001,0.02,"
        "0.0004,0.0003,64.2,Normal\n"
    )
    clock = clocks.parse_chrony(line)
    assert isinstance(clock, clocks.Clock)
    assert clock.synchronised
    assert clock.error_s == pytest.approx(0.00012 + 0.0003 + 0.0002)
    lost = clocks.parse_chrony(line.replace("Normal", "Not synchronised"))
    assert clocks.check_clock(lost).outcome is Outcome.FAILED
    assert isinstance(clocks.parse_chrony("506 Cannot talk to daemon"), Unavailable)


@given(
    offset=st.floats(-100.0, 100.0),
    age=st.floats(0.0, 0.99),
    there=st.floats(0.0, 1.0),
    back=st.floats(0.0, 1.0),
)
def test_the_true_offset_lies_within_the_bounds(
    offset: float, age: float, there: float, back: float
) -> None:
    sent = 1764099861.3
    server_now = sent + there + offset
    shown = int(server_now - age)
    found = clocks.offset_from_date(formatdate(shown, usegmt=True), sent, sent + there + back)
    assert isinstance(found, clocks.ClockOffset)
    assert abs(found.offset_s - offset) <= found.uncertainty_s + 1e-6


def test_a_server_without_a_date_is_unknown() -> None:
    finding = clocks.check_clock_offset(clocks.offset_from_date("soon", 0.0, 1.0))
    assert finding.outcome is Outcome.UNKNOWN


def test_what_cannot_be_found_out_blocks_only_where_it_is_essential() -> None:
    gone = Unavailable("no address of the arm")
    assert arm.check_network(gone).blocks
    assert not machine.check_governor(gone).blocks
    assert not arm.check_success_rate(None).blocks
    assert arm.check_success_rate(gone).blocks


def test_the_table_shows_failures_first_and_the_summary_names_them() -> None:
    findings = [
        machine.check_governor({"cpu0": "performance"}),
        clocks.check_clock(clocks.Clock("timesyncd", False, None)),
        machine.check_kernel(machine.Kernel("6.8.0-45-generic", False)),
    ]
    console = Console(width=100, record=True)
    console.print(table("Preflight", findings))
    text = console.export_text()
    assert text.index("PREEMPT_RT") < text.index("timesyncd") < text.index("governor")
    said = summary(findings)
    assert said["blocking"] == ["realtime_kernel"]
    assert said["failed"] == ["clock", "realtime_kernel"]
    assert said["passed"] == ["cpu_governor"]
