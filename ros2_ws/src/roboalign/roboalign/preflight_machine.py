"""The computer beside the arm: real-time scheduling, DDS, memory and disk.

The checks are pure; the probes below them look at this machine.
"""

from __future__ import annotations

import platform
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from roboalign.preflight_findings import Finding, Outcome, Unavailable, judge

SMALLEST_SEGMENT = 32 * 2**20
SMALLEST_SHARED_MEMORY = 256 * 2**20
LEAST_DISK = 2 * 2**30
ADVISED_DISK = 20 * 2**30
RTPRIO = 99
MEMLOCK = 100 * 2**20
DDS_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
"""What Jazzy's Fast DDS reads; the newer name FASTDDS_... is ignored there without a word."""
CAP_SYS_NICE = 23


@dataclass(frozen=True)
class Kernel:
    """release: `uname -r`; realtime: PREEMPT_RT runs."""

    release: str
    realtime: bool


@dataclass(frozen=True)
class RealtimeRights:
    """Limits of this user; infinity where there is none. capable: CAP_SYS_NICE is held."""

    rtprio: float
    memlock_bytes: float
    capable: bool


@dataclass(frozen=True)
class DdsProfile:
    """variable: the one that names the file, or empty. segment_bytes: of shared memory, 0: none."""

    variable: str
    path: str
    segment_bytes: int
    problem: str = ""


@dataclass(frozen=True)
class Space:
    """Of a file system [bytes]."""

    path: str
    free: int
    total: int


def check_kernel(kernel: Kernel) -> Finding:
    return judge(
        "realtime_kernel",
        essential=True,
        problems=[] if kernel.realtime else ["no PREEMPT_RT kernel"],
        found=kernel.release,
        remedy="boot one: `sudo pro enable realtime-kernel` on Ubuntu, "
        "`sudo apt install linux-image-rt-amd64` on Debian",
    )


def check_rights(rights: RealtimeRights) -> Finding:
    problems = []
    if rights.rtprio < RTPRIO and not rights.capable:
        problems.append(f"real-time priority is limited to {rights.rtprio:g}")
    if rights.memlock_bytes < MEMLOCK:
        problems.append(f"locked memory is limited to {_mib(rights.memlock_bytes)}")
    return judge(
        "realtime_rights",
        essential=True,
        problems=problems,
        found=f"rtprio {rights.rtprio:g}, memlock {_mib(rights.memlock_bytes)}",
        remedy="in /etc/security/limits.d/realtime.conf: `@realtime - rtprio 99` and "
        "`@realtime - memlock unlimited`; `sudo usermod -aG realtime $USER`; log in again. "
        "In a container: `ulimits` and `cap_add` as compose.yaml has them",
    )


def check_governor(governors: Mapping[str, str] | Unavailable) -> Finding:
    """`governors` by processor core."""
    name = "cpu_governor"
    if isinstance(governors, Unavailable):
        return Finding(name, False, Outcome.UNKNOWN, governors.reason, "look into the BIOS")
    slow = sorted(core for core, governor in governors.items() if governor != "performance")
    kinds = ", ".join(sorted(set(governors.values())))
    return judge(
        name,
        essential=False,
        problems=[f"{len(slow)} of {len(governors)} cores may slow down"] if slow else [],
        found=kinds,
        remedy="`sudo cpupower frequency-set -g performance`, and at every boot "
        "(`cpufrequtils`: GOVERNOR=performance in /etc/default/cpufrequtils)",
    )


def check_dds(profile: DdsProfile) -> Finding:
    problems = [profile.problem] if profile.problem else []
    if not profile.variable:
        problems.append("no profile is named")
    elif not profile.problem and profile.segment_bytes < SMALLEST_SEGMENT:
        problems.append(f"its shared memory segment has {_mib(profile.segment_bytes)}")
    return judge(
        "dds_profile",
        essential=True,
        problems=problems,
        found=f"{profile.variable}={profile.path}" if profile.variable else "",
        remedy="export FASTRTPS_DEFAULT_PROFILES_FILE=.../roboalign/config/fastdds.xml "
        "(launch file and supervisor do it): with the default most pictures are lost",
    )


def check_shared_memory(space: Space | Unavailable) -> Finding:
    """For Fast DDS's segments, 32 MiB a node."""
    name = "shared_memory"
    if isinstance(space, Unavailable):
        return Finding(name, True, Outcome.UNKNOWN, space.reason, "mount /dev/shm")
    low = space.free < SMALLEST_SHARED_MEMORY
    return judge(
        name,
        essential=True,
        problems=[f"less than {_mib(SMALLEST_SHARED_MEMORY)} free"] if low else [],
        found=f"{_mib(space.free)} free of {_mib(space.total)} in {space.path}",
        remedy="remove stale `fastdds_*` and `fastrtps_*` files of killed nodes; "
        "`shm_size` or `ipc: host` in a container",
    )


def check_disk(space: Space | Unavailable) -> Finding:
    """For logs, recordings and the flight recorder."""
    name = "disk"
    if isinstance(space, Unavailable):
        return Finding(name, True, Outcome.UNKNOWN, space.reason, "give a --directory that exists")
    remedy = "move old runs/ and recordings away; logrotate (docs/operation/logs.md)"
    found = f"{space.free / 2**30:.1f} of {space.total / 2**30:.0f} GiB free at {space.path}"
    if space.free < LEAST_DISK:
        return Finding(name, True, Outcome.FAILED, f"nearly full ({found})", remedy)
    little = space.free < ADVISED_DISK
    return Finding(name, True, Outcome.PASSED, found, remedy if little else "")


def _mib(count: float) -> str:
    return "unlimited" if count == float("inf") else f"{count / 2**20:.0f} MiB"


def probe_kernel() -> Kernel:
    flag = Path("/sys/kernel/realtime")
    uname = platform.uname()
    realtime = flag.is_file() and flag.read_text().strip() == "1"
    # The flag is libfranka's test; kernels from 6.12 on say it in their version, too.
    return Kernel(uname.release, realtime or "PREEMPT_RT" in uname.version)


def probe_rights() -> RealtimeRights:
    effective = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    return RealtimeRights(
        rtprio=_limit(resource.RLIMIT_RTPRIO),
        memlock_bytes=_limit(resource.RLIMIT_MEMLOCK),
        capable=bool(effective >> CAP_SYS_NICE & 1),
    )


def probe_governors(
    directory: Path = Path("/sys/devices/system/cpu"),
) -> Mapping[str, str] | Unavailable:
    files = sorted(directory.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    if not files:
        return Unavailable("this kernel does not show how it scales the processor's frequency")
    return {file.parts[-3]: file.read_text().strip() for file in files}


def probe_dds(environment: Mapping[str, str]) -> DdsProfile:
    """The profile that nodes started from `environment` would use."""
    path = environment.get(DDS_VARIABLE, "")
    if not path:
        return DdsProfile("", "", 0)
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        return DdsProfile(DDS_VARIABLE, path, 0, f"the profile cannot be read: {error}")
    # Fast DDS takes the file with and without its namespace.
    sizes = [int(e.text or 0) for e in root.iter() if e.tag.rpartition("}")[2] == "segment_size"]
    return DdsProfile(DDS_VARIABLE, path, max(sizes, default=0))


def probe_space(path: Path) -> Space | Unavailable:
    """Of the file system that holds `path`, which need not exist yet."""
    there = next((p for p in (path, *path.absolute().parents) if p.exists()), None)
    if there is None:
        return Unavailable(f"{path} does not exist")
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return Unavailable(f"cannot look at {path}: {error}")
    return Space(str(path), usage.free, usage.total)


def _limit(number: int) -> float:
    soft = resource.getrlimit(number)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else float(soft)
