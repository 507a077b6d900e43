"""`ros2msg` definitions for MCAP: a message's .msg text with those of all its parts.

Format: MCAP's registry of well-known schema encodings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

WIDTHS = ("8", "16", "32", "64")
PRIMITIVES = frozenset(
    [
        *("bool", "byte", "char", "string", "wstring", "float32", "float64"),
        *(f"{sign}int{width}" for sign in ("", "u") for width in WIDTHS),
    ]
)
SEPARATOR = "=" * 80
FIELD_TYPE = re.compile(r"^(?P<type>[A-Za-z]\w*(?:/\w+)*)(?:<=\d+)?(?:\[[^\]]*\])?\s+\w")


class UnknownMessage(ValueError):
    """There is no .msg file of this name; the text says where it was looked for."""


def definition(name: str, share: Callable[[str], Path]) -> str:
    """Text of `package/msg/Name` and, separated, of every message within it.

    share: a package's share directory. Raises UnknownMessage.
    """
    texts: dict[str, str] = {}
    waiting = [_short(name)]
    while waiting:
        short = waiting.pop(0)
        if short in texts:
            continue
        package, _, message = short.partition("/")
        path = share(package) / "msg" / f"{message}.msg"
        try:
            texts[short] = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UnknownMessage(f"no definition of {name}: {error}") from error
        waiting += _parts(texts[short], package)
    first, *others = texts
    parts = [f"{SEPARATOR}\nMSG: {other}\n{texts[other]}" for other in others]
    return "\n".join([texts[first], *parts])


@cache
def installed_definition(name: str) -> str:
    """`definition` from what is installed on this machine."""
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    def share(package: str) -> Path:
        try:
            return Path(get_package_share_directory(package))
        except PackageNotFoundError as error:
            raise UnknownMessage(f"no definition of {name}: {error}") from error

    return definition(name, share)


def _parts(text: str, package: str) -> list[str]:
    found = []
    for line in text.splitlines():
        match = FIELD_TYPE.match(line.split("#", 1)[0].strip())
        kind = match["type"] if match else "string"
        if kind not in PRIMITIVES:
            found.append(_short(kind) if "/" in kind else f"{package}/{kind}")
    return found


def _short(name: str) -> str:
    """`package/Name` of `package/msg/Name`."""
    return name.replace("/msg/", "/")
