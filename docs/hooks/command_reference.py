"""Reference of all commands, from what they themselves print."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PARSERS = ("ArgumentParser(", "parse_args(")
WIDTH = "88"
TIMEOUT_S = 600.0
ROOTS = {"roboalign": "ros2_ws/src/roboalign"}
"""Folder above a package, where it is not the repository itself."""


def commands(repository: Path, packages: Sequence[str]) -> list[str]:
    """Modules of these packages that are run with `python -m` and take options."""
    found = []
    for package in packages:
        root = repository / ROOTS.get(package, "")
        for path in sorted((root / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "__main__" in text and any(word in text for word in PARSERS):
                words = ".".join(path.relative_to(root).with_suffix("").parts)
                found.append(words.removesuffix(".__main__"))
    return found


def page(repository: Path, packages: Sequence[str]) -> str:
    """Markdown of the whole reference. Raises RuntimeError: a command's help does not work."""
    modules = commands(repository, packages)
    lines = [
        "# Commands",
        "",
        "Every command says this itself with `--help`. In the repository they are run as "
        "`.venv/bin/python -m ...`.",
    ]
    package = ""
    for module, text in _ask(repository, modules):
        if module.partition(".")[0] != package:
            package = module.partition(".")[0]
            lines += ["", f"## {package}"]
        lines += ["", f"### `python -m {module}`", "", "```text", text.rstrip(), "```"]
    return "\n".join([*lines, ""])


def summary(path: Path) -> str:
    """First paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0]


def _ask(repository: Path, modules: Sequence[str]) -> list[tuple[str, str]]:
    script = Path(__file__).with_name("command_help.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *modules],
        cwd=repository,
        env={**os.environ, "COLUMNS": WIDTH, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
        raise RuntimeError(f"reference of the commands: {last[0]}")
    return [(module, text) for module, text in json.loads(done.stdout.splitlines()[-1])]
