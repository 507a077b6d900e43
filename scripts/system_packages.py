"""What the machine itself must have, checked by trying it, and apt to get what is missing."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from progress import SetupError, run_logged, say


@dataclass(frozen=True)
class Requirement:
    """One thing that the machine must offer, and the Debian package that brings it."""

    purpose: str
    package: str
    is_met: Callable[[], bool]


def loads(library: str) -> Callable[[], bool]:
    """Whether the dynamic linker finds this library."""

    def check() -> bool:
        try:
            ctypes.CDLL(library)
        except OSError:
            return False
        return True

    return check


def on_path(*programs: str) -> Callable[[], bool]:
    """Whether one of these programs is on PATH."""
    return lambda: any(shutil.which(program) for program in programs)


def has_ensurepip() -> bool:
    """Debian ships Python without it, and then `python -m venv` fails halfway."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return False
    return True


def has_python_headers() -> bool:
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def requirements(extras: list[str], with_ros: bool) -> list[Requirement]:
    """What these extras need from the system."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = [Requirement("virtual environments", f"{python}-venv", has_ensurepip)]
    if with_ros:
        found += build_requirements(python)
    if "sim" in extras:
        found += RENDERING
    if {"sim", "robot"} & set(extras):
        found += CAMERAS
    if "dev" in extras and is_debian():
        found += BROWSER
    return found


def is_debian() -> bool:
    """Ubuntu has Chromium as a snap only; there the tests of web pages skip without a browser."""
    release = Path("/etc/os-release")
    return release.is_file() and "ID=debian" in release.read_text().splitlines()


def build_requirements(python: str) -> list[Requirement]:
    return [
        Requirement("Python headers for the ROS interfaces", f"{python}-dev", has_python_headers),
        Requirement("build of the ROS interfaces", "cmake", on_path("cmake")),
        Requirement("build of the ROS interfaces", "g++", on_path("g++", "c++")),
        Requirement("build of the ROS interfaces", "make", on_path("make")),
    ]


RENDERING = [
    Requirement("rendering on the CPU", "libosmesa6", loads("libOSMesa.so.8")),
    Requirement("rendering", "libgl1", loads("libGL.so.1")),
]
BROWSER = [Requirement("tests of web pages", "chromium", on_path("chromium"))]
CAMERAS = [
    Requirement("RealSense cameras", "libusb-1.0-0", loads("libusb-1.0.so.0")),
    Requirement("RealSense cameras", "libudev1", loads("libudev.so.1")),
]


def apt_prefix() -> list[str] | None:
    """How apt-get may be called here without a password, else None."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(
        ["sudo", "-n", "true"], stderr=subprocess.DEVNULL, check=False
    ).returncode == 0:  # fmt: skip
        return ["sudo", "-n"]
    return None


def ensure(logs: Path, wanted: list[Requirement]) -> None:
    """Install what is missing where that needs no password, else say the one command and stop."""
    missing = [each for each in wanted if not each.is_met()]
    if not missing:
        return
    for each in missing:
        say(f"      missing: {each.package} ({each.purpose})")
    packages = list(dict.fromkeys(each.package for each in missing))
    prefix = apt_prefix()
    if prefix is None:
        raise SetupError(
            "some system packages are missing and may not be installed from here. Run\n\n"
            f"    sudo apt-get install -y {' '.join(packages)}\n\n"
            "(or your system's equal) and start again."
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = [*prefix, "apt-get"]
    run_logged([*apt, "update"], logs / "apt_update.log", environment)
    install = [*apt, "install", "-y", "--no-install-recommends", *packages]
    run_logged(install, logs / "apt_install.log", environment)
    still = [each.package for each in missing if not each.is_met()]
    if still:
        raise SetupError(f"apt-get installed {', '.join(still)}, yet it does not work here")
