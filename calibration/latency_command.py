"""`python -m calibration.latency`: how late camera, robot and gripper are.

Without --robot-ip the simulated set-up is started, measured and ended; its own state by the clock
stands in for the moving marker. The result goes into a new calibration file, beside the last one,
which stays as it is. Exit code 0: measured; 1: not, the text says why; 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from calibration import files
from calibration.board import Board
from calibration.check import SIMULATED, STORE
from calibration.check_views import camera_of, check_source, plan_views
from calibration.detection import CaptureError
from calibration.drift import DriftError
from calibration.latency import Delay, LatencyError, Signal
from calibration.latency_page import render_page
from calibration.latency_pattern import pattern_page, pattern_signals
from calibration.latency_recording import LatencyRecording, measure, to_latencies
from calibration.live_latency import (
    arm_signals,
    record_frames,
    record_hand,
    record_motion,
    seen_positions,
    watched_truth,
)
from calibration.live_link import LiveSource, open_live
from calibration.pinhole import Intrinsics
from calibration.source import MotionError
from calibration.store import CalibrationStore, read_calibration
from contracts.calibration import Calibration

INTERRUPTED: Final = 130
ERRORS: Final = (LatencyError, DriftError, MotionError, CaptureError, ValueError, OSError)
PAGE: Final = "latency.html"
PATTERN_PAGE: Final = "pattern.html"

Tell = Callable[[str], None]


def record_live(
    camera: str, calibration: Calibration, address: str, serial: str, out: Path, tell: Tell
) -> LatencyRecording:
    """Record everything on the live set-up.

    Raises:
        LatencyError, DriftError, MotionError, CaptureError: the text says why not.
    """
    board = Board.from_document(calibration.board) if calibration.board else Board()
    entry = camera_of(calibration, camera)
    tell("planning")
    [start, *_] = plan_views(entry, board, 4)
    tell("starting")
    if address:
        _ask("clear the workspace: the arm moves home", tell)
    with open_live(camera, board, address, serial) as source:
        check_source(calibration, source)
        by_clock = _record_pattern(source, out, tell) if address else None
        if address:
            _ask(f"put the board before the {camera} camera as at calibration", tell)
        tell("moving the arm")
        source.move_to(start)
        with watched_truth(source.simulation) if source.simulation else nullcontext() as truth:
            track, frames = record_motion(source)
        tell("looking at the pictures")
        seen = seen_positions(frames, board, Intrinsics.of(entry), f"{camera} pictures")
        if truth is not None:
            by_clock = truth(), seen
        assert by_clock is not None  # a real set-up has watched the marker
        if address:
            _ask("take everything out of the hand", tell)
        tell("moving the fingers")
        commands, width = record_hand(source.arm.address)
    commanded, arm = arm_signals(track)
    return LatencyRecording(*by_clock, seen, arm, commanded, commands, width)


def _record_pattern(source: LiveSource, out: Path, tell: Tell) -> tuple[Signal, Signal]:
    page = out / PATTERN_PAGE
    files.write_atomically(page, pattern_page().encode())
    _ask(f"open {page} on a screen before the {source.camera} camera, full screen", tell)
    tell("watching the marker")
    return pattern_signals(record_frames(source))


def in_force(path: Path | None, store: CalibrationStore, simulated: bool) -> Calibration:
    """The calibration that the latencies belong to. Raises ValueError: there is none."""
    if path is not None:
        return read_calibration(path)
    found = store.in_force()
    if found is None and simulated:
        found = read_calibration(SIMULATED)
    if found is None:
        raise ValueError(
            f"no calibration in {store.folder}: calibrate the cameras first "
            "(python -m calibration.hand_eye), or give a file with --calibration"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code as the module says."""
    options = _parser().parse_args(arguments)
    # A shell starts what runs in its background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console = Console(stderr=True)
    store = CalibrationStore(options.out / "calibrations" if options.out else STORE)
    out = options.out or STORE.parent
    try:
        calibration = in_force(options.calibration, store, not options.robot_ip)
        with console.status("starting") as status:
            recording = record_live(
                options.camera, calibration, options.robot_ip, options.serial, out, status.update
            )
            delays = measure(recording)
        page = render_page(recording, delays, f"{calibration.robot}, {options.camera} camera")
        files.write_atomically(out / PAGE, page.encode())
        now = datetime.now(UTC)
        written = replace(calibration, made_on=now.date(), latencies=to_latencies(delays))
        path = store.write(written, now)
    except KeyboardInterrupt:
        print("latency: interrupted; the arm rests", file=sys.stderr)
        return INTERRUPTED
    except ERRORS as error:
        print(f"latency: {error}", file=sys.stderr)
        return 1
    _show(delays)
    print(path)
    print(out / PAGE)
    if options.json:
        print(json.dumps({name: _rounded(delay) for name, delay in delays.items()}))
    return 0


def _show(delays: Mapping[str, Delay]) -> None:
    table = Table("latency", "ms", "95 % interval", "correlation")
    for name, d in delays.items():
        low, high = 1e3 * d.low, 1e3 * d.high
        table.add_row(
            name, f"{1e3 * d.seconds:.1f}", f"{low:.1f} to {high:.1f}", f"{d.correlation:.4f}"
        )
    Console().print(table)


def _rounded(delay: Delay) -> dict[str, float]:
    return {
        "ms": round(1e3 * delay.seconds, 2),
        "low_ms": round(1e3 * delay.low, 2),
        "high_ms": round(1e3 * delay.high, 2),
        "correlation": round(delay.correlation, 5),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m calibration.latency", description=__doc__)
    add = parser.add_argument
    add("--backend", choices=("live",), default="live", help="latencies exist only in real time")
    add("--camera", choices=("front", "wrist"), default="front")
    add("--robot-ip", default="", help="a real arm; default: a simulated one")
    add("--serial", default="", help="serial number of a real camera")
    add("--calibration", type=Path, help=f"file that they belong to; default: in force in {STORE}")
    add("--out", type=Path, help="write to OUT/calibrations instead")
    add("--json", action="store_true", help="end with one line of JSON")
    return parser


def _ask(text: str, tell: Tell) -> None:
    tell(f"{text}, then press Enter")
    if sys.stdin.isatty():
        input()
