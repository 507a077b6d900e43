"""Dockerfile, compose.yaml and .ci/run name only what exists."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

STAGES_TO_BUILD = {"sim", "robot", "policy-server", "training"}


def instructions(repository: Path) -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest) with continued lines joined."""
    text = re.sub(r"\\\n", " ", (repository / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def compose(repository: Path) -> dict:
    return yaml.safe_load((repository / "compose.yaml").read_text())


def commands(repository: Path) -> list[list[str]]:
    """Every command that the containers run."""
    found = [shlex.split(rest) for name, rest in instructions(repository) if name == "RUN"]
    for name, rest in instructions(repository):
        if name in ("CMD", "ENTRYPOINT"):
            found.append(ast.literal_eval(rest))
    for service in compose(repository)["services"].values():
        if "command" in service and "build" in service:
            found.append(service["command"])
    assert len(found) > 8
    return found


def test_stages_follow_each_other(repository: Path) -> None:
    arguments = {rest.split("=")[0] for name, rest in instructions(repository) if name == "ARG"}
    stages: list[str] = []
    for name, rest in instructions(repository):
        if name == "FROM":
            origin, stage = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            variable = re.fullmatch(r"\$\{(\w+)\}", origin)
            assert variable.group(1) in arguments if variable else origin in stages, rest
            stages.append(stage)
    assert set(stages) >= STAGES_TO_BUILD


def test_copied_paths_exist(repository: Path) -> None:
    copies = [rest.split() for name, rest in instructions(repository) if name == "COPY"]
    assert len(copies) > 10
    for *sources, _target in copies:
        for source in sources:
            assert (repository / source).exists(), source
            tracked = subprocess.run(
                ["git", "check-ignore", "-q", source], cwd=repository, check=False
            )
            assert tracked.returncode == 1, f"{source} is ignored by git"


def test_scripts_and_their_extras_exist(repository: Path) -> None:
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    seen = 0
    for command in commands(repository):
        for index, word in enumerate(command):
            if word.startswith("scripts/"):
                assert (repository / word).is_file(), word
            if word == "scripts/setup.py":
                seen += 1
                rest = command[index + 1 :]
                asked = rest[: rest.index("&&")] if "&&" in rest else rest
                assert set(asked) - {"--no-ros"} <= extras.keys(), asked
    assert seen == 4


def test_modules_that_are_run_exist(repository: Path) -> None:
    seen = set()
    for command in commands(repository):
        for flag, module in pairwise(command):
            if flag == "-m":
                seen.add(module)
                specification = importlib.util.find_spec(module)
                assert specification is not None, module
                if specification.submodule_search_locations is not None:
                    assert importlib.util.find_spec(f"{module}.__main__"), f"{module} cannot run"
    assert seen == {"evaluation", "policy_server"}


def test_policy_server_knows_its_options(repository: Path) -> None:
    server = compose(repository)["services"]["policy-server"]
    options = {word for word in server["command"] if word.startswith("--")}
    assert options == {"--host", "--token-file", "--bundle"}
    answer = subprocess.run(
        [sys.executable, "-m", "policy_server", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not [option for option in options if option not in answer.stdout]
    path = re.search(r"8000(/\w+)", server["healthcheck"]["test"][-1]).group(1)
    assert f'"{path}"' in (repository / "policy_server/app.py").read_text()


def test_launch_file_knows_its_arguments(repository: Path) -> None:
    command = compose(repository)["services"]["robot"]["command"]
    assert command[:2] == ["ros2", "launch"]
    launch_file = repository / "ros2_ws/src" / command[2] / "launch" / command[3]
    assert launch_file.is_file()
    declaration = launch_file.parent.parent / "roboalign/graph.py"
    source = launch_file.read_text() + declaration.read_text()
    for argument in command[4:]:
        assert f'"{argument.partition(":=")[0]}"' in source


def test_services_name_targets_volumes_and_secrets_that_exist(repository: Path) -> None:
    document = compose(repository)
    stages = {rest.split(" AS ")[1] for name, rest in instructions(repository) if name == "FROM"}
    profiles = set()
    for service in document["services"].values():
        profiles |= set(service["profiles"])
        if "build" in service:
            assert service["build"]["target"] in stages
            assert (repository / service["build"]["context"] / "Dockerfile").is_file()
        else:
            assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"]), service["image"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (repository / source).is_dir() and volume.endswith(":ro"), volume
            else:
                known = source in ("/", "/dev") or source in document["volumes"]
                assert known, source
        assert set(service.get("secrets", [])) <= document["secrets"].keys()
    assert profiles == {"sim", "robot", "server", "training", "monitoring"}


def test_gpu_services_reserve_one_and_the_others_none(repository: Path) -> None:
    for name, service in compose(repository)["services"].items():
        devices = (
            service.get("deploy", {})
            .get("resources", {})
            .get("reservations", {})
            .get("devices", [])
        )
        wanted = [["gpu"]] if name in ("policy-server", "training") else []
        assert [device["capabilities"] for device in devices] == wanted, name


def test_nothing_listens_beyond_this_computer_unless_told(repository: Path) -> None:
    published = [
        port
        for service in compose(repository)["services"].values()
        for port in service.get("ports", [])
    ]
    assert published
    assert all(port.startswith("${POLICY_BIND:-127.0.0.1}:") for port in published)


def test_secrets_are_files_that_git_never_sees(repository: Path) -> None:
    for secret in compose(repository)["secrets"].values():
        assert set(secret) == {"file"}
        ignored = subprocess.run(
            ["git", "check-ignore", "-q", secret["file"]], cwd=repository, check=False
        )
        assert ignored.returncode == 0
    assert "secrets" in (repository / ".dockerignore").read_text().split()


def test_ci_calls_targets_that_exist(repository: Path) -> None:
    script = repository / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    called = re.findall(r"^make (\w+)(.*)$", script.read_text(), re.MULTILINE)
    assert [target for target, _ in called] == ["demo", "test"]
    makefile = (repository / "Makefile").read_text()
    for target, arguments in called:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        for variable in re.findall(r"(\w+)=", arguments):
            assert f"$({variable})" in makefile or f"if $({variable})" in makefile


@pytest.mark.parametrize("name", [".ci/run", "scripts/with_ros.sh"])
def test_shell_scripts_are_readable_by_bash(repository: Path, name: str) -> None:
    checked = subprocess.run(
        ["bash", "-n", str(Path(repository, name))], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
