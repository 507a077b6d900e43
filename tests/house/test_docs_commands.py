"""Commands and paths in the documentation: they exist, and the quick ones are run.

A block of ```sh is run here as it stands. ```{.sh .long} takes minutes or waits for Ctrl-C, and
```{.sh .hardware} needs a robot, a GPU, root or another machine: of these, programs, modules,
options, targets and arguments are checked.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from roboalign.graph import GraphArguments

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"^( *)```(sh|\{\.sh \.(?:long|hardware)\})\n(.*?)^\1```", re.MULTILINE | re.DOTALL
)
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)+/?)`")
PACKAGES = {"roboalign": "ros2_ws/src/roboalign/roboalign"}
SYSTEM = {
    "addgroup", "apt", "chmod", "chronyc", "cp", "curl", "git", "logrotate", "mkdir", "openssl",
    "pro", "ros2", "rsync", "ssh", "systemctl", "usermod",
}  # fmt: skip
OF_THE_LAB = ("runs/", "secrets/", "roboalign/")
"""Below these, paths are the reader's own, or relative to a package that the text names."""


def pages() -> list[Path]:
    found = sorted((REPOSITORY / "docs").rglob("*.md"))
    assert len(found) > 15
    return found


def blocks() -> list[tuple[str, str, str]]:
    """Page, kind (sh, long, hardware) and text of each block."""
    found = []
    for page in pages():
        for indent, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            plain = "\n".join(line.removeprefix(indent) for line in text.splitlines())
            found.append((page.stem, kind.rpartition(".")[2].strip("}"), plain))
    assert len(found) > 30
    return found


def commands(text: str) -> list[list[str]]:
    """Words of each command, without sudo, without variables in front and without redirection."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and (words[0] == "sudo" or re.fullmatch(r"\w+=.*", words[0])):
            words.pop(0)
        if words:
            found.append(words[: words.index(">")] if ">" in words else words)
    return found


def all_commands() -> list[tuple[str, list[str]]]:
    return [(page, words) for page, _, text in blocks() for words in commands(text)]


def of_program(name: str) -> list[list[str]]:
    found = [words for _, words in all_commands() if words[0] == name]
    assert found, name
    return found


def sources(module: str) -> str:
    """Text of the module's package: options may be declared beside it."""
    package = module.partition(".")[0]
    folder = REPOSITORY / PACKAGES.get(package, package)
    assert folder.is_dir(), module
    return "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))


def test_every_command_is_of_a_known_program() -> None:
    known = SYSTEM | {"make", "docker", ".venv/bin/python"}
    assert not [(page, words) for page, words in all_commands() if words[0] not in known]


def test_modules_and_their_options_exist() -> None:
    for words in of_program(".venv/bin/python"):
        assert words[1] == "-m", words
        module = words[2]
        parts = module.split(".")
        folder = REPOSITORY / PACKAGES.get(parts[0], parts[0])
        file = folder.joinpath(*parts[1:])
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), module
        text = sources(module)
        for option in words[3:]:
            if option.startswith("--") and option != "--ros-args":
                assert f'"{option}"' in text, (module, option)


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for words in of_program("make"):
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words


def test_launch_arguments_exist() -> None:
    known = {field.name for field in fields(GraphArguments)}
    launches = [w for w in of_program("ros2") if w[1] == "launch"]
    launches += [w for w in of_program(".venv/bin/python") if w[2] == "roboalign.supervisor"]
    given = [word.partition(":=")[0] for words in launches for word in words if ":=" in word]
    assert given and set(given) <= known


def test_compose_profiles_exist() -> None:
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"].values()
    known = {profile for service in services for profile in service["profiles"]}
    used = {
        profile
        for words in of_program("docker")
        for option, profile in pairwise(words)
        if option == "--profile"
    }
    assert used and used <= known


def test_routes_that_curl_asks_exist() -> None:
    app = (REPOSITORY / "policy_server/app.py").read_text()
    for words in of_program("curl"):
        route = re.search(r"https?://[^/]+(/\w*)", words[-1]).group(1)
        assert f'"{route}"' in app, route


def test_services_and_actions_that_ros2_calls_exist() -> None:
    package = REPOSITORY / "ros2_ws/src/roboalign/roboalign"
    source = "\n".join(path.read_text() for path in package.glob("*.py"))
    called = [w for w in of_program("ros2") if w[1] in ("service", "action", "topic")]
    assert len(called) > 3
    for words in called:
        name = next(word for word in words if word.startswith("/")).rpartition("/")[2]
        assert f'/{name}"' in source or f'"{name}"' in source, words


def test_paths_in_the_text_exist() -> None:
    missing = [
        (page.stem, path)
        for page in pages()
        for path in PATH.findall(page.read_text(encoding="utf-8"))
        if not path.startswith(OF_THE_LAB) and Path(path).suffix
        if not (REPOSITORY / path).exists()
    ]
    assert not missing


def test_the_paper_map_names_only_files_that_exist() -> None:
    text = (REPOSITORY / "docs/explanation/paper-to-code.md").read_text()
    named = re.findall(r"`([\w/]+\.(?:py|md))`", text)
    assert len(named) > 30
    assert not [name for name in named if not (REPOSITORY / name).is_file()]


@pytest.mark.parametrize(
    "text",
    sorted({text for _, kind, text in blocks() if kind == "sh"}),
    ids=lambda text: text[-40:],
)
def test_quick_commands_run(text: str) -> None:
    done = subprocess.run(
        ["bash", "-euc", text], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    # 1 is an answer too: this machine may lack what is checked.
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout
