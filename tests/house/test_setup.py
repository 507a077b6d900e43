"""The setup: what it refuses, what it repairs, and what it does not do twice."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import other_pythons
import ros_workspace
import setup as setup_entry
import setup_steps
import system_packages
import virtual_environment
from progress import SetupError, run_logged


def pyproject(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in kept)
    return dict(line.split("==") for line in kept)


def closure(names: list[str]) -> set[str]:
    """These requirements and everything they bring, as far as it is installed here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need)
    return found


def test_every_direct_dependency_is_pinned(repository: Path) -> None:
    pinned = pins(repository)
    for extra, names in pyproject(repository)["project"]["optional-dependencies"].items():
        for requirement in map(Requirement, names):
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement.name} of [{extra}] has no pin"
            assert requirement.specifier.contains(version), requirement


def test_the_demo_brings_neither_torch_nor_transformers(repository: Path) -> None:
    demo = [*setup_steps.DEMO_EXTRAS, "ros-wheels"]
    brought = closure(virtual_environment.requirements_of(repository, demo))
    assert {"onnxruntime", "mujoco", "ros-rclpy", "numpy"} <= brought
    assert not {"torch", "transformers", "trl"} & brought
    assert "torch" in closure(virtual_environment.requirements_of(repository, ["training"]))


def test_everything_the_demo_brings_is_pinned(repository: Path) -> None:
    demo = [*setup_steps.DEMO_EXTRAS, "ros-wheels"]
    brought = closure(virtual_environment.requirements_of(repository, demo))
    assert not brought - pins(repository).keys()


def test_unknown_and_contradicting_extras_are_refused(repository: Path) -> None:
    with pytest.raises(SetupError, match="no extra sims"):
        virtual_environment.requirements_of(repository, ["sims"])
    with pytest.raises(SetupError, match="exclude each other"):
        virtual_environment.requirements_of(repository, ["server", "server-gpu"])


@pytest.mark.parametrize("version", [(3, 10), (3, 9), (3, 99)])
def test_wrong_python_gets_one_clear_message(
    version: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    monkeypatch.setattr(other_pythons, "find", lambda oldest, newest: None)
    assert setup_entry.main([]) == 2
    said = capsys.readouterr().err
    assert "needs Python 3.11" in said
    assert "PYTHON=python3.12 make setup" in said


def test_another_python_is_found_by_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert other_pythons.find((3, 11), (3, 13)) is None
    real = tmp_path / "python3.11"
    real.write_text("#!/bin/sh\nexit 0\n")
    real.chmod(0o755)
    assert other_pythons.find((3, 11), (3, 13)) == "python3.11"


def test_missing_system_packages_without_rights_give_the_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_packages, "apt_prefix", lambda: None)
    needs = [
        system_packages.Requirement("a", "package-a", lambda: False),
        system_packages.Requirement("b", "package-b", lambda: True),
        system_packages.Requirement("c", "package-c", lambda: False),
    ]
    with pytest.raises(SetupError, match="sudo apt-get install -y package-a package-c"):
        system_packages.ensure(tmp_path, needs)


def test_a_library_is_missed_only_when_it_is_missing() -> None:
    assert system_packages.loads("libc.so.6")()
    assert not system_packages.loads("libnothing_of_this_name.so.1")()


def test_machines_without_ros_or_rendering_need_less() -> None:
    server = system_packages.requirements(["server-gpu"], with_ros=False)
    assert not {"cmake", "libosmesa6"} & {each.package for each in server}
    demo = system_packages.requirements(setup_steps.DEMO_EXTRAS, with_ros=True)
    assert {"cmake", "g++", "libosmesa6", "libusb-1.0-0"} <= {each.package for each in demo}


def test_cmake_files_of_the_wheels_are_repaired_once(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(sys.executable)
    folder = venv / "share/some_msgs/cmake"
    folder.mkdir(parents=True)
    export = folder / "export.cmake"
    export.write_text(f"{ros_workspace.WHEEL_BUILD_PYTHON}/include/python{ros_workspace.VERSION};")
    assert ros_workspace.repair_wheels(venv) == 1
    assert "/opt/python" not in export.read_text()
    assert Path(export.read_text().rstrip(";")).is_dir()
    assert ros_workspace.repair_wheels(venv) == 0


def test_no_wheel_file_names_the_python_it_was_built_with() -> None:
    exports = list(Path(sys.prefix, "share").glob("*/cmake/*.cmake"))
    if not exports:
        pytest.skip("ROS does not come from wheels here")
    assert not [path for path in exports if "/opt/python/" in path.read_text()]


def test_setup_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []
    monkeypatch.setattr(virtual_environment, "works", lambda venv: venv.exists())
    monkeypatch.setattr(
        virtual_environment, "ensure", lambda venv, **_: (venv.mkdir(exist_ok=True), venv)[1]
    )
    monkeypatch.setattr(virtual_environment, "write_paths", lambda *_: done.append("paths"))
    monkeypatch.setattr(virtual_environment, "install", lambda *_: done.append("packages"))
    monkeypatch.setattr(system_packages, "ensure", lambda *_: None)
    monkeypatch.setattr(setup_steps, "build_workspace", lambda *_: done.append("workspace"))
    venv = tmp_path / "venv"

    setup_steps.set_up(venv, ["sim"])
    assert done == ["paths", "packages", "workspace"]
    setup_steps.set_up(venv, ["sim"])
    assert done == ["paths", "packages", "workspace"]
    assert "nothing to do" in capsys.readouterr().out
    setup_steps.set_up(venv, ["dev"])  # adds to what is there
    assert {"sim", "dev"} <= set(json.loads((venv / "setup_stamp.json").read_text())["extras"])
    setup_steps.set_up(venv, ["sim"])  # a subset of it
    assert done.count("packages") == 2

    monkeypatch.setattr(setup_steps, "workspace_inputs", setup_steps.package_inputs)
    setup_steps.set_up(venv, ["sim"])  # other interfaces: only the workspace is built again
    assert done.count("packages") == 2
    assert done.count("workspace") == 3


def test_an_interrupted_setup_leaves_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(system_packages, "ensure", interrupt)
    assert setup_steps.run(["sim", "--venv", str(tmp_path / "venv")]) == 130
    assert virtual_environment.read_stamp(tmp_path / "venv") == {}


def test_a_failing_command_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="the reason"):
        run_logged(["/bin/sh", "-c", "echo the reason; exit 3"], tmp_path / "command.log")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo", "TRIALS=3", "SHORT=1"], "-m evaluation demo --trials 3 --short"),
        (["demo"], "-m evaluation demo --trials 1"),
        (["test"], '-m pytest -m "not manual"'),
        (["bench"], "-m simulation.bench"),
        (["setup", "PYTHON=python9"], "python9 scripts/setup.py --this-python sim robot server"),
    ],
)
def test_make_targets(repository: Path, arguments: list[str], expected: str) -> None:
    said = subprocess.run(
        ["make", "-n", *arguments], cwd=repository, capture_output=True, text=True, check=True
    )
    assert any(line.strip().endswith(expected) for line in said.stdout.splitlines()), said.stdout


def test_make_alone_explains_every_target(repository: Path) -> None:
    said = subprocess.run(["make"], cwd=repository, capture_output=True, text=True, check=True)
    for target in ("setup", "demo", "test", "bench", "lint", "clean"):
        assert f"make {target} " in said.stdout


def test_logs_of_the_steps_before_do_not_pass_for_something_else(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    logs = venv / "setup_log"
    logs.mkdir(parents=True)
    (logs / "apt-get_install.log").write_text("as apt leaves it on a fresh machine\n")
    assert virtual_environment.ensure(venv, system_site_packages=False) == logs
    assert virtual_environment.works(venv)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine\n")
    with pytest.raises(SetupError, match="no virtual environment"):
        virtual_environment.ensure(tmp_path, system_site_packages=False)
    assert (tmp_path / "notes.txt").read_text() == "mine\n"
