"""The way to the arm: round trips, the version of its system, and how many commands arrive."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from roboalign.preflight_findings import Finding, Outcome, Unavailable, judge

FCI_BUDGET_MS = 1.0
"""Franka's FCI documentation: round trip, own loop and robot together take less than this."""
RTT_ADVICE_MS = 0.5
LARGEST_LOSS = 0.001
SMALLEST_SUCCESS_RATE = 0.95
"""libfranka's communication_test calls less `many packets got lost`, and 0.9 insufficient."""
FCI_PROTOCOL = 10
"""Of libfranka 0.18 to 0.21, which franky brings."""
SYSTEM_IMAGES = {6: "5.2.0", 7: "5.5.0", 8: "5.7.0", 9: "5.7.2", 10: "5.9.0"}
"""Oldest system image of each FCI protocol (Franka's compatibility table)."""
FCI_PORT = 1337
HEADER = struct.Struct("<III")
CONNECT = struct.Struct("<HH")
CONNECT_COMMAND = 0
ECHOES = 200
ECHO_PAUSE_S = 0.005
ECHO_BYTES = 1200
"""As in Franka's own network test; FCI's state packets have about that size."""
ICMP_ECHO_REQUEST = 8
LOST_AFTER_S = 0.1
TCP_CONNECTIONS = 20
TCP_LOST_AFTER_S = 0.9
GIVE_UP_AFTER = 3
"""Packets without any answer: nobody is there."""
HOLD_S = 2.0
SAMPLE_PERIOD_S = 0.02
STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class RoundTrips:
    """method: `icmp`, or `tcp` where that is not allowed. times_ms: of those answered."""

    method: str
    sent: int
    times_ms: tuple[float, ...]


@dataclass(frozen=True)
class SuccessRate:
    """Mean of libfranka's control_command_success_rate while the arm held still."""

    share: float
    seconds: float


def check_network(trips: RoundTrips | Unavailable) -> Finding:
    """Round trip and loss between this computer and the arm."""
    name = "arm_network"
    remedy = (
        "a direct cable from a PCIe network card to the arm's control unit, no switch; "
        "no other traffic, no power saving (`ethtool --set-eee IF eee off`)"
    )
    if isinstance(trips, Unavailable):
        return Finding(name, True, Outcome.UNKNOWN, trips.reason, "give --robot-ip")
    if not trips.times_ms:
        return Finding(
            name,
            True,
            Outcome.FAILED,
            f"none of {trips.sent} packets was answered ({trips.method})",
            "switch the arm on, unlock its joints, activate FCI in Desk; check cable and address",
        )
    loss = 1.0 - len(trips.times_ms) / trips.sent
    p99 = float(np.percentile(trips.times_ms, 99))
    problems = []
    if loss > LARGEST_LOSS:
        problems.append(f"{100 * loss:.1f} % lost")
    if p99 > FCI_BUDGET_MS:
        problems.append(f"slower than FCI's {FCI_BUDGET_MS:g} ms")
    median = float(np.median(trips.times_ms))
    found = f"{trips.method}: median {median:.2f}, p99 {p99:.2f} ms, {100 * loss:.1f} % lost"
    finding = judge(name, essential=True, problems=problems, found=found, remedy=remedy)
    if finding.outcome is Outcome.PASSED and p99 > RTT_ADVICE_MS:
        return Finding(name, True, Outcome.PASSED, f"{found}; little margin", remedy)
    return finding


def check_system_image(protocol: int | Unavailable) -> Finding:
    """`protocol`: FCI version that the arm's server announced."""
    name = "system_image"
    if isinstance(protocol, Unavailable):
        return Finding(
            name, True, Outcome.UNKNOWN, protocol.reason, "activate FCI in Desk, give --robot-ip"
        )
    image = SYSTEM_IMAGES.get(protocol)
    seen = f"FCI protocol {protocol}" + (f", system image {image} or newer" if image else "")
    older = protocol < FCI_PROTOCOL
    return judge(
        name,
        essential=True,
        problems=[f"this software speaks FCI protocol {FCI_PROTOCOL}"]
        if protocol != FCI_PROTOCOL
        else [],
        found=seen,
        remedy=f"update the arm to system image {SYSTEM_IMAGES[FCI_PROTOCOL]} or newer"
        if older
        else "install a franky wheel built with the libfranka of this system image",
    )


def check_success_rate(rate: SuccessRate | Unavailable | None) -> Finding:
    """None: not asked for, because the arm has to hold itself for it."""
    name = "control_success_rate"
    if rate is None:
        text = "not measured: the arm holds still by its motors meanwhile"
        return Finding(name, True, Outcome.SKIPPED, text, "add --control-loop, beside the arm")
    if isinstance(rate, Unavailable):
        remedy = "release the user stop, unlock the joints, activate FCI, end other clients"
        return Finding(name, True, Outcome.UNKNOWN, rate.reason, remedy)
    low = rate.share < SMALLEST_SUCCESS_RATE
    return judge(
        name,
        essential=True,
        problems=[f"less than {SMALLEST_SUCCESS_RATE:g} of the commands arrived"] if low else [],
        found=f"{rate.share:.3f} over {rate.seconds:g} s",
        remedy="real-time kernel, performance governor, direct cable; no cameras and no display on "
        "the same USB or network controller's interrupts",
    )


def probe_round_trips(host: str, port: int = FCI_PORT) -> RoundTrips | Unavailable:
    """ICMP echoes of FCI's packet size where this user may send them, else TCP connections."""
    if not host:
        return Unavailable("no address of the arm")
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        return Unavailable(f"{host}: {error}")
    try:
        return _icmp_round_trips(address)
    except PermissionError:
        return tcp_round_trips(address, port)
    except OSError as error:
        return Unavailable(f"cannot reach {host}: {error}")


def _icmp_round_trips(address: str) -> RoundTrips:
    times: list[float] = []
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as echo:
        for number in range(ECHOES):
            started = time.perf_counter()
            sent += 1
            # The kernel fills in identifier and checksum.
            header = struct.pack("!BBHHH", ICMP_ECHO_REQUEST, 0, 0, 0, number)
            echo.sendto(header + bytes(ECHO_BYTES), (address, 0))
            if _echoed(echo, number, started + LOST_AFTER_S):
                times.append(1e3 * (time.perf_counter() - started))
            if sent == GIVE_UP_AFTER and not times:
                break
            time.sleep(ECHO_PAUSE_S)
    return RoundTrips("icmp", sent, tuple(times))


def _echoed(echo: socket.socket, number: int, deadline: float) -> bool:
    """Wait for the echo of packet `number`; later ones of earlier packets count as lost."""
    while (remaining := deadline - time.perf_counter()) > 0.0:
        echo.settimeout(remaining)
        try:
            data = echo.recv(2048)
        except TimeoutError:
            return False
        if struct.unpack_from("!H", data, 6)[0] == number:
            return True
    return False


def tcp_round_trips(address: str, port: int, count: int = TCP_CONNECTIONS) -> RoundTrips:
    """A connection or its refusal is one round trip; a lost packet is sent again after 1 s."""
    times: list[float] = []
    sent = 0
    for _ in range(count):
        started = time.perf_counter()
        sent += 1
        try:
            socket.create_connection((address, port), timeout=TCP_LOST_AFTER_S).close()
        except ConnectionRefusedError:
            pass
        except OSError:
            if sent == GIVE_UP_AFTER and not times:
                break
            continue
        times.append(1e3 * (time.perf_counter() - started))
        time.sleep(ECHO_PAUSE_S)
    return RoundTrips("tcp", sent, tuple(times))


def probe_fci_protocol(
    host: str, port: int = FCI_PORT, timeout_s: float = 3.0
) -> int | Unavailable:
    """Version in the answer to libfranka's first message; then hang up.

    Header: command, its number, size, each uint32; request: version, UDP port, each uint16;
    answer: status and version, each uint16, little endian (libfranka-common, service_types.h).
    """
    if not host:
        return Unavailable("no address of the arm")
    size = HEADER.size + CONNECT.size
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as connection,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as states,
        ):
            states.bind(("", 0))
            request = CONNECT.pack(FCI_PROTOCOL, states.getsockname()[1])
            connection.sendall(HEADER.pack(CONNECT_COMMAND, 0, size) + request)
            answer = b""
            while len(answer) < size:
                part = connection.recv(64)
                if not part:
                    return Unavailable("the arm hung up: does another client hold it?")
                answer += part
    except OSError as error:
        return Unavailable(f"no FCI at {host}: {error}")
    return int(CONNECT.unpack_from(answer, HEADER.size)[1])


class HoldingArm(Protocol):
    """What of ArmDriver the measurement needs."""

    def connect(self) -> None: ...
    def start_tracking(self) -> None: ...
    def read(self) -> ArmReading: ...
    def begin_stop(self) -> None: ...
    def moving(self) -> bool: ...


class ArmReading(Protocol):
    """A state of the arm."""

    @property
    def success_rate(self) -> float: ...


def probe_success_rate(arm: HoldingArm, seconds: float = HOLD_S) -> SuccessRate | Unavailable:
    """Hold the arm where it stands for `seconds`, then stop it as ArmDriver does."""
    rates = []
    try:
        arm.connect()
        arm.start_tracking()
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(SAMPLE_PERIOD_S)
                rates.append(arm.read().success_rate)
        finally:
            # After Ctrl-C as well.
            _stop(arm)
    except RuntimeError as error:
        return Unavailable(str(error))
    # The rate looks back over 100 commands: the first samples know less.
    return SuccessRate(float(np.mean(rates[len(rates) // 4 :])), seconds)


def _stop(arm: HoldingArm) -> None:
    until = time.monotonic() + STOP_TIMEOUT_S
    arm.begin_stop()
    while arm.moving() and time.monotonic() < until:
        time.sleep(SAMPLE_PERIOD_S)
