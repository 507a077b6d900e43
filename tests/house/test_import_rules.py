"""The arrows between the parts: the rules of pyproject.toml refuse what they should refuse."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = [
    "calibration", "contracts", "evaluation", "policy_server", "roboalign", "simulation", "teleop",
    "training",
]  # fmt: skip


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    # Without the paths of this repository, so that only the skeleton is seen.
    command = [sys.executable, "-c", "import sys; sys.path[:] = [p for p in sys.path if p not in"]
    hidden = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[2])]
    command[2] += f" {[*hidden, hidden[0] + '/ros2_ws/src/roboalign']!r}]; "
    command[2] += f"sys.argv = [{str(program)!r}, '--no-cache']; import runpy; "
    command[2] += f"runpy.run_path({str(program)!r}, run_name='__main__')"
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def skeleton(tmp_path: Path, repository: Path) -> Path:
    """The parts without their code, under the rules of this repository."""
    shutil.copy(repository / "pyproject.toml", tmp_path)
    for part in PARTS:
        (tmp_path / part).mkdir()
        (tmp_path / part / "__init__.py").touch()
    for module in ("policy_server/client.py", "policy_server/policy.py", "teleop/dataset.py"):
        (tmp_path / module).touch()
    (tmp_path / "teleop/recorder.py").touch()
    return tmp_path


def test_allowed_imports_pass(skeleton: Path) -> None:
    for part in PARTS[:1] + PARTS[2:]:
        (skeleton / part / "allowed.py").write_text("import contracts\n")
    for part in ("evaluation", "roboalign"):
        (skeleton / part / "client_use.py").write_text("import policy_server.client\n")
    for part in ("training", "evaluation", "teleop", "calibration", "roboalign"):
        (skeleton / part / "simulation_use.py").write_text("import simulation\n")
    (skeleton / "training/demonstrations.py").write_text("from teleop import dataset\n")
    result = lint(skeleton)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "8 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("contracts", "simulation"),
        ("simulation", "policy_server"),
        ("policy_server", "simulation"),
        ("policy_server", "torch"),
        ("policy_server", "transformers"),
        ("calibration", "policy_server.client"),
        ("simulation", "calibration"),
        ("teleop", "policy_server.client"),
        ("evaluation", "training"),
        ("evaluation", "policy_server.policy"),
        ("evaluation", "roboalign"),
        ("training", "evaluation"),
        ("training", "teleop.recorder"),
        ("roboalign", "evaluation"),
        ("roboalign", "policy_server.policy"),
    ],
)
def test_forbidden_imports_are_refused(skeleton: Path, importer: str, imported: str) -> None:
    (skeleton / importer / "trespasser.py").write_text(f"import {imported}\n")
    result = lint(skeleton)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "trespasser" in result.stdout


def imported_roots(source: str) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


def test_contracts_needs_only_numpy_and_the_standard_library(repository: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"contracts", "numpy"}
    files = sorted((repository / "contracts").rglob("*.py"))
    assert len(files) > 5
    foreign = {path.name: imported_roots(path.read_text()) - allowed for path in files}
    # openpi's protocol is msgpack, and the encoding is the one thing here that speaks to others.
    foreign["wire.py"].discard("msgpack")
    assert not {name: names for name, names in foreign.items() if names}


def test_imported_roots_sees_both_forms() -> None:
    assert imported_roots("import a.b\nfrom c.d import e\nfrom . import f") == {"a", "c"}
