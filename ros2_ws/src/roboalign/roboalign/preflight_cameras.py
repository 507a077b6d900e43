"""The RealSense cameras: which are there, on which port, with which firmware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roboalign.preflight_findings import Finding, Outcome, Unavailable, judge

USB3_USABLE_BITS = 3.0e9
"""Of 5 Gbit/s; what is left after encoding, protocol and a margin for bursts."""
COLOUR_BITS = 16
"""A pixel on the bus: RealSense cameras send YUYV, whatever format the program sees."""


@dataclass(frozen=True)
class Camera:
    """One RealSense; usb_type as `3.2`, port as librealsense names it."""

    name: str
    serial: str
    usb_type: str
    port: str
    firmware: str
    recommended_firmware: str


def check_cameras(found: tuple[Camera, ...] | Unavailable, wanted: Mapping[str, str]) -> Finding:
    """`wanted`: serial number, or empty for any, by camera name."""
    name = "cameras"
    remedy = (
        "plug it into a USB 3 port by a USB 3 cable; install librealsense's udev rules; "
        "`rs-enumerate-devices` shows what is there"
    )
    if isinstance(found, Unavailable):
        return Finding(name, True, Outcome.UNKNOWN, found.reason, remedy)
    serials = {camera.serial for camera in found}
    problems = [
        f"{camera} ({serial}) is missing"
        for camera, serial in wanted.items()
        if serial and serial not in serials
    ]
    if len(found) < len(wanted):
        problems.append(f"{len(found)} of {len(wanted)} cameras are there")
    unnamed = [camera for camera, serial in wanted.items() if not serial]
    if unnamed and len(wanted) > 1:
        problems.append(f"no serial number given for {', '.join(unnamed)}")
        remedy = f"--cameras name:serial,...; {remedy}"
    seen = ", ".join(f"{c.name} {c.serial}" for c in found) or "none"
    return judge(name, essential=True, problems=problems, found=seen, remedy=remedy)


def check_usb(found: tuple[Camera, ...] | Unavailable, stream: tuple[int, int, int]) -> Finding:
    """Port and bandwidth, for one colour stream (width, height, frames a second) a camera."""
    name = "usb_bandwidth"
    if isinstance(found, Unavailable) or not found:
        return Finding(name, True, Outcome.SKIPPED, "no camera to look at")
    slow = [f"{c.serial} runs on USB {c.usb_type or '?'}" for c in found if c.usb_type[:1] != "3"]
    width, height, rate = stream
    each = width * height * rate * COLOUR_BITS
    controllers: dict[str, int] = {}
    for camera in found:
        key = usb_controller(camera.port)
        controllers[key] = controllers.get(key, 0) + each
    full = [key for key, bits in controllers.items() if bits > USB3_USABLE_BITS]
    busiest = max(controllers.values())
    return judge(
        name,
        essential=True,
        problems=[*slow, *(f"controller {key} has too much to carry" for key in full)],
        found=f"at most {busiest / 1e6:.0f} Mbit/s on one of {len(controllers)} controllers",
        remedy="USB 3 cable and port; spread the cameras over controllers; smaller color_profile",
    )


def check_firmware(found: tuple[Camera, ...] | Unavailable) -> Finding:
    name = "camera_firmware"
    if isinstance(found, Unavailable) or not found:
        return Finding(name, False, Outcome.SKIPPED, "no camera to look at")
    old = [
        f"{c.serial} has {c.firmware}, recommended is {c.recommended_firmware}"
        for c in found
        if _version(c.firmware) < _version(c.recommended_firmware)
    ]
    return judge(
        name,
        essential=False,
        problems=old,
        found=", ".join(sorted({c.firmware for c in found})),
        remedy="`rs-fw-update -l`, then `rs-fw-update -f FILE` with Intel's signed image",
    )


def usb_controller(port: str) -> str:
    """Controller part of librealsense's physical_port.

    `/sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/...` is on `0000:00:14.0`, `2-1-3` on bus `2`.
    """
    if "/usb" in port:
        return port.partition("/usb")[0].rpartition("/")[2]
    return port.partition("-")[0]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def probe_cameras() -> tuple[Camera, ...] | Unavailable:
    try:
        import pyrealsense2 as rs
    except ImportError:
        return Unavailable("pyrealsense2 is not installed")
    try:
        return tuple(_describe(rs.camera_info, device) for device in rs.context().devices)
    except RuntimeError as error:
        return Unavailable(f"librealsense: {error}")


def _describe(info: Any, device: Any) -> Camera:
    def read(key: Any) -> str:
        return str(device.get_info(key)) if device.supports(key) else ""

    return Camera(
        name=read(info.name),
        serial=read(info.serial_number),
        usb_type=read(info.usb_type_descriptor),
        port=read(info.physical_port),
        firmware=read(info.firmware_version),
        recommended_firmware=read(info.recommended_firmware_version),
    )
