"""ROS 2 in the virtual environment: repair of the Jazzy wheels and the colcon build of ros2_ws.

Two cases. Without ROS on the machine, the wheels from PyPI live in the virtual environment and
ros2_ws is installed into the same prefix, so that Python needs no environment variables. With
ROS sourced, its own packages are used and ros2_ws is built against them.
"""

import os
import subprocess
import sys
from pathlib import Path

from progress import SetupError

# The wheels were built with an interpreter in this place, and their CMake files still name it.
VERSION = "{}.{}".format(*sys.version_info[:2])
TAG = "cp{}{}".format(*sys.version_info[:2])
WHEEL_BUILD_PYTHON = f"/opt/python/{TAG}-{TAG}"


def sourced_distribution() -> str | None:
    """Name of the ROS distribution whose setup file was sourced, else None."""
    return os.environ.get("ROS_DISTRO") if os.environ.get("AMENT_PREFIX_PATH") else None


def repair_wheels(venv: Path) -> int:
    """Point the wheels' CMake files at this environment's headers; return the files changed."""
    ask = "import numpy, sysconfig as s; print(numpy.get_include()); print(s.get_path('include'))"
    answer = subprocess.run(
        [str(venv / "bin/python"), "-c", ask], capture_output=True, text=True, check=True
    )
    numpy_headers, python_headers = answer.stdout.split()
    packages = f"{WHEEL_BUILD_PYTHON}/lib/python{VERSION}/site-packages"
    replacements = {
        f"{packages}/numpy/_core/include": numpy_headers,
        f"{WHEEL_BUILD_PYTHON}/include/python{VERSION}": python_headers,
    }
    changed = 0
    for path in sorted((venv / "share").glob("*/cmake/*.cmake")):
        before = path.read_text(encoding="utf-8")
        after = before
        for old, new in replacements.items():
            after = after.replace(old, new)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed += 1
    return changed


def build_environment(venv: Path) -> dict[str, str]:
    """Environment of colcon: only the wheels and the system, whatever the caller has set."""
    if sourced_distribution():
        return dict(os.environ)
    kept = ("HOME", "LANG", "LC_ALL", "TERM", "TMPDIR", "CMAKE_BUILD_PARALLEL_LEVEL")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    # Without this, colcon asks make to wait until the machine is idle.
    environment["MAKEFLAGS"] = f"-j{os.cpu_count() or 1}"
    environment["PATH"] = f"{venv}/bin:/usr/local/bin:/usr/bin:/bin"
    environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(venv)
    return environment


def build_command(workspace: Path, venv: Path) -> list[str]:
    """The colcon call. What it writes stays in the environment, and so goes away with it."""
    python = venv / "bin/python"
    return [
        str(python), "-m", "colcon", "--log-base", str(venv / "ros2_log"), "build",
        "--base-paths", str(workspace / "src"),
        "--build-base", str(venv / "ros2_build"),
        "--install-base", str(venv),
        "--merge-install", "--symlink-install",
        "--event-handlers", "console_cohesion-", "console_direct-", "status-",
        "--cmake-args", f"-DPython3_EXECUTABLE={python}", "-DBUILD_TESTING=OFF",
    ]  # fmt: skip


def check_command(venv: Path, ros: str) -> list[str]:
    """A call that fails unless Python finds ROS and the interfaces just built."""
    imports = "import rclpy; from roboalign_msgs.action import ExecuteTask; ExecuteTask.Goal()"
    python = f"'{venv}/bin/python' -c '{imports}'"
    if ros == "wheels":
        return ["/bin/sh", "-c", python]
    return ["/bin/bash", "-c", f"source '{venv}/local_setup.bash' && {python}"]


def check_sourced_python(distribution: str) -> None:
    """With ROS sourced, only the Python that this ROS was built for can be used."""
    found = subprocess.run([sys.executable, "-c", "import rclpy"], capture_output=True, check=False)
    if found.returncode != 0:
        raise SetupError(
            f"ROS {distribution} is sourced, but {sys.executable} cannot import its rclpy. Name "
            "the Python it was built for (Jazzy: PYTHON=/usr/bin/python3.12 make setup), or use a "
            "shell in which ROS is not sourced: the setup then takes ROS from wheels."
        )
