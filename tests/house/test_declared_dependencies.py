"""What the code imports is declared in pyproject.toml, for the machine that runs it."""

import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_import_rules import PARTS, imported_roots

OWN = {*PARTS, "roboalign_msgs"}
FROM_A_ROS_INSTALLATION = {"launch", "launch_ros", "tf2_msgs"}  # exist on no package index
MEASURED_AGAINST = {"openpi_client"}  # by the server's bench; installed without its dependencies
EXTRAS = {
    "contracts": ["server"],
    "simulation": ["sim", "robot"],
    "policy_server": ["server", "server-gpu"],
    "evaluation": ["sim", "robot", "server", "ros-wheels"],
    "calibration": ["sim", "robot"],
    "teleop": ["sim", "robot", "ros-wheels"],
    "training": ["training", "sim"],
    "ros2_ws/src/roboalign": ["sim", "robot", "server", "ros-wheels"],
}


def declared(repository: Path, extras: list[str]) -> set[str]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    names = list(project["dependencies"])
    for extra in extras:
        names += project["optional-dependencies"][extra]
    found = {canonicalize_name(Requirement(name).name) for name in names}
    # The wheel of a ROS package is declared by its distribution's name: ros-jazzy-X brings ros-X.
    return found | {name.replace("ros-jazzy-", "ros-") for name in found}


def undeclared(sources: list[Path], allowed: set[str]) -> dict[str, set[str]]:
    """Imported packages of each file that no allowed distribution provides."""
    providers = packages_distributions()
    known = set(sys.stdlib_module_names) | OWN | FROM_A_ROS_INSTALLATION | MEASURED_AGAINST
    missing = {}
    for path in sources:
        foreign = imported_roots(path.read_text(encoding="utf-8")) - known
        lacking = {
            root
            for root in foreign
            if not {canonicalize_name(name) for name in providers.get(root, [root])} & allowed
        }
        if lacking:
            missing[str(path)] = lacking
    return missing


@pytest.mark.parametrize("part", EXTRAS)
def test_imports_are_declared(repository: Path, part: str) -> None:
    sources = sorted((repository / part).rglob("*.py"))
    assert sources
    assert not undeclared(sources, declared(repository, EXTRAS[part]))


def test_an_undeclared_import_is_seen(tmp_path: Path, repository: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("import numpy\nimport torch\nimport not_a_package\n")
    found = undeclared([source], declared(repository, ["server"]))
    assert found == {str(source): {"torch", "not_a_package"}}
