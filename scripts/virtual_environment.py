"""The virtual environment: made, filled from pyproject.toml, and told where this repository is."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from progress import SetupError, run_logged

# Named so that it is read first: colcon's easy-install.pth leads into its build folder.
PATHS_FILE = "_roboalign_stack.pth"
INSTALLED_WITHOUT_DEPENDENCIES = {"dev": ["openpi-client"]}  # it asks for numpy<2 without need
EXCLUSIVE_EXTRAS = ({"server", "server-gpu"}, {"training", "server-gpu"})


def requirements_of(repository: Path, extras: list[str]) -> list[str]:
    """The direct dependencies of these extras, from pyproject.toml."""
    with (repository / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    known = project["optional-dependencies"]
    unknown = [extra for extra in extras if extra not in known]
    if unknown:
        raise SetupError(f"no extra {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    for pair in EXCLUSIVE_EXTRAS:
        if pair <= set(extras):
            raise SetupError(
                f"{' and '.join(sorted(pair))} exclude each other in one environment "
                "(onnxruntime and onnxruntime-gpu are one package twice). Use another folder."
            )
    wanted = set(project["dependencies"]).union(*(known[extra] for extra in extras))
    return sorted(wanted)


def works(venv: Path) -> bool:
    """Whether this environment's Python and pip start and match the Python that runs the setup."""
    ask = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [str(venv / "bin/python"), "-c", ask], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    if answer.returncode != 0:
        return False
    found, wanted = answer.stdout.strip(), "{}.{}".format(*sys.version_info[:2])
    if found != wanted:
        raise SetupError(
            f"{venv} was made with Python {found}, the setup runs with {wanted}. "
            f"Use PYTHON=python{found}, or start afresh with `make clean`."
        )
    return True


def ensure(venv: Path, system_site_packages: bool, logs_name: str = "setup_log") -> Path:
    """Make the environment if there is none that works; return the folder for logs."""
    if not works(venv):
        if is_something_else(venv, logs_name):
            raise SetupError(f"{venv} exists and is no virtual environment: move it away")
        command = [sys.executable, "-m", "venv", str(venv)]
        if system_site_packages:
            command.append("--system-site-packages")
        run_logged(command, venv / logs_name / "venv.log")
    return venv / logs_name


def is_something_else(venv: Path, logs_name: str) -> bool:
    """Whether this path holds anything but an environment or the logs of the steps before it.

    On a fresh machine apt runs first and leaves its log where the environment will be.
    """
    if not venv.exists() or (venv / "pyvenv.cfg").exists():
        return False
    return not venv.is_dir() or any(entry.name != logs_name for entry in venv.iterdir())


def install(venv: Path, repository: Path, extras: list[str], logs: Path) -> None:
    """Install the extras' dependencies at the versions of constraints.txt."""
    pip = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install"]
    # Python compiles what it imports; compiling everything here would take longer than the rest.
    pip += ["--no-compile", "--no-input", "--progress-bar", "off"]
    pip += ["-c", str(repository / "constraints.txt")]
    run_logged([*pip, *requirements_of(repository, extras)], logs / "pip.log")
    for extra, names in INSTALLED_WITHOUT_DEPENDENCIES.items():
        if extra in extras:
            run_logged([*pip, "--no-deps", *names], logs / f"pip_{extra}.log")


def write_paths(venv: Path, repository: Path) -> None:
    """Make the repository importable from anywhere, and name the DDS profile to every process."""
    package = repository / "ros2_ws/src/roboalign"
    profile = package / "config/fastdds.xml"
    lines = ['import os, sys; os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)']
    # Jazzy's Fast DDS reads the first name, later ones the second.
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        lines.append(f'import os; os.environ.setdefault("{variable}", {str(profile)!r})')
    lines += [str(repository), str(package)]
    (site_packages(venv) / PATHS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def site_packages(venv: Path) -> Path:
    return venv / "lib/python{}.{}/site-packages".format(*sys.version_info[:2])


def read_stamp(venv: Path) -> dict:
    """What the last complete setup left behind; empty where there is nothing to trust."""
    try:
        stamp = json.loads((venv / "setup_stamp.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, stamp: dict) -> None:
    """Whole or not at all: an interrupted setup must not look complete."""
    unfinished = venv / "setup_stamp.json.new"
    unfinished.write_text(json.dumps(stamp, indent=2, sort_keys=True), encoding="utf-8")
    os.replace(unfinished, venv / "setup_stamp.json")
