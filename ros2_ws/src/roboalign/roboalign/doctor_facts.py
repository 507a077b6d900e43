"""What a machine is: prints its facts as one line of JSON. `python doctor_facts.py [DIRECTORY]`.

Standard library only: the doctor sends this file over ssh to machines that may have nothing else.
DIRECTORY is the checkout or installation there.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "msgpack", "websockets", "onnxruntime", "onnxruntime-gpu", "torch")
"""What goes over the wire, and what computes."""
LISTENING = "0A"
GPU_FIELDS = "name,driver_version,memory.total,memory.used"


def gather(directory: Path) -> dict[str, object]:
    """Facts by name; what this machine lacks is empty or absent."""
    return {
        "host": platform.node(),
        "time": time.time(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": memory(Path("/proc/meminfo")),
        "packages": packages(),
        "commit": said("git", "-C", str(directory), "rev-parse", "--short=12", "HEAD"),
        "changed": bool(said("git", "-C", str(directory), "status", "--porcelain")),
        "disk": disk(directory),
        "gpus": gpus(),
        "listening": listening(Path("/proc/net/tcp")),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


ENVIRONMENT = (
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "RMW_IMPLEMENTATION",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_DISTRO",
    "ROS_DOMAIN_ID",
)


def packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def memory(path: Path) -> int:
    """Of the whole machine [bytes]; 0 if unknown."""
    if not path.is_file():
        return 0
    first = path.read_text().split("\n", 1)[0]
    return int(first.split()[1]) * 1024


def disk(directory: Path) -> dict[str, int]:
    there = directory if directory.exists() else Path("/")
    usage = shutil.disk_usage(there)
    return {"free": usage.free, "total": usage.total}


def gpus() -> list[dict[str, object]]:
    """As nvidia-smi has them; memory in bytes."""
    lines = said("nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader,nounits")
    found = []
    for line in lines.splitlines():
        name, driver, total, used = (part.strip() for part in line.split(","))
        found.append(
            {
                "name": name,
                "driver": driver,
                "memory_total": int(total) * 2**20,
                "memory_used": int(used) * 2**20,
            }
        )
    return found


def listening(table: Path) -> list[tuple[str, int]]:
    """Address and port of every TCP socket over IPv4 that listens, from the kernel's table."""
    if not table.is_file():
        return []
    found = set()
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == LISTENING:
            address, _, port = fields[1].partition(":")
            # Little endian, as the processor stores it.
            octets = bytes.fromhex(address)[::-1]
            found.add((".".join(map(str, octets)), int(port, 16)))
    return sorted(found)


def said(*command: str) -> str:
    """Standard output, or empty: there is no such command, or it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    print(json.dumps(gather(Path(sys.argv[1] if len(sys.argv) > 1 else "."))))
