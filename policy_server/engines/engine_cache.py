"""Where built engines lie, and for what each was built.

An engine holds for one graph, one product and version, one GPU and one driver: the key is a hash
of all of them, so that an engine of another machine or an older driver is never found.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from contracts.bundle import BACKBONE, HEAD, MANIFEST
from policy_server.engines.engine import EngineUnavailable

CACHE_VARIABLE = "ROBOALIGN_ENGINE_CACHE"
DESCRIPTION = "engine.json"
QUERY = "name,driver_version,compute_cap"


@dataclass(frozen=True)
class Target:
    """The GPU that an engine is for; `driver` is empty when it is built ahead for another one."""

    gpu: str
    driver: str
    compute_capability: str


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on; `files` maps the bundle's graph files to their SHA-256."""

    product: str
    version: str
    target: Target
    files: Mapping[str, str]

    @property
    def directory(self) -> Path:
        """Folder of the cache for this key, whether it is there or not."""
        text = json.dumps(asdict(self), sort_keys=True)
        return cache_directory() / hashlib.sha256(text.encode()).hexdigest()[:24]


def cache_directory() -> Path:
    """CACHE_VARIABLE's folder, else the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "roboalign" / "engines"


def graph_files(directory: Path) -> dict[str, str]:
    """SHA-256 of the bundle's graphs and their weight files, from its checked manifest."""
    files = json.loads((directory / MANIFEST).read_text())["files"]
    return {name: files[name] for name in sorted(files) if name.startswith((BACKBONE, HEAD))}


def installed_gpu() -> Target:
    """The first GPU of this machine, as its driver's nvidia-smi names it.

    Raises:
        EngineUnavailable: there is no NVIDIA GPU or no driver.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise EngineUnavailable("no NVIDIA driver on this machine: nvidia-smi is not installed")
    command = [program, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineUnavailable("nvidia-smi did not answer within 30 s") from error
    fields = done.stdout.partition("\n")[0].split(", ")
    if done.returncode or len(fields) != 3:
        text = (done.stderr or done.stdout).strip() or "no answer"
        raise EngineUnavailable(f"nvidia-smi names no GPU: {text}")
    return Target(*fields)


def store(key: EngineKey, engines: Mapping[str, bytes], notes: Mapping[str, object]) -> Path:
    """Write engines by graph name and what is known of them; all or nothing."""
    staging = key.directory.with_name(f"{key.directory.name}.{os.getpid()}.tmp")
    staging.mkdir(parents=True)
    for name, content in engines.items():
        (staging / engine_file(name)).write_bytes(content)
    (staging / DESCRIPTION).write_text(json.dumps(asdict(key) | dict(notes), indent=1) + "\n")
    shutil.rmtree(key.directory, ignore_errors=True)
    staging.rename(key.directory)
    return key.directory


def engine_file(graph: str) -> str:
    """Name of the engine of the graph file `graph`."""
    return f"{Path(graph).stem}.engine"
