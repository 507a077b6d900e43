"""Reference of configurations, node parameters and messages, from the sources; nothing is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONFIG_NAME = re.compile(r"(Config|Deadlines|Limits|Options|Arguments|Settings)$")
FIELD = re.compile(
    r"^(?P<type>[\w/<>=\[\]]+)\s+(?P<name>\w+)(?P<value>=\S+)?\s*(?:#\s*(?P<text>.*))?$"
)
FOLDERS = (
    ("Robot runtime", "ros2_ws/src/roboalign/roboalign"),
    ("Policy server", "policy_server"),
    ("Training", "training"),
    ("Evaluation", "evaluation"),
    ("Calibration", "calibration"),
    ("Teleoperation", "teleop"),
    ("Simulation", "simulation"),
)


@dataclass(frozen=True)
class Config:
    """A frozen dataclass: where it is, its docstring, and (field, type, default) of each field."""

    name: str
    path: Path
    text: str
    fields: tuple[tuple[str, str, str], ...]


def configurations(repository: Path) -> str:
    """Markdown: every configuration class with its fields and defaults."""
    lines = [
        "# Configurations",
        "",
        "Each is a frozen dataclass beside the code that it configures; a run saves the one it "
        "used next to its results. An empty default means that the field has to be given.",
    ]
    for title, folder in FOLDERS:
        found = [c for path in sorted((repository / folder).rglob("*.py")) for c in configs(path)]
        if not found:
            continue
        lines += ["", f"## {title}"]
        for config in found:
            where = config.path.relative_to(repository)
            lines += ["", f"### {config.name}", "", f"`{where}`", "", *_paragraphs(config.text), ""]
            lines += ["| field | type | default |", "| --- | --- | --- |"]
            lines += [f"| `{n}` | {_code(t)} | {_code(d)} |" for n, t, d in config.fields]
    return "\n".join([*lines, ""])


def configs(path: Path) -> Iterator[Config]:
    """Frozen dataclasses whose name says that they configure something."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef) or not CONFIG_NAME.search(node.name):
            continue
        if not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            continue
        fields = tuple(
            (
                item.target.id,
                ast.unparse(item.annotation),
                "" if item.value is None else ast.unparse(item.value),
            )
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        )
        yield Config(node.name, path, ast.get_docstring(node) or "", fields)


def nodes(repository: Path) -> str:
    """Markdown: the ROS nodes with their parameters, and the topics and services they make."""
    folder = repository / "ros2_ws/src/roboalign/roboalign"
    lines = [
        "# Nodes",
        "",
        "All are life-cycle nodes that activate themselves, and publish `/diagnostics` at 1 Hz. "
        "A name that begins with `~/` is below the node's own name.",
    ]
    for path in sorted(folder.glob("*_node.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.stem == "autostart_node":
            continue
        doc = (ast.get_docstring(tree) or "").partition("\n\n")[0]
        lines += ["", f"## {path.stem}", "", doc.replace("\n", " ")]
        parameters = _parameters(tree)
        if parameters:
            lines += ["", "| parameter | default |", "| --- | --- |"]
            lines += [f"| `{name}` | {_code(default)} |" for name, default in parameters]
        parts = [tree, *_own_modules(folder, tree)]
        interfaces = [interface for part in parts for interface in _interfaces(part)]
        if interfaces:
            lines += ["", "| | type | name |", "| --- | --- | --- |"]
            lines += [f"| {what} | `{kind}` | {_code(name)} |" for what, kind, name in interfaces]
    return "\n".join([*lines, ""])


def messages(repository: Path) -> str:
    """Markdown: every field of roboalign_msgs with its comment."""
    package = repository / "ros2_ws/src/roboalign_msgs"
    lines = [
        "# Messages",
        "",
        "The package `roboalign_msgs`. Times are ROS time, one clock for all.",
    ]
    files = sorted(f for kind in ("msg", "srv", "action") for f in package.glob(f"{kind}/*.{kind}"))
    for path in files:
        lines += ["", f"## {path.parent.name}/{path.stem}"]
        parts = path.read_text(encoding="utf-8").split("\n---\n")
        titles = {1: [""], 2: ["Request", "Response"], 3: ["Goal", "Result", "Feedback"]}[
            len(parts)
        ]
        for title, part in zip(titles, parts, strict=True):
            lines += ["", f"**{title}**"] if title else []
            lines += ["", *_message_part(part)]
    return "\n".join([*lines, ""])


def _message_part(text: str) -> list[str]:
    notes, rows = [], []
    for line in text.splitlines():
        match = FIELD.match(line)
        if line.startswith("#"):
            notes.append(line.lstrip("# "))
        elif match:
            name = match["name"] + (match["value"] or "")
            rows.append(f"| `{name}` | `{match['type']}` | {match['text'] or ''} |")
    table = ["| field | type | |", "| --- | --- | --- |", *rows] if rows else []
    return [" ".join(notes), "", *table]


def _own_modules(folder: Path, tree: ast.Module) -> list[ast.Module]:
    """What a node imports of its package, other nodes apart: it may make publishers there."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "roboalign":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("roboalign."):
            names.add(str(node.module).partition(".")[2])
    paths = [folder / f"{name}.py" for name in sorted(names) if not name.endswith("_node")]
    return [ast.parse(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def _parameters(tree: ast.AST) -> list[tuple[str, str]]:
    """Name and default: of `declare_parameter`, and of the pairs that a comprehension declares."""
    found: list[tuple[int, str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) == 2:
            called, name = ast.unparse(node.func), node.args[0]
            declares = called.endswith("declare_parameter") or called == "parameter"
            if declares and isinstance(name, ast.Constant):
                found.append((node.lineno, str(name.value), ast.unparse(node.args[1])))
        if isinstance(node, ast.DictComp) and "declare_parameter" in ast.unparse(node.value):
            for pair in _tuples(node.generators[0].iter):
                if isinstance(pair[0], ast.Constant):
                    found.append((pair[0].lineno, str(pair[0].value), ast.unparse(pair[1])))
    return [(name, default) for _, name, default in sorted(found)]


def _interfaces(tree: ast.AST) -> list[tuple[str, str, str]]:
    """Publishers, subscriptions and services whose type is written where they are made."""
    words = {
        "create_publisher": "publishes",
        "create_subscription": "subscribes",
        "create_service": "serves",
    }
    known = _names(tree)
    found: list[tuple[int, str, str, str]] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        what = words.get(ast.unparse(node.func).rpartition(".")[2])
        kind, name = ast.unparse(node.args[0]), node.args[1]
        if what and kind[0].isupper():
            texts = known.get(ast.unparse(name), [_text(name)])
            found += [(node.lineno, what, kind, text) for text in texts]
    return [(what, kind, name) for _, what, kind, name in sorted(found)]


def _text(name: ast.expr) -> str:
    """A text without its quotes; of an f-string what is between them."""
    return re.sub(r"^f?'(.*)'$", r"\1", ast.unparse(name))


def _names(tree: ast.AST) -> dict[str, list[str]]:
    """Texts that a plain name stands for: assigned to it, or looped over as the first of a pair."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = node.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found.setdefault(node.targets[0].id, []).append(text.value)
        if isinstance(node, ast.For) and isinstance(node.target, ast.Tuple):
            firsts = [pair[0] for pair in _tuples(node.iter)]
            texts = [str(first.value) for first in firsts if isinstance(first, ast.Constant)]
            found.setdefault(ast.unparse(node.target.elts[0]), []).extend(texts)
    return {name: texts for name, texts in found.items() if texts}


def _tuples(node: ast.AST) -> list[list[ast.expr]]:
    """Elements of each tuple within a literal tuple; empty for anything else."""
    inner = node.elts if isinstance(node, ast.Tuple) else []
    return [item.elts for item in inner if isinstance(item, ast.Tuple)]


def _paragraphs(text: str) -> list[str]:
    return [" ".join(block.split()) + "\n" for block in text.split("\n\n") if block.strip()]


def _code(text: str) -> str:
    """As code in a cell of a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""
