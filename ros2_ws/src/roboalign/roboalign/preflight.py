"""`python -m roboalign.preflight`: is this robot PC fit to move the arm?

Runs anywhere and names what is missing. Exit codes: 0 nothing essential is missing, 1 something is,
2 wrong arguments, 130 Ctrl-C. Nothing moves, but with --control-loop the arm holds itself for two
seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from roboalign import preflight_arm as arm
from roboalign import preflight_cameras as cameras
from roboalign import preflight_clocks as clocks
from roboalign import preflight_machine as machine
from roboalign.graph import GraphArguments, GraphError, build_graph
from roboalign.preflight_findings import Finding, Outcome, Unavailable, summary, table

CHECKS = (
    "realtime_kernel",
    "realtime_rights",
    "cpu_governor",
    "arm_network",
    "system_image",
    "control_success_rate",
    "cameras",
    "usb_bandwidth",
    "camera_firmware",
    "clock",
    "clock_of_server",
    "dds_profile",
    "shared_memory",
    "disk",
)
NEEDS_HARDWARE = frozenset(CHECKS[:9])
"""What a simulated arm and simulated cameras do without."""


class PreflightError(RuntimeError):
    """An essential check did not pass; the text names it and says what to do."""


@dataclass(frozen=True)
class PreflightConfig:
    """What to check, and for which set-up.

    robot_ip: address of the arm, or empty. cameras: serial number (or empty) by name.
    stream: width, height [px], frames a second of every camera. policy_url: or empty.
    environment: of the nodes. directory: where recordings go. simulated: leave hardware out.
    control_loop: let the arm hold itself to measure its control_command_success_rate.
    waived: checks that may fail; somebody answers for it.
    """

    robot_ip: str
    cameras: Mapping[str, str]
    stream: tuple[int, int, int]
    policy_url: str
    environment: Mapping[str, str]
    directory: Path = Path("runs")
    simulated: bool = False
    control_loop: bool = False
    waived: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        unknown = sorted(self.waived - set(CHECKS))
        if unknown:
            raise ValueError(f"no check {', '.join(unknown)}; there are: {', '.join(CHECKS)}")

    @classmethod
    def from_graph(
        cls,
        arguments: GraphArguments,
        *,
        directory: Path = Path("runs"),
        control_loop: bool = False,
        waived: Iterable[str] = (),
    ) -> PreflightConfig:
        """For the graph that these launch arguments start."""
        width, height, rate = _stream(arguments.color_profile or "640x480x30")
        return cls(
            robot_ip=arguments.robot_ip,
            cameras=arguments.camera_serials,
            stream=(width, height, rate),
            policy_url=arguments.policy_url,
            environment={**os.environ, **build_graph(arguments).environment},
            directory=directory,
            simulated=arguments.simulated,
            control_loop=control_loop and not arguments.simulated,
            waived=frozenset(waived),
        )


def run_checks(
    config: PreflightConfig, progress: Callable[[str], None] = lambda check: None
) -> list[Finding]:
    """Every check in the order of CHECKS; `progress` hears the name of each before it runs."""
    examine = _examinations(config)
    findings = []
    for check in CHECKS:
        progress(check)
        if config.simulated and check in NEEDS_HARDWARE:
            findings.append(Finding(check, False, Outcome.SKIPPED, "simulated"))
            continue
        found = examine[check]()
        if found.blocks and check in config.waived:
            found = replace(found, essential=False, found=f"waived: {found.found}")
        findings.append(found)
    return findings


def check_before_motion(config: PreflightConfig) -> list[Finding]:
    """For bringup: all findings.

    Raises:
        PreflightError: an essential one did not pass, so nothing may move.
    """
    findings = run_checks(config)
    blocking = [f for f in findings if f.blocks]
    if blocking:
        texts = "\n".join(f"  {f.check}: {f.found}; {f.remedy}" for f in blocking)
        raise PreflightError(f"no motion before this is mended:\n{texts}")
    return findings


def check_graph_before_motion(arguments: GraphArguments) -> None:
    """For bringup: nothing where all is simulated. Raises PreflightError, and ValueError for an
    unknown check among the waived ones."""
    if arguments.simulated:
        return
    waived = [name.strip() for name in arguments.waived_checks.split(",") if name.strip()]
    check_before_motion(PreflightConfig.from_graph(arguments, waived=waived))


def _examinations(config: PreflightConfig) -> dict[str, Callable[[], Finding]]:
    seen: list[tuple[cameras.Camera, ...] | Unavailable] = []

    def all_cameras() -> tuple[cameras.Camera, ...] | Unavailable:
        if not seen:
            seen.append(cameras.probe_cameras())
        return seen[0]

    def clock_offset() -> Finding:
        url = config.policy_url
        return clocks.check_clock_offset(clocks.probe_clock_offset(url) if url else None)

    return {
        "realtime_kernel": lambda: machine.check_kernel(machine.probe_kernel()),
        "realtime_rights": lambda: machine.check_rights(machine.probe_rights()),
        "cpu_governor": lambda: machine.check_governor(machine.probe_governors()),
        "arm_network": lambda: arm.check_network(arm.probe_round_trips(config.robot_ip)),
        "system_image": lambda: arm.check_system_image(arm.probe_fci_protocol(config.robot_ip)),
        "control_success_rate": lambda: arm.check_success_rate(_hold(config)),
        "cameras": lambda: cameras.check_cameras(all_cameras(), config.cameras),
        "usb_bandwidth": lambda: cameras.check_usb(all_cameras(), config.stream),
        "camera_firmware": lambda: cameras.check_firmware(all_cameras()),
        "clock": lambda: clocks.check_clock(clocks.probe_clock()),
        "clock_of_server": clock_offset,
        "dds_profile": lambda: machine.check_dds(machine.probe_dds(config.environment)),
        "shared_memory": lambda: machine.check_shared_memory(machine.probe_space(Path("/dev/shm"))),
        "disk": lambda: machine.check_disk(machine.probe_space(config.directory)),
    }


def _hold(config: PreflightConfig) -> arm.SuccessRate | Unavailable | None:
    if not config.control_loop:
        return None
    if not config.robot_ip:
        return Unavailable("no address of the arm")
    # Imported here: franky is only needed for this one.
    from roboalign.arm_driver import ArmDriver

    return arm.probe_success_rate(ArmDriver(config.robot_ip))


def _stream(profile: str) -> tuple[int, int, int]:
    numbers = profile.split("x")
    if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
        raise ValueError(f"colour profile {profile!r} is not of the form 640x480x30")
    width, height, rate = map(int, numbers)
    return width, height, rate


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = _parser().parse_args(arguments)
    try:
        config = _config(options)
    except (ValueError, GraphError) as error:
        print(f"preflight: {error}", file=sys.stderr)
        return 2
    try:
        findings = _run(config)
    except KeyboardInterrupt:
        return 130
    may_move = not any(f.blocks for f in findings)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table("Preflight", findings))
    console.print(_verdict(findings))
    if options.json:
        print(json.dumps({"may_move": may_move, **summary(findings)}), flush=True)
    return 0 if may_move else 1


def _run(config: PreflightConfig) -> list[Finding]:
    with Console(stderr=True).status("preflight") as status:
        return run_checks(config, lambda check: status.update(check.replace("_", " ")))


def _verdict(findings: Sequence[Finding]) -> str:
    blocking = [f.check.replace("_", " ") for f in findings if f.blocks]
    if blocking:
        return f"The arm must not move: {', '.join(blocking)}."
    return "Nothing essential is missing."


def _config(options: argparse.Namespace) -> PreflightConfig:
    # The graph's rules for arguments, without its demand for an address: a bare machine has none.
    simulated = options.sim or not options.robot_ip
    graph = GraphArguments(
        robot_ip=options.robot_ip,
        sim=simulated,
        cameras=options.cameras,
        color_profile=options.color_profile,
        policy_url=options.policy_url,
    )
    config = PreflightConfig.from_graph(
        graph, directory=options.directory, waived=options.waive or ()
    )
    return replace(config, simulated=options.sim, control_loop=options.control_loop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m roboalign.preflight", description=__doc__)
    parser.add_argument("--robot-ip", default="", help="address of the arm")
    parser.add_argument(
        "--cameras", default="front,wrist", help="names with serials: front:1234,wrist:5678"
    )
    parser.add_argument("--color-profile", default="640x480x30", help="of every camera")
    parser.add_argument("--policy-url", default="", help="of the policy server, ws://gpu:8000")
    parser.add_argument("--sim", action="store_true", help="leave out what only hardware needs")
    parser.add_argument(
        "--control-loop",
        action="store_true",
        help="measure the control success rate: the arm holds itself for two seconds",
    )
    parser.add_argument(
        "--waive", action="append", metavar="CHECK", help="let this check fail; may be repeated"
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("runs"), help="where recordings go (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line last")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
