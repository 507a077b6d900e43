"""Clocks: this machine's against its time server, and against the policy server's."""

from __future__ import annotations

import http.client
import subprocess
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from roboalign.preflight_findings import Finding, Outcome, Unavailable, judge

LARGEST_CLOCK_ERROR_S = 0.005
DATE_AGE_S = 2.0
"""An HTTP Date has whole seconds, and uvicorn renews it once a second."""


@dataclass(frozen=True)
class Clock:
    """This machine's clock. source: `chrony`, `timesyncd`; error_s: bound, where it is known."""

    source: str
    synchronised: bool
    error_s: float | None


@dataclass(frozen=True)
class ClockOffset:
    """Another machine's clock minus ours, within +- uncertainty_s."""

    offset_s: float
    uncertainty_s: float


def check_clock(clock: Clock | Unavailable) -> Finding:
    """This machine against its time server."""
    name = "clock"
    remedy = "`sudo apt install chrony`; docs/operation/time.md has the configuration"
    if isinstance(clock, Unavailable):
        return Finding(name, False, Outcome.UNKNOWN, clock.reason, remedy)
    problems = [] if clock.synchronised else ["not synchronised"]
    if clock.error_s is not None and clock.error_s > LARGEST_CLOCK_ERROR_S:
        problems.append(f"wrong by up to {1e3 * clock.error_s:.1f} ms")
    bound = "" if clock.error_s is None else f", within {1e3 * clock.error_s:.2f} ms"
    return judge(
        name, essential=False, problems=problems, found=clock.source + bound, remedy=remedy
    )


def check_clock_offset(offset: ClockOffset | Unavailable | None) -> Finding:
    """This machine against the policy server's. None: no server was named."""
    name, remedy = "clock_of_server", "chrony on both machines, one of them the other's server"
    if offset is None:
        return Finding(name, False, Outcome.SKIPPED, "no policy server named", "give --policy-url")
    if isinstance(offset, Unavailable):
        return Finding(name, False, Outcome.UNKNOWN, offset.reason, "start the policy server")
    apart = abs(offset.offset_s) > LARGEST_CLOCK_ERROR_S + offset.uncertainty_s
    return judge(
        name,
        essential=False,
        problems=["the clocks are apart"] if apart else [],
        found=f"{offset.offset_s:+.3f} s, known to {offset.uncertainty_s:.3f} s",
        remedy=remedy,
    )


def probe_clock() -> Clock | Unavailable:
    """What chrony says, else systemd."""
    tracking = _said("chronyc", "-c", "tracking")
    if tracking is not None:
        return parse_chrony(tracking)
    answer = _said("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if answer is not None:
        return Clock("timesyncd", answer.strip() == "yes", None)
    return Unavailable("neither chrony nor systemd-timesyncd answers")


def parse_chrony(line: str) -> Clock | Unavailable:
    """From `chronyc -c tracking`; the error is chrony's own bound.

    chrony.conf(5), `clock error`: system time's offset + root dispersion + root delay / 2.
    """
    fields = line.strip().split(",")
    try:
        offset, delay, dispersion = (float(fields[i]) for i in (4, 10, 11))
        leap = fields[13]
    except (IndexError, ValueError):
        return Unavailable(f"chronyc said {line.strip()[:80]!r}")
    return Clock("chrony", leap != "Not synchronised", abs(offset) + dispersion + delay / 2)


def probe_clock_offset(url: str, timeout_s: float = 3.0) -> ClockOffset | Unavailable:
    """Against the Date that the policy server at `url` (ws, wss, http or https) answers with."""
    parts = urlsplit(url)
    secure = parts.scheme in ("wss", "https")
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    if not parts.hostname:
        return Unavailable(f"{url!r} is no address of a policy server")
    connection = kind(parts.hostname, parts.port, timeout=timeout_s)
    try:
        sent = time.time()
        connection.request("GET", "/healthz")
        date = connection.getresponse().headers.get("Date", "")
        received = time.time()
    except (OSError, http.client.HTTPException) as error:
        return Unavailable(f"the policy server at {url} does not answer: {error}")
    finally:
        connection.close()
    return offset_from_date(date, sent, received)


def offset_from_date(date: str, sent: float, received: float) -> ClockOffset | Unavailable:
    """The header has whole seconds, and is up to one old: the clock showed date + 0..2 s."""
    try:
        shown = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Unavailable(f"the policy server sends no usable Date: {date!r}")
    return ClockOffset(
        offset_s=shown + DATE_AGE_S / 2 - (sent + received) / 2,
        uncertainty_s=DATE_AGE_S / 2 + (received - sent) / 2,
    )


def _said(*command: str) -> str | None:
    """Standard output, or None: there is no such command, or it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5.0, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
